"""VOGUE's checkpoints for tests: a miniature in every published form, and one with every published name and shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from paths import GOLDENS
from safetensors.torch import load_file
from torch import Tensor

from vino_core.checkpoints.manifest import official_manifest
from vino_core.checkpoints.official import Dimensions, read_dimensions
from vino_core.systems.vogue import VOGUE

VOGUE_GOLDENS = GOLDENS.parent / "vogue"
VLM = VOGUE.published.vlm
EMBEDDING, HEAD = VLM + VOGUE.published.embedding, VLM + VOGUE.published.head
VOCABULARY = VOGUE.published.vocabulary
QUERIES = 8


def config_file(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads((VOGUE_GOLDENS / "transformer_index.json").read_text())["config"]))
    return path


def dimensions(folder: Path) -> Dimensions:
    """Dimensions of the miniature, by way of a config.json in `folder`."""
    return read_dimensions(config_file(folder))


@lru_cache(maxsize=1)
def transformer() -> dict[str, Tensor]:
    """`model.ckpt` of the miniature, without prefix."""
    return load_file(VOGUE_GOLDENS / "weights_transformer.safetensors")


@lru_cache(maxsize=2)
def mllm(queries: int) -> dict[str, Tensor]:
    """`mllm.ckpt` of the miniature with `queries` learnable tokens, and for 0 the text encoder that it grew from."""
    stored = load_file(VOGUE_GOLDENS / "weights_mllm.safetensors")
    state = {VLM + name: tensor for name, tensor in stored.items() if not name.endswith((".rows", ".row_ids"))}
    torch.manual_seed(1)
    rows = VOCABULARY + (queries + 2 if queries else 0)
    for name in (EMBEDDING, HEAD):
        state[name] = torch.randn(rows, 64).bfloat16()
    return state


def newer(state: Mapping[str, Tensor], prefix: str = VLM) -> dict[str, Tensor]:
    """The names that transformers 4.52 and later give the same tensors."""
    pattern = re.compile(rf"^{re.escape(VLM)}(?:(model)|(visual))\.")
    names = {"model": "model.language_model.", "visual": "model.visual."}
    return {
        pattern.sub(lambda match: VLM + names[match[1] or match[2]], name).replace(VLM, prefix, 1): tensor
        for name, tensor in state.items()
    }


def published(name: str, rows: int | None = None) -> dict[str, Tensor]:
    """All names and shapes of `model.ckpt` or `mllm.ckpt`; a tensor is one number, repeated, so the file is small.

    `rows`: of the word embedding, if not as published with learnable tokens.
    """
    prefix = {file.name: file.holds for file in VOGUE.published.files}[name]
    one = torch.zeros((), dtype=torch.bfloat16)
    state = {key: one.expand(shape) for key, shape in official_manifest("vogue").items() if key.startswith(prefix)}
    if rows is not None:
        state.update({key: one.expand(rows, 3584) for key in (EMBEDDING, HEAD) if key in state})
    return state
