"""The velocity loss of a rectified flow, with the stage's timestep shift (VINO paper section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling.schedule import shifted
from .config import Flow


def draw_sigma(flow: Flow, generator: torch.Generator) -> Tensor:
    """One noise level in 0..1, a float32 scalar."""
    if flow.time == "uniform":
        t = torch.rand((), generator=generator)
    else:
        t = torch.sigmoid(flow.mean + flow.std * torch.randn((), generator=generator))
    return shifted(t, flow.shift)


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`(1 - sigma) * latents + sigma * noise`, [B, ...] with `sigma` [B]: what the sampler meets at `sigma`."""
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def velocity_loss(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error [B] to `noise - latents`, the derivative of `noised` by sigma, which `euler` integrates."""
    return (velocity.float() - (noise - latents)).square().flatten(1).mean(dim=1)
