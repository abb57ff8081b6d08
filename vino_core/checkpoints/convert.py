"""From the official checkpoint to the files that are used here, streaming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from re import fullmatch

import torch
from torch import Tensor

from ..errors import InputError
from ..systems.base import System
from .files import encoder_metadata, model_metadata, tokens_metadata
from .header import TensorInfo, main_dtype, short_name
from .layouts import VECTORS, Piece, by_native, encoder_pieces, model_pieces, stacked_shape, token_pieces, unused_shapes
from .official import Dimensions, open_official
from .sources import Checkpoint
from .writing import Plan


def _cast(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    cast = rows.to(dtype)
    if dtype == torch.float16 and bool(cast.isinf().any()) and not bool(rows.isinf().any()):
        raise InputError(f"{name}: {rows.abs().max():.4g} is beyond what fp16 can hold. Convert with --dtype bf16.")
    return cast


class _Source:
    """Tensors of one file to be: what they are, and the parts that make them up."""

    def __init__(self, checkpoint: Checkpoint, pieces: Sequence[Piece], dtype: torch.dtype | None) -> None:
        self._checkpoint = checkpoint
        self._groups = by_native(piece for piece in pieces if piece.official in checkpoint.tensors)
        self.tensors = {name: self._info(name, group, dtype) for name, group in self._groups.items()}

    def _info(self, name: str, pieces: Sequence[Piece], dtype: torch.dtype | None) -> TensorInfo:
        stored = (self._checkpoint.tensors[piece.official].dtype for piece in pieces)
        shape = stacked_shape(pieces)
        return TensorInfo(dtype or reduce(torch.promote_types, stored), shape[1:] if name in VECTORS else shape)

    def parts(self, name: str) -> Iterator[Tensor]:
        dtype = self.tensors[name].dtype
        for piece in self._groups[name]:
            for rows in self._checkpoint.parts(piece.official, piece.official_start, piece.rows):
                yield _cast(piece.official, rows, dtype)

    def plan(self, path: Path, metadata: Mapping[str, str]) -> Plan:
        return Plan(path, self.tensors, self.parts, metadata)


def plan_conversion(
    paths: Sequence[str | Path],
    out: str | Path,
    system: System | None = None,
    *,
    dtype: torch.dtype | None = None,
    dimensions: Dimensions | None = None,
    ignore: Sequence[str] = (),
    name: str | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[Plan, ...]:
    """The files that an official checkpoint makes in the folder `out`, to be written by `write_safetensors`, which
    holds a part of one tensor at a time: the model, the learnable tokens of a variant that has them, and the text
    encoder where the checkpoint holds it and it is not the published one anyway (VINO's is: checked, not copied).

    `system` None: the one whose names the checkpoint has. `dtype` None keeps every tensor as stored. Files are called
    `<system>_<name>.safetensors`, `<system>_tokens[_<name>].safetensors` and as `Published.text_encoder` says; `name`
    None stands for the dtype. `tokenizer`: folder whose config.json and tokenizer.json go into the text encoder's
    metadata, so that it stands alone. Raises InputError when the checkpoint is not what was published.
    """
    if name is not None and not fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"--name '{name}': use letters, digits, '.', '_' and '-' only.")
    checkpoint, system, config, count, vlm = open_official(paths, system, dimensions, ignore)
    published, folder = system.published, Path(out)
    suffix = f"_{name}" if name else ""
    metadata = model_metadata(system.name, config, count if system.with_tokens else None)
    if published.pooled is not None:
        pooled = checkpoint.shapes[next(iter(unused_shapes(config, 0)))][1]
        dropped = {unused: list(shape) for unused, shape in unused_shapes(config, pooled).items()}
        metadata["dropped"] = json.dumps(dropped)
    model = _Source(checkpoint, model_pieces(config, published.connectors), dtype)
    file = folder / f"{system.name}_{name or short_name(main_dtype(model.tensors))}.safetensors"
    plans = [model.plan(file, metadata)]
    if count:
        tokens = _Source(checkpoint, token_pieces(published, count, config.connectors[0].in_features), dtype)
        file = folder / f"{system.name}_tokens{suffix}.safetensors"
        plans.append(tokens.plan(file, tokens_metadata(system.name)))
    encoder = vlm if published.text_encoder is not None else {}
    if encoder:
        file = folder / f"{published.text_encoder}{suffix}.safetensors"
        pieces = encoder_pieces(published, encoder)
        plans.append(_Source(checkpoint, pieces, dtype).plan(file, encoder_metadata(tokenizer)))
    elif tokenizer is not None:
        raise InputError("--tokenizer: no text encoder is written, so there is nowhere to put it. Leave it out.")
    return tuple(plans)
