"""The Euler sampler of a rectified flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError

StepReport = Callable[[int, int, Tensor], None]
"""Called after each step with (steps done, steps in all, latents); may raise to interrupt the run."""


def initial_noise(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise of `shape`, the same on every machine for one `seed`.

    Drawn on the CPU in bfloat16 and widened to `dtype`: the released checkpoint was only ever run on such noise.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16).to(dtype)


def euler(
    velocity: Callable[[Tensor, Tensor], Tensor], latents: Tensor, sigmas: Tensor, report: StepReport | None = None
) -> Tensor:
    """Integrate `velocity(latents, sigma)` from `sigmas[0]` down to `sigmas[-1]`.

    `latents` [B, 16, T, H, W]; `sigmas` [S + 1]; `sigma` is passed as a tensor [B]. Raises InputError when the
    latents turn NaN or infinite.
    """
    steps = len(sigmas) - 1
    # Step sizes in float32 whatever the latents' type: neighbouring sigmas differ by less than bfloat16 resolves.
    for step in range(steps):
        sigma = sigmas[step].expand(latents.shape[0])
        change = velocity(latents, sigma)
        latents = latents - (sigmas[step] - sigmas[step + 1]).to(latents.device) * change
        if not torch.isfinite(latents).all():
            raise InputError(
                f"latents: NaN or infinite after step {step + 1} of {steps}. The weights or the precision do not fit: "
                "use bfloat16 or float32, and check the model file with `vino doctor`."
            )
        if report is not None:
            report(step + 1, steps, latents)
    return latents
