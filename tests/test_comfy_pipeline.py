"""The nodes, run in this process on ComfyUI's own classes, reproduce whole reference runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import MODEL, TEXT_ENCODER, tokens, write_reference_weights
from parity_groups import case_tensors, load
from parity_groups.pipeline import INDEX, reference_request
from paths import GOLDENS
from torch import Tensor

ENTRIES: dict[str, dict[str, Any]] = json.loads((GOLDENS / INDEX).read_text())["cases"]
LIMIT = 1e-3
SCALE = 0.476986


class RecordedVAE:
    """Stands in for the reference's VAE, whose width ComfyUI cannot load: knows the latents of the case's pictures."""

    def __init__(self, tensors: dict[str, Tensor], clips: list[Tensor]) -> None:
        self.known = [(clip, tensors[f"vae.mean.{index}"]) for index, clip in enumerate(clips)]
        self.calls = 0

    def encode(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        (latents,) = [mean for clip, mean in self.known if torch.equal(pixels, clip.float() / 255)]
        return latents


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_reference_weights(GOLDENS, folder)
    return folder


@pytest.fixture(scope="module")
def nodes() -> Any:
    nodes = pack("nodes")
    asyncio.run(asyncio.run(nodes.comfy_entrypoint()).on_load())
    return nodes


@pytest.fixture(scope="module")
def model(nodes: Any, models: Path) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(models / MODEL))


@pytest.fixture(scope="module")
def clip(nodes: Any, models: Path) -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(models / TEXT_ENCODER))


class Case:
    """One reference run up to sampling: its conditionings and its start, and what it must end in."""

    def __init__(self, name: str, nodes: Any, clip: Any) -> None:
        entry = ENTRIES[name]
        tensors = case_tensors(load(GOLDENS / "pipeline_cases.safetensors"), name)
        self.request = request = reference_request(GOLDENS, entry, tensors)
        prepared = pack("nodes.types").PreparedReferences(request.references, request.frames)
        clips = [image.pixels[None] for image in request.references.images]
        clips += [video.frames for video in request.references.videos]
        vae = RecordedVAE(tensors, clips)
        negative = {"negative": "custom", "negative_prompt": request.negative}
        with torch.inference_mode():
            context = nodes.VINOEncoder.execute(
                clip, prepared, request.prompt, negative, request.base_image, request.image_scale
            )[0]
            branches = nodes.VINOLearnableTokens.execute(clip, context, tokens(GOLDENS)).args
            self.branches = nodes.VINOReferenceLatents.execute(*branches, vae, prepared).args
            size = request.width, request.height, request.frames
            self.latent = nodes.VINOEmptyLatent.execute(*size, 1)[0]
        assert vae.calls == len(clips)
        self.noise, self.expected = tensors["noise"], tensors["final_latents"]


@pytest.mark.parametrize("name", ENTRIES)
def test_sampler_reproduces_reference_run(name: str, nodes: Any, model: Any, clip: Any) -> None:
    """VINO Sampler draws the official noise from the official seed and ends at the official latents."""
    case = Case(name, nodes, clip)
    request = case.request
    with torch.inference_mode():
        positive, negative, negative_image = case.branches
        out = nodes.VINOSampler.execute(
            model,
            positive,
            negative,
            case.latent,
            request.seed,
            request.steps,
            request.shift,
            request.text_scale,
            request.image_scale,
            1.0,
            negative_image,
        )[0]
    assert (out["samples"] * SCALE - case.expected).abs().max() <= LIMIT


@pytest.mark.parametrize("name", ["ti2i_baseimg", "tiv2v"])
def test_stock_guider_reproduces_reference_run(name: str, nodes: Any, model: Any, clip: Any) -> None:
    """ComfyUI's DualCFGGuider, style regular, on VINO's conditionings and schedule."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    case = Case(name, nodes, clip)
    request = case.request
    guider = Guider_DualCFG(model)
    guider.set_conds(*case.branches)
    guider.set_cfg(request.text_scale, request.image_scale, nested=False)
    with torch.inference_mode():
        sigmas = nodes.VINOScheduler.execute(request.steps, request.shift, 1.0)[0]
        samples = guider.sample(
            case.noise, case.latent["samples"], comfy.samplers.sampler_object("euler"), sigmas, seed=0, disable_pbar=True
        )
    assert (samples * SCALE - case.expected).abs().max() <= LIMIT
