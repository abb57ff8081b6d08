"""Miniature weights from one layout to the other, all in memory (the converter streams)."""

from __future__ import annotations

import torch
from torch import Tensor

from vino_core.checkpoints.layouts import by_native, by_official, model_pieces
from vino_core.checkpoints.published import ConnectorNames
from vino_core.config import MMDiTConfig

VINO_NAMES = ConnectorNames()


def native_from_official(
    weights: dict[str, Tensor], config: MMDiTConfig, names: ConnectorNames = VINO_NAMES
) -> dict[str, Tensor]:
    """Native parameters of a model from official tensors. Names that the model lacks are left out."""
    return {
        name: torch.cat([weights[p.official][p.official_start : p.official_start + p.rows] for p in pieces])
        for name, pieces in by_native(model_pieces(config, names)).items()
    }


def official_from_native(weights: dict[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Inverse of `native_from_official`; native tensors that are absent are left out."""
    return {
        name: torch.cat([weights[p.native][p.native_start : p.native_start + p.rows] for p in pieces])
        for name, pieces in by_official(model_pieces(config)).items()
        if all(p.native in weights for p in pieces)
    }
