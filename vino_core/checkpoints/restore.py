"""From a model file and a tokens file back to the official layout, which the authors' own code loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..systems import system_of
from ..systems.base import System
from .convert import FLOATS
from .files import check_widths, load_tokens, open_model
from .header import main_dtype
from .layouts import ENCODER, TOKENS, VLM, Piece, Shape, by_official, model_pieces, unused_shapes
from .manifest import compare, official_manifest
from .sources import PICKLES, Checkpoint
from .writing import reported, written_aside

POOLED = 768
"""Width of HunyuanVideo's pooled text, whose embedder the official code allocates and never uses."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"


def _slice(tensor: Tensor, start: int, rows: int) -> Tensor:
    """Rows of a mapped tensor as a tensor with storage of its own extent: still mapped, and saved on its own."""
    row = tensor[0].numel() * tensor.element_size()
    offset = tensor.storage_offset() * tensor.element_size() + start * row
    storage = tensor.untyped_storage()[offset : offset + rows * row]
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (rows, *tensor.shape[1:]))


def _stack(checkpoint: Checkpoint, pieces: list[Piece]) -> Tensor:
    parts = [_slice(checkpoint.read(piece.native), piece.native_start, piece.rows) for piece in pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _vlm_state(path: str | Path, width: int, system: System) -> dict[str, Tensor]:
    """The text encoder's tensors under their official names. Its output layer is its word embedding when absent."""
    checkpoint = Checkpoint([path])
    state = {name: checkpoint.read(name) for name in checkpoint}
    if _EMBEDDING not in state:
        raise InputError(f"{path}: not a Qwen3-VL text encoder ({_EMBEDDING} is missing). Name its published folder.")
    found = state[_EMBEDDING].shape[1]
    if found != width:
        raise InputError(f"{path}: the text encoder is {found} wide, the model's connectors take {width}.")
    state.setdefault(_HEAD, state[_EMBEDDING])
    named = {VLM + name: tensor for name, tensor in state.items()}
    if width == system.connector(system.text_connector).in_features:
        expected = {name: shape for name, shape in official_manifest(system.name).items() if name.startswith(VLM)}
        mismatch = compare({name: tuple(tensor.shape) for name, tensor in named.items()}, expected)
        if mismatch:
            raise InputError(f"{path}: not the published text encoder. Nothing was written.\n{mismatch.describe()}")
    return named


def _dropped_shapes(metadata: Mapping[str, str], fallback: Mapping[str, Shape]) -> dict[str, Shape]:
    if "dropped" not in metadata:
        return dict(fallback)
    return {name: tuple(shape) for name, shape in json.loads(metadata["dropped"]).items()}


def restore(
    model: str | Path, tokens: str | Path, out: str | Path, *, vlm: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write `out` (.ckpt, .pt, .pth or .bin) in the official layout; return its path.

    Every weight comes back bit by bit, except the unused pooled-text embedder, which is written as zeros of its shape
    so that the official code finds every name. `vlm`: the text encoder's file or folder, to be copied in too (the
    official code loads it from its own folder anyway). Weights stay memory-mapped.
    Raises InputError, with nothing written, when files do not belong together or cannot be written.
    """
    out = Path(out)
    if out.suffix not in PICKLES or out.is_dir():
        raise InputError(
            f"{out}: the official layout is one pickle. Give a file name that ends in {', '.join(PICKLES)}."
        )
    checkpoint, config = open_model(model)
    pieces = model_pieces(config)
    wrong = sorted({piece.native for piece in pieces if checkpoint.tensors[piece.native].dtype not in FLOATS})
    if wrong:
        raise InputError(
            f"{model}: {len(wrong)} tensors are quantised ({wrong[0]}: {checkpoint.tensors[wrong[0]].dtype}). "
            "The official layout takes bf16, fp16 or fp32: start from such a file."
        )
    learnable = load_tokens(tokens)
    width = config.connectors[0].in_features
    check_widths(config, learnable, width)
    dtype = main_dtype(checkpoint.tensors)
    state = {name: _stack(checkpoint, group) for name, group in by_official(pieces).items()}
    for name, shape in _dropped_shapes(checkpoint.metadata, unused_shapes(config, POOLED)).items():
        state[name] = torch.zeros(shape, dtype=dtype)
    state[ENCODER + TOKENS] = learnable
    if vlm is not None:
        state.update(_vlm_state(vlm, width, system_of(checkpoint.metadata, model)))
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with written_aside([out], [size], overwrite) as (part,), reported(out), part.open("wb") as file:
        torch.save(state, file)
    return out
