"""Reference runs inside this process, on ComfyUI's own classes: shared by the tests of nodes and model."""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from comfy_inprocess import pack
from comfy_reference import MODEL, TEXT_ENCODER, tokens, write_reference_weights
from paths import GOLDENS
from torch import Tensor

from parity_groups import case_tensors, load
from parity_groups.pipeline import INDEX, reference_request

ENTRIES: dict[str, dict[str, Any]] = json.loads((GOLDENS / INDEX).read_text())["cases"]
SCALE = 0.476986
_FOLDER = TemporaryDirectory(prefix="vino-reference-")


class RecordedVAE:
    """Stands in for the reference's VAE, whose width ComfyUI cannot load: knows the latents of the case's pictures."""

    def __init__(self, tensors: dict[str, Tensor], clips: list[Tensor]) -> None:
        self.known = [(clip, tensors[f"vae.mean.{index}"]) for index, clip in enumerate(clips)]
        self.calls = 0

    def encode(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        (latents,) = [mean for clip, mean in self.known if torch.equal(pixels, clip.float() / 255)]
        return latents


@lru_cache(maxsize=1)
def nodes() -> Any:
    """The pack's nodes, with the model registered as ComfyUI would have done."""
    module = pack("nodes")
    asyncio.run(asyncio.run(module.comfy_entrypoint()).on_load())
    return module


@lru_cache(maxsize=1)
def model_file() -> Path:
    write_reference_weights(GOLDENS, Path(_FOLDER.name))
    return Path(_FOLDER.name) / MODEL


@lru_cache(maxsize=1)
def model() -> Any:
    """The reference model on the MODEL wire, loaded as the stock Load Diffusion Model does."""
    nodes()
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(model_file()))


@lru_cache(maxsize=1)
def clip() -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(model_file().parents[1] / TEXT_ENCODER))


def given_references(references: Any, width: int, height: int, frames: int) -> Any:
    """References that are prepared already, as VINO References would hand them on."""
    types, system = pack("nodes.types"), pack("vino_core.systems").get_system("vino")
    return types.PreparedReferences(lambda _: (references, types.TargetSize(width, height, frames)), system)


def learnable_tokens(values: Tensor | None = None, system: str = "vino") -> Any:
    """What VINO Tokens Loader gives: the reference's tokens, or others."""
    values = tokens(GOLDENS) if values is None else values
    return pack("nodes.types").LearnableTokens(values, pack("vino_core.systems").get_system(system))


class Case:
    """One reference run up to sampling: its conditionings and its start, and what it must end in."""

    def __init__(self, name: str) -> None:
        entry = ENTRIES[name]
        tensors = case_tensors(load(GOLDENS / "pipeline_cases.safetensors"), name)
        self.request = request = reference_request(GOLDENS, entry, tensors)
        prepared = given_references(request.references, request.width, request.height, request.frames)
        clips = [image.pixels[None] for image in request.references.images]
        clips += [video.frames for video in request.references.videos]
        vae = RecordedVAE(tensors, clips)
        negative = {"negative": "custom", "negative_prompt": request.negative}
        with torch.inference_mode():
            context = nodes().VINOEncoder.execute(
                clip(), prepared, request.prompt, negative, request.base_image, request.image_scale
            )[0]
            branches = nodes().VINOLearnableTokens.execute(clip(), context, learnable_tokens()).args
            self.branches = nodes().VINOReferenceLatents.execute(*branches, vae, prepared).args
            self.latent = nodes().VINOEmptyLatent.execute(request.width, request.height, request.frames, 1)[0]
        assert vae.calls == len(clips)
        self.noise, self.expected = tensors["noise"], tensors["final_latents"]


case = lru_cache(maxsize=2)(Case)
"""`Case` by name, kept for the next test."""
