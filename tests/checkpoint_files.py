"""Checkpoints for tests: the miniature of the reference numbers, and one with every published name and shape."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from paths import GOLDENS
from safetensors.torch import load_file
from torch import Tensor

from vino_core.checkpoints.convert import plan_conversion
from vino_core.checkpoints.manifest import official_manifest
from vino_core.checkpoints.official import Dimensions, read_dimensions
from vino_core.checkpoints.writing import write_safetensors
from vino_core.systems.vino import VINO

UNUSED = "transformer.time_text_embed.text_embedder."


def golden_index() -> dict:
    return json.loads((GOLDENS / "transformer_index.json").read_text())


def dimensions(folder: Path) -> Dimensions:
    """Dimensions of the miniature, by way of a config.json in `folder`."""
    return read_dimensions(config_file(folder))


def config_file(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(golden_index()["config"]))
    return path


def miniature() -> dict[str, Tensor]:
    """The miniature in the official layout, VLM included."""
    state = load_file(GOLDENS / "transformer_weights.safetensors") | load_file(
        GOLDENS / "mm_encoder_weights.safetensors"
    )
    return {name: tensor for name, tensor in state.items() if not name.startswith("embed_")}


def published() -> dict[str, Tensor]:
    """All names and shapes of the published checkpoint; every tensor is one number, repeated, so the file is small."""
    return {
        name: torch.zeros((), dtype=torch.bfloat16).expand(shape) for name, shape in official_manifest("vino").items()
    }


def convert_miniature(folder: Path, **options) -> tuple[Path, Path]:
    """Convert the miniature into `folder`/models; returns the model file and the tokens file."""
    source = folder / "official.ckpt"
    torch.save(miniature(), source)
    plans = plan_conversion([source], folder / "models", VINO, dimensions=dimensions(folder), **options)
    write_safetensors(plans)
    return plans[0].path, plans[1].path
