"""Opening what the authors published, and comparing it with what it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from re import compile as regex
from typing import NamedTuple

import torch

from ..config import ConnectorConfig, MMDiTConfig
from ..errors import InputError
from ..systems import DEFAULT, SYSTEMS
from ..systems.base import System
from .layouts import Shape, official_shapes
from .manifest import compare, guess_family, official_manifest
from .published import TRANSFORMER, Published
from .sources import Checkpoint

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_NATIVE = "double_blocks.0.img_attn.qkv.weight"
_INDEX = regex(r"\.(\d+)\.")
_MARKERS = 2
"""Rows of the grown word embedding before the tokens': begin and end."""


class Dimensions(NamedTuple):
    """Dimensions of a checkpoint other than the published one."""

    config: MMDiTConfig
    """Without connectors: their widths are read from the checkpoint."""
    pooled: int | None
    """Width of the unused pooled text; None where the file does not name it."""


class Official(NamedTuple):
    """A checkpoint that is complete and what it should be, under its published names."""

    checkpoint: Checkpoint
    system: System
    config: MMDiTConfig
    tokens: int
    """Number of learnable tokens; 0 for a variant without."""
    text_encoder: Mapping[str, Shape]
    """The text encoder's tensors. Empty when it was not given, and when only its word embedding was."""


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
        return Dimensions(config, values.get("pooled_projection_dim"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Name the transformer's config.json.") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a transformer's config.json ({error!r}).") from error


def recognise(names: Mapping[str, object]) -> System | None:
    """The system whose published checkpoint has such names, as stored, or None."""
    return next(
        (system for system in SYSTEMS.values() if any(name.startswith(system.published.marks) for name in names)), None
    )


def _file_names(published: Published) -> str:
    return " and ".join(file.name for file in published.files)


def _open(paths: Sequence[str | Path], wanted: System | None) -> tuple[Checkpoint, System]:
    """The files' tensors under their published names, and the system they are of."""
    checkpoint = Checkpoint(paths)
    stored = checkpoint.shapes
    own = recognise(stored)
    system = wanted or own or SYSTEMS[DEFAULT]
    published = system.published
    if _NATIVE not in stored and own is not None and own.published is not published:
        raise InputError(
            f"{checkpoint.label}: the published checkpoint of {own.published.title}, not of {published.title}. "
            f"Give --system {own.name}, or name {_file_names(published)} of {published.title}."
        )
    checkpoint.rename(published.canonical)
    if _NATIVE in stored or not any(name.startswith(TRANSFORMER) for name in checkpoint):
        raise InputError(
            f"{checkpoint.label}: not the published checkpoint of {published.title}: it has no transformer in "
            f"diffusers' layout; it seems to be {guess_family(stored) or 'something else'}. "
            f"Name the published {_file_names(published)}."
        )
    return checkpoint, system


def _fitted(config: MMDiTConfig, system: System, found: Mapping[str, Shape]) -> MMDiTConfig:
    """`config` with the system's connectors, as wide as the checkpoint's own.

    A `text_embed_dim` that is the text encoder's width stands for what its connector makes of it.
    """
    names = system.published.connectors

    def dimension(connector: ConnectorConfig, layer: str, fallback: int) -> int:
        shape = found.get(f"{names.prefix}{connector.name}.{layer}.weight")
        return shape[0] if shape else fallback

    text = system.connector(system.text_connector)
    width = dimension(text, names.norm, text.in_features)
    text_dim = dimension(text, "mlp.2", text.out_features) if config.text_dim == width else config.text_dim
    connectors = tuple(
        replace(
            connector,
            in_features=width,
            out_features=text_dim if connector == text else config.hidden_size,
            hidden_features=None
            if connector.hidden_features is None
            else dimension(connector, "mlp.0", connector.hidden_features),
        )
        for connector in system.mmdit.connectors
    )
    return replace(config, text_dim=text_dim, connectors=connectors)


def _count(found: Mapping[str, Shape], system: System, config: MMDiTConfig, published_size: bool, label: str) -> int:
    """Number of learnable tokens, after a look at the text encoder that they are for."""
    published = system.published
    if published.tokens is not None:
        return found.get(published.tokens, (0,))[0]
    table = found.get(published.vlm + published.embedding)
    if table is None:
        return 0
    width = config.connectors[0].in_features
    if table[1] != width:
        raise InputError(
            f"{label}: a text encoder {table[1]} wide, and the model's connector takes {width}. "
            f"{published.title} belongs to {published.vlm_title}."
        )
    added = table[0] - published.vocabulary
    variants = (system, *([system.with_tokens] if system.with_tokens else []))
    allowed = sorted(variant.learnable_tokens for variant in variants)
    count = added - _MARKERS if added else 0
    if count not in allowed if published_size else added and count < 1:
        raise InputError(
            f"{label}: its word embedding has {table[0]} rows, {added} more than {published.vlm_title} "
            f"({published.vocabulary}). The published variants have {' or '.join(map(str, allowed))} learnable tokens, "
            f"and {_MARKERS} markers with them. Name files of one variant."
        )
    return count


def _require_siblings(checkpoint: Checkpoint, published: Published, found: Mapping[str, Shape]) -> None:
    """Raise InputError when a published file lies beside those given: without it, it would be another variant."""
    for file in published.files:
        if not any(name.startswith(file.holds) for name in found):
            beside = next((path.with_name(file.name) for path in checkpoint.paths), Path(file.name))
            if beside.is_file():
                raise InputError(
                    f"{beside}: lies beside {checkpoint.label} and belongs to it. Name both, or move it away to "
                    "convert the other alone."
                )


def _alike(published: Mapping[str, Shape], found: Mapping[str, Shape]) -> dict[str, Shape]:
    """The names of a text encoder with as many layers as `found` has, each with the shape it has there."""
    indices: dict[str, set[str]] = {}
    for name in found:
        if match := _INDEX.search(name):
            indices.setdefault(name[: match.start()], set()).add(match[1])
    names: list[str] = []
    for name in published:
        match = _INDEX.search(name)
        numbers = sorted(indices.get(name[: match.start()], {match[1]})) if match else [""]
        names += [f"{name[: match.start(1)]}{n}{name[match.end(1) :]}" if match else name for n in numbers]
    return {name: found.get(name, published.get(name, ())) for name in names}


def _expected_vlm(found: Mapping[str, Shape], system: System, published_size: bool) -> dict[str, Shape]:
    published = system.published
    if not found:
        return {}  # as a checkpoint is that was put together without it: nothing of a published one is used
    vlm = {name: shape for name, shape in official_manifest(system.name).items() if name.startswith(published.vlm)}
    if published.tokens is not None:
        return vlm if published_size else dict(found)
    embedding, head = published.vlm + published.embedding, published.vlm + published.head
    wanted = vlm if published_size else _alike(vlm, found)
    if found.keys() == {embedding}:
        wanted = {embedding: wanted[embedding]}
    rows = found.get(embedding, (published.vocabulary,))[0]
    return {name: (rows, *shape[1:]) if name in (embedding, head) else shape for name, shape in wanted.items()}


def open_official(
    paths: Sequence[str | Path],
    system: System | None = None,
    dimensions: Dimensions | None = None,
    ignore: Sequence[str] = (),
) -> Official:
    """Open a published checkpoint and compare names, shapes and dtypes with its manifest, or with `dimensions`.

    `system` None: the one that the names tell. `ignore`: patterns (`ema.*`) of names that are left out.
    Raises InputError for files of something else, and one that lists every difference.
    """
    checkpoint, system = _open(paths, system)
    published, label, full = system.published, checkpoint.label, dimensions is None
    found = {
        name: shape
        for name, shape in checkpoint.shapes.items()
        if not any(fnmatchcase(name, pattern) for pattern in ignore)
    }
    config = system.mmdit if dimensions is None else _fitted(dimensions.config, system, found)
    pooled = published.pooled if dimensions is None or published.pooled is None else dimensions.pooled
    if pooled is None and published.pooled is not None:
        raise InputError("--config: pooled_projection_dim is missing. Name the transformer's own config.json.")
    _require_siblings(checkpoint, published, found)
    count = _count(found, system, config, full, label)
    tokens = (system.learnable_tokens if full else count, config.connectors[0].in_features)
    vlm = {name: shape for name, shape in found.items() if name.startswith(published.vlm)}
    expected = official_shapes(config, published, tokens, pooled) | _expected_vlm(vlm, system, full)
    mismatch = compare(found, expected)
    if mismatch:
        against = "the published checkpoint" if full else "the given config"
        raise InputError(
            f"{label}: {len(found)} tensors do not match {against} ({len(expected)} tensors). "
            "Nothing was written. Download the checkpoint again; if it is of another size, give its config.json with "
            f"--config; leave out extra names with --ignore.\n{mismatch.describe()}"
        )
    copied = published.text_encoder is not None
    wrong = [
        f"{name} ({info.dtype})"
        for name, info in checkpoint.tensors.items()
        if name in expected and (copied or name not in vlm) and info.dtype not in FLOATS
    ]
    if wrong:
        raise InputError(
            f"{label}: {len(wrong)} tensors are not bf16, fp16 or fp32, and without their scales cannot be "
            f"restored: {', '.join(wrong[:5])}. Convert the published checkpoint."
        )
    return Official(checkpoint, system, config, count, vlm if len(vlm) > 1 else {})
