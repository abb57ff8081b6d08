"""VOGUE's runs from given pictures and clips to latents and frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vino_core.branches import branch_prompts
from vino_core.encoder.encode import append_tokens, encode_branches, encode_visuals
from vino_core.media.canvases import prepare_reference
from vino_core.media.references import References, VideoReference
from vino_core.media.sizing import vlm_frame_indices
from vino_core.pipeline import Pipeline
from vino_core.request import Request
from vino_core.sampling.guidance import Branch, guided_velocity
from vino_core.sampling.schedule import sigmas
from vino_core.systems import get_system
from vino_core.tasks import prepare_references
from vino_core.vae import to_unit_range

from .. import Row, compare, equal, load
from ..mllm import reference_engine
from .transformer import reference_model
from .vae import reference_vae, unit_frames

INDEX = "pipeline_index.json"
EMBEDS_LIMIT = 5e-5
VELOCITY_LIMIT = 5e-5
LATENT_LIMIT = 2e-4
VAE_LIMIT = 2e-5
PIXEL_LIMIT = 1e-4
NAMES = {Branch.POSITIVE: "txt_vit", Branch.NEGATIVE: "negtxt_vit", Branch.NEGATIVE_IMAGE: "uncond"}


def reference_pipelines(folder: Path) -> dict[str, Pipeline]:
    """A pipeline of the folder's miniature weights for each variant."""
    engine, tokens, _ = reference_engine(folder)
    system = replace(get_system("vogue"), latent_channels=4)
    system = replace(system, with_tokens=replace(system.with_tokens, latent_channels=4))
    model, vae = reference_model(folder), reference_vae(folder)
    return {
        "hidden": Pipeline(system, engine, None, model, vae),
        "queries": Pipeline(system, engine, tokens, model, vae),
    }


def references_of(pipeline: Pipeline, entry: dict[str, Any], tensors: dict[str, Tensor]) -> References:
    """The run's references: prepared here, but for clips, which decoders scale a little differently."""
    pictures = [tensors[name] for name in sorted(tensors) if name.startswith("in.ref_image.")]
    if "mid.cond_frames" in tensors:
        frames = tensors["mid.cond_frames"]
        seen = frames[vlm_frame_indices(len(frames), pipeline.system.vision.frames, repeat=False)]
        images = tuple(prepare_reference(picture, *frames.shape[1:3]) for picture in pictures)
        return References(images, (VideoReference(frames, seen, 24.0),))
    if "in.cond_image" in tensors:
        pictures.append(tensors["in.cond_image"])
    height, width = entry["height"] // 16 * 16, entry["width"] // 16 * 16
    area = entry["height"] * entry["width"]
    return prepare_references(pipeline.system, entry["task"], pictures, (), entry["num_frames"], (height, width), area)


def request_of(references: References, entry: dict[str, Any], latents: Tensor) -> Request:
    return Request(
        prompt=entry["prompt"],
        width=8 * latents.shape[-1],
        height=8 * latents.shape[-2],
        frames=entry["num_frames"],
        negative=entry["negative_prompt"],
        text_scale=entry["guidance_scale"],
        image_scale=entry["image_guidance_scale"],
        shift=7.0,
        steps=entry["num_inference_steps"],
        references=references,
        task=entry["task"],
    )


def reference_rows(case: str, references: References, tensors: dict[str, Tensor]) -> Iterator[Row]:
    """What VLM and VAE are given: exact, but for pixels that are not rounded."""
    squares = [name for name in sorted(tensors) if name.startswith("mid.ref_square.")]
    for image, name in zip(references.images, squares, strict=False):
        yield compare(case, name, image.pixels, tensors[name])
    if "mid.cond_pixels" in tensors:
        condition = references.images[-1]
        unit = to_unit_range(condition.packed).permute(2, 0, 1)[None]
        yield compare(case, "cond_pixels", unit, tensors["mid.cond_pixels"], PIXEL_LIMIT)
        yield compare(case, "cond_image_mllm", condition.pixels, tensors["mid.cond_image_mllm"])
    if "mid.mllm_frame_index" in tensors:
        chosen = tensors["mid.cond_frames"][tensors["mid.mllm_frame_index"].long()]
        yield compare(case, "mllm_frames", references.videos[0].vlm_frames, chosen)


