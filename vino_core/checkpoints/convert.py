"""From the official checkpoint to a model file and a tokens file, streaming."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from re import fullmatch
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import ConnectorConfig, MMDiTConfig
from ..errors import InputError
from ..systems.base import System
from .files import model_metadata, tokens_metadata
from .header import TensorInfo, main_dtype, short_name
from .layouts import (
    ENCODER,
    TOKENS,
    TRANSFORMER,
    VLM,
    Piece,
    Shape,
    by_native,
    model_pieces,
    official_shapes,
    stacked_shape,
    unused_shapes,
)
from .manifest import compare, guess_family, official_manifest
from .sources import Checkpoint
from .writing import Plan

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Dimensions(NamedTuple):
    """Dimensions of a checkpoint other than the published one."""

    config: MMDiTConfig
    """Without connectors: their widths follow from it and from the learnable tokens."""
    pooled: int
    """Width of the unused pooled text."""


def read_dimensions(path: str | Path) -> Dimensions:
    """Dimensions from the `config.json` of a diffusers HunyuanVideo transformer.

    Raises InputError when the file is missing, not JSON, or lacks a field.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        heads = values["num_attention_heads"]
        config = MMDiTConfig(
            in_channels=values["in_channels"],
            out_channels=values["out_channels"],
            hidden_size=heads * values["attention_head_dim"],
            num_heads=heads,
            depth=values["num_layers"],
            depth_single=values["num_single_layers"],
            depth_refiner=values["num_refiner_layers"],
            mlp_ratio=values["mlp_ratio"],
            patch_size=(values["patch_size_t"], values["patch_size"], values["patch_size"]),
            text_dim=values["text_embed_dim"],
            guidance_embed=values["guidance_embeds"],
            rope_theta=values["rope_theta"],
            rope_axes=tuple(values["rope_axes_dim"]),
        )
        return Dimensions(config, values["pooled_projection_dim"])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Name the transformer's config.json.") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a transformer's config.json ({error!r}).") from error


def _with_connectors(config: MMDiTConfig, system: System, width: int) -> MMDiTConfig:
    """`config` with the system's connectors, fitted to it and to a text encoder `width` wide."""
    outputs = {system.text_connector: config.text_dim}
    if system.boundary_connector is not None:
        outputs[system.boundary_connector] = config.hidden_size
    connectors = tuple(
        ConnectorConfig(connector.name, width, outputs[connector.name], connector.gelu)
        for connector in system.mmdit.connectors
    )
    return MMDiTConfig(**{**vars(config), "connectors": connectors})


def _expected(
    found: Mapping[str, Shape], system: System, dimensions: Dimensions | None
) -> tuple[MMDiTConfig, dict[str, Shape]]:
    if dimensions is None:
        return system.mmdit, dict(official_manifest(system.name))
    fallback = (system.learnable_tokens, system.connector(system.text_connector).in_features)
    tokens = found.get(ENCODER + TOKENS, fallback)
    config = _with_connectors(dimensions.config, system, tokens[-1])
    vlm = {name: shape for name, shape in found.items() if name.startswith(VLM)}
    return config, {**official_shapes(config, tokens, dimensions.pooled), **vlm}


