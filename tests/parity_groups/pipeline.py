"""Whole runs, from prepared references to frames, against pipeline_cases.safetensors."""

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
from vino_core.media.references import ImageReference, References, VideoReference, prepare_video
from vino_core.media.sizing import crop_to_unit
from vino_core.mmdit.connectors import connect
from vino_core.pipeline import Pipeline
from vino_core.request import Request
from vino_core.sampling.guidance import Branch, guided_velocity
from vino_core.sampling.sampler import initial_noise
from vino_core.sampling.schedule import sigmas
from vino_core.systems import get_system

from . import Row, case_tensors, compare, equal, load
from .mm_encoder import reference_connectors, reference_engine
from .transformer import build, config_of
from .vae import reference_vae

INDEX = "pipeline_index.json"
CONTEXT_LIMIT = 2e-5
LATENT_LIMIT = 1e-4
GREY_LEVEL = 1.0
NAMES = {Branch.POSITIVE: "pos", Branch.NEGATIVE: "uncond", Branch.NEGATIVE_IMAGE: "uncond_img"}
VELOCITIES = {"v_pos": Branch.POSITIVE, "v_uncond": Branch.NEGATIVE, "v_uncond_img": Branch.NEGATIVE_IMAGE}


def reference_pipeline(folder: Path) -> Pipeline:
    """A pipeline of the folder's miniature weights."""
    engine, weights, encoder_index = reference_engine(folder)
    dimensions = json.loads((folder / "transformer_index.json").read_text())["config"]
    model = build(config_of(dimensions), load(folder / json.loads((folder / INDEX).read_text())["transformer"]))
    for connector in reference_connectors(weights, encoder_index["config"]).values():
        model.add_module(connector.config.name, connector)
    tokens = weights["mm_encoder.metaquery"]
    return Pipeline(get_system("vino"), engine, tokens, model.eval(), reference_vae(folder))


