"""AdamW, its rate as a function of the step, and gradient clipping that is the same however weights are spread."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .config import Optimizer
from .team import Team, local


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trained parameters."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def rate(settings: Optimizer, step: int, steps: int) -> float:
    """Learning rate of step `step` (the first is 1) of `steps`."""
    factor = 1.0
    if step <= settings.warmup:
        factor = step / settings.warmup
    elif settings.decay and step > steps - settings.decay:
        factor = (steps - step + 1) / settings.decay
    return settings.learning_rate * factor


@torch.no_grad()
def clip_gradients(
    parameters: Mapping[str, nn.Parameter], parts: Mapping[str, str], limit: float, team: Team
) -> dict[str, float]:
    """Scale all gradients so that their common norm is at most `limit`; return the norms before, per part and "all"."""
    squares: dict[str, torch.Tensor] = {}
    gradients = {name: local(p.grad) for name, p in parameters.items() if p.grad is not None}
    for name, gradient in gradients.items():
        zero = torch.zeros((), dtype=torch.float64, device=gradient.device)
        squares[parts[name]] = squares.get(parts[name], zero) + gradient.double().square().sum()
    names = sorted(squares)
    sums = team.total(torch.stack([squares[name] for name in names]))
    norm = float(sums.sum().sqrt())
    if norm > limit:
        torch._foreach_mul_(list(gradients.values()), limit / norm)
    return {**dict(zip(names, sums.sqrt().tolist(), strict=True)), "all": norm}
