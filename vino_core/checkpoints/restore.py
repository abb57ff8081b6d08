"""From a model file and a tokens file back to the official layout, which the authors' own code loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..systems.base import System
from .files import check_variant, check_widths, load_tokens, made_for, open_model
from .header import main_dtype
from .layouts import HEAD_ROWS, Shape, by_official, model_pieces, unused_shapes
from .manifest import compare, official_manifest
from .official import FLOATS
from .pickled import PicklePlan, Stack, Stored, write_pickles
from .published import OfficialFile, Published
from .sources import PICKLES, Checkpoint


def _vlm_state(path: str | Path, width: int, system: System) -> dict[str, Stack]:
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
    state = {name: Stack(Stored.whole(checkpoint, name)) for name in checkpoint}
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
        mismatch = compare({name: stack.info.shape for name, stack in state.items()}, expected)
        if mismatch:
            raise InputError(f"{path}: not the published text encoder. Nothing was written.\n{mismatch.describe()}")
    return state


def _grow(state: dict[str, Stack], learnable: Tensor, tokens: Checkpoint, published: Published) -> None:
    """Put markers and tokens below the text encoder's own rows, of its word embedding and of its output layer."""
    begin, end = learnable[:1], learnable[-1:]
    rows = torch.cat([begin, end, learnable[1:-1]])
    head = tokens.read(HEAD_ROWS) if HEAD_ROWS in tokens.tensors else torch.zeros_like(rows)
    for name, below in ((published.embedding, rows), (published.head, head)):
        (own,) = state[published.vlm + name].pieces
        dtype = state[published.vlm + name].info.dtype
        if dtype != below.dtype:
            raise InputError(
                f"The learnable tokens are {below.dtype} and the text encoder is {dtype}, but they are rows of one "
                "matrix. Convert both with the same --dtype."
            )
        own = own._replace(rows=min(own.rows, published.vocabulary))
        state[published.vlm + name] = Stack(own, below)


def _dropped_shapes(metadata: Mapping[str, str], fallback: Mapping[str, Shape]) -> dict[str, Shape]:
    if "dropped" not in metadata:
        return dict(fallback)
    return {name: tuple(shape) for name, shape in json.loads(metadata["dropped"]).items()}


def _targets(out: Path, published: Published, state: Mapping[str, Stack]) -> dict[Path, OfficialFile]:
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


def _check_complete(model: str | Path, published: Published, tokens: Tensor | None, vlm: object | None) -> None:
    """Raise InputError when a file is missing without which what was named cannot be written."""
    if published.tokens is not None and tokens is None:
        raise InputError("--back takes the model file and the tokens file; the tokens file was not given. Name it.")
    if published.tokens is None and tokens is not None and vlm is None:
        first, last = published.files[0].name, published.files[-1].name
        raise InputError(
            f"--vlm was not given. {published.title}'s learnable tokens are published as rows of its text encoder, in "
            f"{last}: name the folder or file of {published.vlm_title} with --vlm; or leave the tokens file out, which "
            f"writes {first} alone."
        )
    if tokens is not None or vlm is not None:
        check_variant(model, tokens)


def restore(
    model: str | Path,
    tokens: str | Path | None,
    out: str | Path,
    *,
    vlm: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Path]:
    """Write the official layout; return the paths. `out` is the file to write (.ckpt, .pt, .pth or .bin) or, for a
    system of which several files are published, the folder for them.

    Every weight comes back bit by bit, except parameters that are never read: the unused pooled-text embedder, and
    output rows of learnable tokens that were not converted from an official file. They are written as zeros, so that
    the official code finds every name. `vlm`: the text encoder's file or folder, to be copied in too (VINO's official
    code loads it from its own folder anyway). Of a system that publishes model and text encoder as two files, the model
    alone makes the first. A part of one tensor is in memory at a time; `progress` gets the bytes just written and all
    of them. Raises InputError, with nothing written, when files do not belong together or cannot be written.
    """
    system = made_for(model)
    published = system.published
    learnable = None if tokens is None else load_tokens(tokens)
    _check_complete(model, published, learnable, vlm)
    checkpoint, config = open_model(model)
    pieces = model_pieces(config, published.connectors)
    wrong = sorted({piece.native for piece in pieces if checkpoint.tensors[piece.native].dtype not in FLOATS})
    if wrong:
        raise InputError(
            f"{model}: {len(wrong)} tensors are quantised ({wrong[0]}: {checkpoint.tensors[wrong[0]].dtype}). "
            "The official layout takes bf16, fp16 or fp32: start from such a file."
        )
    width = config.connectors[0].in_features
    check_widths(config, learnable, width)
    dtype = main_dtype(checkpoint.tensors)
    state = {
        name: Stack(*(Stored(checkpoint, piece.native, piece.native_start, piece.rows) for piece in group))
        for name, group in by_official(pieces).items()
    }
    for name, shape in _dropped_shapes(checkpoint.metadata, unused_shapes(config, published.pooled)).items():
        state[name] = Stack(torch.zeros(shape, dtype=dtype))
    if vlm is not None:
        state.update(_vlm_state(vlm, width, system))
    if learnable is not None and published.tokens is not None:
        state[published.tokens] = Stack(learnable)
    elif learnable is not None and tokens is not None:
        _grow(state, learnable, Checkpoint([tokens]), published)
    targets = _targets(Path(out), published, state)
    plans = [
        PicklePlan(
            path,
            {
                file.writes + name.removeprefix(file.holds): stack
                for name, stack in state.items()
                if name.startswith(file.holds)
            },
        )
        for path, file in targets.items()
    ]
    write_pickles(plans, overwrite, progress)
    return list(targets)