def reference_request(folder: Path, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Request:
    """The request of one case, on its own prepared references."""
    row, frames = entry["task_row"], entry["run_num_frames"]
    images = [ImageReference(tensors[f"in.letterboxed.{i}"]) for i in range(len(row.get("ref_image_paths") or []))]
    videos = []
    if row.get("ref_video_path"):
        decoded = tensors["in.ref_video_frames_u8"]
        height, width = crop_to_unit(*decoded.shape[1:3])
        seen = prepare_video(folder / "media" / row["ref_video_path"], frames).vlm_frames
        videos = [VideoReference(decoded[:, :height, :width].contiguous(), seen, entry["fps"])]
    return Request(
        prompt=row["caption"],
        width=entry["run_width"],
        height=entry["run_height"],
        frames=frames,
        negative=entry["negative_prompt" if frames == 1 else "negative_prompt_video"],
        references=References(tuple(images), tuple(videos)),
        text_scale=entry["guidance_scale"],
        image_scale=entry["guidance_scale_image"],
        shift=entry["timestep_shift"],
        steps=entry["num_inference_steps"],
        seed=entry["noise_seed"],
        base_image=bool(row.get("ref_image_have_base")),
    )


def encoder_rows(case: str, pipeline: Pipeline, request: Request, entry: dict, tensors: dict) -> Iterator[Row]:
    """Per branch: its prompt, its references, boundary positions, and both connectors on every token."""
    refs = request.references
    counts = (len(refs.images), len(refs.videos))
    branches = branch_prompts(
        pipeline.system,
        request.prompt,
        request.negative,
        *counts,
        request.base_image,
        request.text_scale,
        request.image_scale,
    )
    yield equal(case, "branches", {NAMES[b] for b in branches}, set(entry["branches"]))
    visuals = encode_visuals(pipeline.engine, refs, pipeline.system.vision)
    encoded = encode_branches(pipeline.engine, pipeline.system, list(branches.values()), visuals)
    for (branch, seen), prompt in zip(branches.items(), encoded, strict=True):
        name = NAMES[branch]
        expected = entry["branches"][name]
        conditions = expected.get("effective_conds_are_pos_indices", list(range(expected["n_conds_effective"])))
        pairs = list(zip(expected["pos_vs"][0], expected["pos_ve"][0], strict=False))
        yield equal(case, f"{name}.prompt", seen.text, expected["prompt"])
        yield equal(case, f"{name}.references", list(seen.references), conditions)
        yield equal(case, f"{name}.boundaries", [tuple(p) for p in prompt.plan.boundaries], pairs)
        states = append_tokens(pipeline.engine, prompt, pipeline.tokens)
        yield equal(case, f"{name}.tokens", states.shape[1], expected["n_vlm_tokens"])
        every_row = [(row, row) for row in range(states.shape[1])]
        text, _ = connect(pipeline.model, pipeline.system, states, [])
        special = connect(pipeline.model, pipeline.system, states, every_row).boundaries[:, ::2]
        for quantity, actual in (("context", text), ("special", special)):
            for suffix, rows in (("", None), ("_rows", "rows_idx"), ("_boundary_rows", "boundary_idx")):
                key = f"{name}.{quantity}{suffix}"
                if key in tensors:
                    chosen = actual if rows is None else actual[:, tensors[f"{name}.{rows}"]]
                    yield compare(case, key, chosen, tensors[key], CONTEXT_LIMIT)


def step_rows(
    case: str, pipeline: Pipeline, request: Request, conditionings: dict, tensors: dict[str, Tensor]
) -> Iterator[Row]:
    """Every velocity of every step, from the step's own recorded latents."""
    levels = sigmas(request.steps, request.shift)
    guidance = torch.tensor([pipeline.system.guidance_input])
    for step in range(request.steps):
        latents, timestep = tensors[f"step{step}.latents_in"], levels[step : step + 1] * pipeline.system.timestep_scale
        velocities = {b: pipeline.model(latents, timestep, c, guidance) for b, c in conditionings.items()}
        for name, branch in VELOCITIES.items():
            if branch in velocities:
                yield compare(case, f"step{step}.{name}", velocities[branch], tensors[f"step{step}.{name}"], 2e-5)
        guided = guided_velocity(velocities, request.text_scale, request.image_scale)
        yield compare(case, f"step{step}.v_guided", guided, tensors[f"step{step}.v_guided"], LATENT_LIMIT)


@torch.no_grad()
def check_case(folder: Path, pipeline: Pipeline, case: str, entry: dict, tensors: dict[str, Tensor]) -> Iterator[Row]:
    request = reference_request(folder, entry, tensors)
    noise = initial_noise(tuple(tensors["noise"].shape), entry["noise_seed"])
    yield compare(case, "noise", noise, tensors["noise"])
    yield from encoder_rows(case, pipeline, request, entry, tensors)
    for index, latent in enumerate(pipeline.reference_latents(request)):
        yield compare(case, f"pos.cond.{index}", latent, tensors[f"pos.cond.{index}"], CONTEXT_LIMIT)
    conditionings = pipeline.encode(request)
    yield from step_rows(case, pipeline, request, conditionings, tensors)
    latents = pipeline.sample(request, conditionings)
    yield compare(case, "final_latents", latents, tensors["final_latents"], LATENT_LIMIT)
    yield compare(case, "output_u8", pipeline.decode(latents), tensors["output_u8"], GREY_LEVEL)


def check(folder: Path) -> Iterator[Row]:
    index = json.loads((folder / INDEX).read_text())
    cases = load(folder / "pipeline_cases.safetensors")
    pipeline = reference_pipeline(folder)
    scale = index["vae_config"]["scaling_factor"]
    pipeline.system = replace(pipeline.system, latent_scale=scale)
    for case, entry in index["cases"].items():
        yield from check_case(folder, pipeline, case, entry, case_tensors(cases, case))
