"""The noise levels of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def shifted(t: Tensor, shift: float) -> Tensor:
    """Noise levels `shift * t / (1 - t + shift * t)` of times `t` in 0..1, in sampling as in training."""
    return shift * t / (1 - t + shift * t)


def sigmas(steps: int, shift: float, device: torch.device | str = "cpu") -> Tensor:
    """Noise levels from 1 to 0, float32 [steps + 1], with a timestep shift (VINO paper section 3).

    `shifted` times from 1 to 0 in equal steps. Raises InputError for steps < 1 or
    shift <= 0.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; at least 1 is needed (50 is the default).")
    if not shift > 0:
        raise InputError(f"shift is {shift}; it must be above 0 (5 for images, 7 for videos).")
    return shifted(torch.linspace(1.0, 0.0, steps + 1, device=device), shift)
