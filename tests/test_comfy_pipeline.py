"""The nodes, run in this process on ComfyUI's own classes, reproduce whole reference runs."""

from __future__ import annotations

import comfy_runs
import pytest
import torch
from comfy_runs import ENTRIES, SCALE, case, nodes

LIMIT = 1e-3


@pytest.mark.parametrize("name", ENTRIES)
def test_sampler_reproduces_reference_run(name: str) -> None:
    """VINO Sampler draws the official noise from the official seed and ends at the official latents."""
    run = case(name)
    positive, negative, negative_image = run.branches
    with torch.inference_mode():
        out = nodes().VINOSampler.execute(
            comfy_runs.model(),
            positive,
            negative,
            run.latent,
            run.request.seed,
            run.request.steps,
            run.request.shift,
            run.request.text_scale,
            run.request.image_scale,
            1.0,
            negative_image,
        )[0]
    assert (out["samples"] * SCALE - run.expected).abs().max() <= LIMIT


def test_stock_guider_reproduces_reference_run() -> None:
    """ComfyUI's DualCFGGuider, style regular, on VINO's conditionings and schedule."""
    run, model = case("ti2i_baseimg"), comfy_runs.model()
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(*run.branches)
    guider.set_cfg(run.request.text_scale, run.request.image_scale, nested=False)
    euler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        sigmas = nodes().VINOScheduler.execute(run.request.steps, run.request.shift, 1.0)[0]
        samples = guider.sample(run.noise, run.latent["samples"], euler, sigmas, seed=0, disable_pbar=True)
    assert (samples * SCALE - run.expected).abs().max() <= LIMIT
