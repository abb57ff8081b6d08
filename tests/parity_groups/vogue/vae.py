"""VOGUE's miniature VAE: latents of what its runs prepared, frames of what they made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vino_core.media.canvases import on_canvas
from vino_core.vae import VAE

from .. import Row, compare, load

INDEX = "pipeline_index.json"
LIMIT = 2e-5


def reference_vae(folder: Path) -> VAE:
    """The folder's miniature VAE."""
    config = json.loads((folder / INDEX).read_text())["vae_config"]
    return VAE.from_state(load(folder / "weights_vae.safetensors"), config)


def unit_frames(vae: VAE, latents: Tensor) -> Tensor:
    """Decoded frames [B, T, H, W, 3] in 0..1."""
    return (vae.decode_unit(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)


@torch.no_grad()
def check(folder: Path) -> Iterator[Row]:
    vae = reference_vae(folder)
    for entry in json.loads((folder / INDEX).read_text())["cases"]:
        case, tensors = entry["name"], load(folder / entry["file"])
        if "mid.ref_latents" in tensors:
            height, width = (8 * side for side in tensors["mid.ref_latents"].shape[-2:])
            squares = [tensors[name] for name in sorted(tensors) if name.startswith("mid.ref_square.")]
            latents = torch.cat([vae.encode(on_canvas(square, height, width)) for square in squares], dim=2)
            yield compare(case, "ref_latents", latents, tensors["mid.ref_latents"], LIMIT)
        if "mid.cond_frames" in tensors:
            yield compare(
                case, "cond_latents", vae.encode(tensors["mid.cond_frames"]), tensors["mid.cond_latents"], LIMIT
            )
        if "mid.cond_pixels" in tensors:
            pixels = tensors["mid.cond_pixels"][0].permute(1, 2, 0) * 127.5 + 127.5
            yield compare(case, "cond_latents", vae.encode(pixels), tensors["mid.cond_latents"], LIMIT)
        if "out.video" in tensors:
            frames = unit_frames(vae, tensors["out.latents"])
            yield compare(case, "video", frames, tensors["out.video"], LIMIT)