def check_official(
    checkpoint: Checkpoint, system: System, dimensions: Dimensions | None = None, ignore: Sequence[str] = ()
) -> MMDiTConfig:
    """Compare names, shapes and dtypes with the published manifest, or with `dimensions`, and return the config.

    `ignore`: patterns (`ema.*`) of names that are left out. Raises InputError that lists every difference.
    """
    found = {
        name: shape
        for name, shape in checkpoint.shapes.items()
        if not any(fnmatchcase(name, pattern) for pattern in ignore)
    }
    if not any(name.startswith((TRANSFORMER, ENCODER)) for name in found):
        seems = guess_family(found)
        raise InputError(
            f"{checkpoint.label}: not an official {system.name.upper()} checkpoint: no name begins with "
            f"'{TRANSFORMER}' or '{ENCODER}'; it seems to be {seems or 'something else'}. Name the published vino.ckpt."
        )
    config, expected = _expected(found, system, dimensions)
    mismatch = compare(found, expected)
    if mismatch:
        against = "the published checkpoint" if dimensions is None else "the given config"
        raise InputError(
            f"{checkpoint.label}: {len(found)} tensors do not match {against} ({len(expected)} tensors). "
            "Nothing was written. Download the checkpoint again; if it is of another size, give its config.json with "
            f"--config; leave out extra names with --ignore.\n{mismatch.describe()}"
        )
    wrong = [
        f"{name} ({info.dtype})"
        for name, info in checkpoint.tensors.items()
        if name in expected and not name.startswith(VLM) and info.dtype not in FLOATS
    ]
    if wrong:
        raise InputError(
            f"{checkpoint.label}: {len(wrong)} tensors are not bf16, fp16 or fp32, and without their scales cannot be "
            f"restored: {', '.join(wrong[:5])}. Convert the published checkpoint."
        )
    return config


def _planned(checkpoint: Checkpoint, pieces: Sequence[Piece], dtype: torch.dtype | None) -> TensorInfo:
    stored = (checkpoint.tensors[piece.official].dtype for piece in pieces)
    return TensorInfo(dtype or reduce(torch.promote_types, stored), stacked_shape(pieces))


def _cast(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    cast = rows.to(dtype)
    if dtype == torch.float16 and bool(cast.isinf().any()) and not bool(rows.isinf().any()):
        raise InputError(f"{name}: {rows.abs().max():.4g} is beyond what fp16 can hold. Convert with --dtype bf16.")
    return cast


def plan_conversion(
    paths: Sequence[str | Path],
    out: str | Path,
    system: System,
    *,
    dtype: torch.dtype | None = None,
    dimensions: Dimensions | None = None,
    ignore: Sequence[str] = (),
    name: str | None = None,
) -> tuple[Plan, Plan]:
    """The model file and the tokens file that an official checkpoint makes in the folder `out`, to be written by
    `write_safetensors`, which holds one tensor at a time.

    `dtype` None keeps every tensor as stored. The VLM's weights are checked but not copied: they are the published
    text encoder's. Files are called `<system>_<name>.safetensors` and `<system>_tokens[_<name>].safetensors`; `name`
    None stands for the dtype. Raises InputError when the checkpoint is not what was published.
    """
    if name is not None and not fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"--name '{name}': use letters, digits, '.', '_' and '-' only.")
    checkpoint = Checkpoint(paths)
    config = check_official(checkpoint, system, dimensions, ignore)
    groups = by_native(model_pieces(config))
    tensors = {native: _planned(checkpoint, pieces, dtype) for native, pieces in groups.items()}

    def model_parts(native: str) -> Iterator[Tensor]:
        for piece in groups[native]:
            rows = checkpoint.rows(piece.official, piece.official_start, piece.rows)
            yield _cast(piece.official, rows, tensors[native].dtype)

    token_name = ENCODER + TOKENS
    stored = checkpoint.tensors[token_name]
    token_info = {TOKENS: TensorInfo(dtype or stored.dtype, stored.shape)}

    def token_parts(_: str) -> Iterable[Tensor]:
        return [_cast(token_name, checkpoint.rows(token_name, 0, stored.shape[0]), token_info[TOKENS].dtype)]

    pooled = checkpoint.shapes[next(iter(unused_shapes(config, 0)))][1]
    metadata = model_metadata(system.name, config)
    metadata["dropped"] = json.dumps({dropped: list(shape) for dropped, shape in unused_shapes(config, pooled).items()})
    folder = Path(out)
    model_path = folder / f"{system.name}_{name or short_name(main_dtype(tensors))}.safetensors"
    tokens_path = folder / (f"{system.name}_tokens_{name}.safetensors" if name else f"{system.name}_tokens.safetensors")
    return (
        Plan(model_path, tensors, model_parts, metadata),
        Plan(tokens_path, token_info, token_parts, tokens_metadata(system.name)),
    )
