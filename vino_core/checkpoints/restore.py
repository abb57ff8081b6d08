"""From a model file and a tokens file back to the official layout, which the authors' own code loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..systems.base import System
from .files import check_variant, check_widths, load_tokens, made_for, open_model
from .header import main_dtype
from .layouts import HEAD_ROWS, Piece, Shape, by_official, model_pieces, unused_shapes
from .manifest import compare, official_manifest
from .official import FLOATS
from .published import OfficialFile, Published
from .sources import PICKLES, Checkpoint
from .writing import reported, written_aside


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
    """The text encoder's tensors under their official names. A tied output layer is its word embedding."""
    published = system.published
    checkpoint = Checkpoint([path])
    checkpoint.rename(published.canonical)
    embedding, head = published.vlm + published.embedding, published.vlm + published.head
    if embedding not in checkpoint.tensors:
        raise InputError(
            f"{path}: not the text encoder {published.vlm_title} ({published.embedding} is missing). Name its "
            "published folder, or the file that `vino convert` wrote."
        )
    found = checkpoint.shapes[embedding][1]
    if found != width:
        raise InputError(f"{path}: the text encoder is {found} wide, the model's connectors take {width}.")
    state = {name: checkpoint.read(name) for name in checkpoint}
    if published.tied:
        state.setdefault(head, state[embedding])
    if width == system.connector(system.text_connector).in_features:
        expected = {
            name: (published.vocabulary, *shape[1:])
            if published.tokens is None and name in (embedding, head)
            else shape
            for name, shape in official_manifest(system.name).items()
            if name.startswith(published.vlm)
        }
        mismatch = compare({name: tuple(tensor.shape) for name, tensor in state.items()}, expected)
        if mismatch:
            raise InputError(f"{path}: not the published text encoder. Nothing was written.\n{mismatch.describe()}")
    return state


def _grow(state: dict[str, Tensor], learnable: Tensor, tokens: Checkpoint, published: Published) -> None:
    """Put markers and tokens below the text encoder's own rows, of its word embedding and of its output layer."""
    begin, end = learnable[:1], learnable[-1:]
    rows = torch.cat([begin, end, learnable[1:-1]])
    head = tokens.read(HEAD_ROWS) if HEAD_ROWS in tokens.tensors else torch.zeros_like(rows)
    for name, below in ((published.embedding, rows), (published.head, head)):
        own = state[published.vlm + name][: published.vocabulary]
        if own.dtype != below.dtype:
            raise InputError(
                f"The learnable tokens are {below.dtype} and the text encoder is {own.dtype}, but they are rows of one "
                "matrix. Convert both with the same --dtype."
            )
        state[published.vlm + name] = torch.cat([own, below])


def _dropped_shapes(metadata: Mapping[str, str], fallback: Mapping[str, Shape]) -> dict[str, Shape]:
    if "dropped" not in metadata:
        return dict(fallback)
    return {name: tuple(shape) for name, shape in json.loads(metadata["dropped"]).items()}


def _targets(out: Path, published: Published, state: Mapping[str, Tensor]) -> dict[Path, OfficialFile]:
    """Paths of the official files to write. Raises InputError when `out` is a file for several, or a folder for one."""
    files = [file for file in published.files if any(name.startswith(file.holds) for name in state)]
    if len(published.files) > 1:
        if out.suffix in PICKLES or out.is_file():
            raise InputError(
                f"{out}: {published.title}'s official layout is {' and '.join(file.name for file in published.files)}. "
                "Name a folder."
            )
        return {out / file.name: file for file in files}
    if out.suffix not in PICKLES or out.is_dir():
        raise InputError(
            f"{out}: the official layout is one pickle. Give a file name that ends in {', '.join(PICKLES)}."
        )
    return {out: files[0]}


def _check_complete(published: Published, tokens: object | None, vlm: object | None) -> None:
    if published.tokens is not None:
        if tokens is None:
            raise InputError("--back takes the model file and the tokens file; the tokens file was not given. Name it.")
    elif (tokens is None) != (vlm is None):
        raise InputError(
            f"{published.files[-1].name} holds the text encoder and the learnable tokens: name both, the tokens file "
            f"and, with --vlm, {published.vlm_title}; or neither, which writes {published.files[0].name} alone."
        )


def restore(
    model: str | Path,
    tokens: str | Path | None,
    out: str | Path,
    *,
    vlm: str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the official layout; return the paths. `out` is the file to write (.ckpt, .pt, .pth or .bin) or, for a
    system of which several files are published, the folder for them.

    Every weight comes back bit by bit, except parameters that are never read: the unused pooled-text embedder, and
    output rows of learnable tokens that were not converted from an official file. They are written as zeros, so that
    the official code finds every name. `vlm`: the text encoder's file or folder, to be copied in too (VINO's official
    code loads it from its own folder anyway). Weights stay memory-mapped, except those that several tensors make up.
    Raises InputError, with nothing written, when files do not belong together or cannot be written.
    """
    system = made_for(model)
    published = system.published
    _check_complete(published, tokens, vlm)
    checkpoint, config = open_model(model)
    pieces = model_pieces(config, published.connectors)
    wrong = sorted({piece.native for piece in pieces if checkpoint.tensors[piece.native].dtype not in FLOATS})
    if wrong:
        raise InputError(
            f"{model}: {len(wrong)} tensors are quantised ({wrong[0]}: {checkpoint.tensors[wrong[0]].dtype}). "
            "The official layout takes bf16, fp16 or fp32: start from such a file."
        )
    learnable = None if tokens is None else load_tokens(tokens)
    width = config.connectors[0].in_features
    check_widths(config, learnable, width)
    check_variant(model, learnable)
    dtype = main_dtype(checkpoint.tensors)
    state = {name: _stack(checkpoint, group) for name, group in by_official(pieces).items()}
    for name, shape in _dropped_shapes(checkpoint.metadata, unused_shapes(config, published.pooled)).items():
        state[name] = torch.zeros(shape, dtype=dtype)
    if vlm is not None:
        state.update(_vlm_state(vlm, width, system))
    if learnable is not None and published.tokens is not None:
        state[published.tokens] = learnable
    elif learnable is not None and tokens is not None:
        _grow(state, learnable, Checkpoint([tokens]), published)
    targets = _targets(Path(out), published, state)
    parts_of = {
        path: {
            file.writes + name.removeprefix(file.holds): tensor
            for name, tensor in state.items()
            if name.startswith(file.holds)
        }
        for path, file in targets.items()
    }
    sizes = [sum(tensor.numel() * tensor.element_size() for tensor in part.values()) for part in parts_of.values()]
    with written_aside(list(targets), sizes, overwrite) as temporary:
        for (path, part), aside in zip(parts_of.items(), temporary, strict=True):
            with reported(path), aside.open("wb") as file:
                torch.save(part, file)
    return list(targets)