def embed_rows(
    case: str, pipeline: Pipeline, request: Request, entry: dict[str, Any], tensors: dict[str, Tensor]
) -> Iterator[Row]:
    """The text of each branch, and what the MLLM makes of it."""
    images, videos = len(request.references.images), len(request.references.videos)
    prompt = request.instructed(pipeline.system)
    yield equal(case, "prompt", prompt, entry["prompt_with_prefix"])
    scales = request.text_scale, request.image_scale
    branches = branch_prompts(pipeline.system, prompt, request.negative, images, videos, False, *scales)
    # Without references the two negative branches are one, and only one of them is computed.
    passes = [name for name in entry["passes"] if name != "uncond" or images + videos]
    yield equal(case, "passes", {NAMES[branch] for branch in branches}, set(passes))
    visuals = encode_visuals(pipeline.engine, request.references, pipeline.system.vision)
    encoded = encode_branches(pipeline.engine, pipeline.system, list(branches.values()), visuals)
    for branch, one in zip(branches, encoded, strict=True):
        embeds = append_tokens(pipeline.engine, one, pipeline.tokens)
        name = f"mid.embeds.{NAMES[branch]}"
        yield compare(case, name, embeds, tensors[name], EMBEDS_LIMIT)


def step_rows(
    case: str, pipeline: Pipeline, request: Request, conditionings: dict, entry: dict, tensors: dict[str, Tensor]
) -> Iterator[Row]:
    """Every velocity of every step, from the step's own recorded latents."""
    levels, order = sigmas(request.steps, request.shift), entry["frame_order"]
    noisy = [index for index, role in enumerate(order) if role == "noisy"]
    for step in range(request.steps):
        latents, timestep = tensors[f"step{step}.x"], pipeline.timestep(levels[step : step + 1])
        velocities = {
            branch: pipeline.model(latents, timestep, conditioning, pipeline.guidance())
            for branch, conditioning in conditionings.items()
        }
        for branch, velocity in velocities.items():
            expected = tensors[f"step{step}.v_{NAMES[branch]}"]
            if expected.shape[2] == len(order):
                expected = expected[:, :, noisy]
            yield compare(case, f"step{step}.v_{NAMES[branch]}", velocity, expected, VELOCITY_LIMIT)
        guided = guided_velocity(velocities, request.text_scale, request.image_scale)
        yield compare(case, f"step{step}.v_guided", guided, tensors[f"step{step}.v_guided"], LATENT_LIMIT)


def case_rows(pipeline: Pipeline, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Row]:
    case = entry["name"]
    references = references_of(pipeline, entry, tensors)
    request = request_of(references, entry, tensors["in.noise"])
    request.validate(pipeline.system)
    yield from reference_rows(case, references, tensors)
    yield from embed_rows(case, pipeline, request, entry, tensors)

    conditionings = pipeline.encode(request)
    positive = conditionings[Branch.POSITIVE]
    first = request.arrangement(pipeline.system).first_frame is not None
    given = positive.conditions + positive.references[-1:] if first else positive.conditions
    for name, found in (("ref", () if first else positive.references), ("cond", given)):
        if f"mid.{name}_latents" in tensors:
            joined = torch.cat(found, dim=2)
            yield compare(case, f"{name}_latents", joined, tensors[f"mid.{name}_latents"], VAE_LIMIT)
    noise = tensors["in.noise"]
    packed = torch.cat([*positive.references, noise[:, :, int(first) :], *positive.conditions], dim=2)
    yield compare(case, "latents_full_step0", packed, tensors["mid.latents_full_step0"], VAE_LIMIT)

    yield from step_rows(case, pipeline, request, conditionings, entry, tensors)
    latents = pipeline.sample(request, conditionings, noise=noise)
    yield compare(case, "out.latents", latents, tensors["out.latents"], LATENT_LIMIT)
    if "out.video" in tensors:
        grey = (tensors["out.video"] * 255).floor()
        yield compare(case, "out.video", unit_frames(pipeline.vae, latents), tensors["out.video"], LATENT_LIMIT)
        yield compare(case, "frames", pipeline.decode(latents), grey, 1)


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    pipelines = reference_pipelines(folder)
    for entry in json.loads((folder / INDEX).read_text())["cases"]:
        yield from case_rows(pipelines[entry["variant"]], entry, load(folder / entry["file"]))
