"""The nodes, run in this process on ComfyUI's own classes, reproduce all of VOGUE's reference runs."""

from __future__ import annotations

from typing import Any

import comfy_vogue_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import SCALE, nodes
from comfy_vogue_runs import CHANNELS, ENTRIES, case
from torch import Tensor

LIMIT = 1e-3


def difference(samples: Tensor, expected: Tensor) -> float:
    assert samples.shape[2:] == expected.shape[2:]
    return float((samples[:, :CHANNELS] * SCALE - expected).abs().max())


@pytest.mark.parametrize("name", ENTRIES)
def test_sampler_reproduces_reference_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the reference's pictures, prompts and noise to its final latents, through every node of a graph."""
    monkeypatch.setattr(pack("nodes.sampling"), "initial_noise", lambda shape, seed: case(name).noise)
    run, entry = case(name), ENTRIES[name]
    positive, negative, negative_image = run.branches
    with torch.inference_mode():
        out = nodes().VINOSampler.execute(
            comfy_vogue_runs.model(),
            positive,
            negative,
            run.latent,
            0,
            entry["num_inference_steps"],
            7.0,
            entry["guidance_scale"],
            entry["image_guidance_scale"],
            1.0,
            negative_image,
        )[0]
    assert difference(out["samples"], run.expected) <= LIMIT


def stock(run: Any, sampler: str, scheduler: str = "simple", cfg: float | None = None) -> Tensor:
    """What the stock KSampler makes of a case: text guidance only."""
    import comfy.sample

    positive, negative, _ = run.branches
    with torch.inference_mode():
        return comfy.sample.sample(
            comfy_vogue_runs.model(),
            run.noise,
            run.entry["num_inference_steps"],
            run.entry["guidance_scale"] if cfg is None else cfg,
            sampler,
            scheduler,
            positive,
            negative,
            run.latent["samples"],
            disable_pbar=True,
            seed=0,
        )


@pytest.mark.parametrize("name", ["t2v", "i2v"])
def test_stock_sampler_reproduces_reference_run(name: str) -> None:
    """4 steps divide 1000, so that the stock schedule is the same."""
    assert difference(stock(case(name), "euler"), case(name).expected) <= LIMIT


def test_stock_guider_reproduces_reference_run() -> None:
    """ComfyUI's DualCFGGuider, style regular, on VOGUE's conditionings and schedule."""
    run, model = case("i_v2v_edit"), comfy_vogue_runs.model()
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(*run.branches)
    guider.set_cfg(run.entry["guidance_scale"], run.entry["image_guidance_scale"], nested=False)
    euler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        sigmas = nodes().VINOScheduler.execute(run.entry["num_inference_steps"], 7.0, 1.0)[0]
        samples = guider.sample(run.noise, run.latent["samples"], euler, sigmas, seed=0, disable_pbar=True)
    assert difference(samples, run.expected) <= LIMIT


@pytest.mark.parametrize(
    ("sampler", "rest"),
    [("euler", 1e-5), ("heun", 1e-5), ("dpmpp_2m", 1e-5), ("euler_ancestral", 1e-5), ("lcm", 1e-5), ("uni_pc", 5e-3)],
)
def test_the_first_frame_of_a_continued_picture_stays_it(sampler: str, rest: float) -> None:
    """Whatever the sampler does with the noise, the result begins with the picture's own latent.

    uni_pc never goes below a noise level of 0.001, and leaves that in every frame.
    """
    run = case("i2v")
    samples = stock(run, sampler)
    assert torch.isfinite(samples).all()
    assert difference(samples[:, :, :1], run.tensors["mid.cond_latents"]) < rest
    assert difference(samples[:, :, 1:], run.noise[:, :CHANNELS, 1:]) > 0.1
