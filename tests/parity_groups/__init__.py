"""Shared pieces of the parity check: one row per compared quantity."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor


class Row(NamedTuple):
    """One compared quantity. `max_abs` is the largest absolute difference, infinite when shapes differ."""

    case: str
    quantity: str
    max_abs: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.max_abs <= self.limit  # False for NaN


def compare(case: str, quantity: str, actual: Tensor, expected: Tensor, limit: float = 0.0) -> Row:
    """Row for two tensors; a limit of 0 asks for exact equality."""
    if actual.shape != expected.shape:
        return Row(case, f"{quantity} {tuple(actual.shape)}!={tuple(expected.shape)}", float("inf"), limit)
    if actual.numel() == 0:
        return Row(case, quantity, 0.0, limit)
    difference = (actual.detach().to(torch.float64) - expected.to(torch.float64)).abs().max().item()
    return Row(case, quantity, difference, limit)


def equal(case: str, quantity: str, actual: object, expected: object) -> Row:
    """Row for two Python values that must be equal."""
    return Row(case, quantity, 0.0 if actual == expected else float("inf"), 0.0)


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    return load_file(str(path))


def case_tensors(tensors: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    """The tensors of one case, without the `<case>/` prefix."""
    prefix = f"{case}/"
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
