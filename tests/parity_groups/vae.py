"""The VAE alone: posterior, decoding, latents and pixels of the pipeline cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from vino_core.media.sizing import crop_to_unit
from vino_core.vae import VAE, to_unit_range

from . import Row, case_tensors, compare, load

INDEX = "pipeline_index.json"
LATENT_LIMIT = 2e-5
PIXEL_LIMIT = 1e-4


def reference_vae(folder: Path) -> VAE:
    """The folder's miniature VAE."""
    index = json.loads((folder / INDEX).read_text())
    weights = load(folder / index["vae"])
    return VAE.from_state({name.removeprefix("vae."): value for name, value in weights.items()}, index["vae_config"])


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    vae = reference_vae(folder)
    scale = vae.module.config.scaling_factor
    tensors = load(folder / "pipeline_cases.safetensors")
    for case in sorted({name.split("/")[0] for name in tensors}):
        expected = case_tensors(tensors, case)
        if "decode_of_mean" in expected:
            posterior = vae.module.encode(expected["x"]).latent_dist
            yield compare(case, "mean", posterior.mean, expected["mean"], LATENT_LIMIT)
            yield compare(case, "logvar", posterior.logvar, expected["logvar"], LATENT_LIMIT)
            decoded = vae.decode_unit(expected["mean"] * scale)
            yield compare(case, "decode_of_mean", decoded, expected["decode_of_mean"], PIXEL_LIMIT)
            continue
        pixels = [expected[f"in.letterboxed.{i}"] for i in range(len(expected)) if f"in.letterboxed.{i}" in expected]
        if "in.ref_video_frames_u8" in expected:
            clip = expected["in.ref_video_frames_u8"]
            height, width = crop_to_unit(*clip.shape[1:3])
            pixels.append(clip[:, :height, :width])
        for number, frames in enumerate(pixels):
            unit = to_unit_range(frames if frames.ndim == 4 else frames[None]).permute(3, 0, 1, 2)[None]
            posterior = vae.module.encode(unit).latent_dist
            yield compare(case, f"vae.mean.{number}", posterior.mean, expected[f"vae.mean.{number}"], LATENT_LIMIT)
            yield compare(
                case, f"vae.logvar.{number}", posterior.logvar, expected[f"vae.logvar.{number}"], LATENT_LIMIT
            )
            latents = vae.encode(frames)
            yield compare(case, f"pos.cond.{number}", latents, expected[f"pos.cond.{number}"], LATENT_LIMIT)
        if "decoded" in expected:
            decoded = vae.decode_unit(expected["final_latents"])
            yield compare(case, "decoded", decoded, expected["decoded"], PIXEL_LIMIT)
        yield compare(case, "output_u8", vae.decode(expected["final_latents"]), expected["output_u8"], 1)
