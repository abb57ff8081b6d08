"""How much memory a generation needs, estimated.

Weights are exact: parameters times bytes. Activations are an estimate: at its peak a single block holds about
`ROWS` copies of the sequence in the compute dtype (input, modulated input, q, k, v, MLP, rotated q and k, their fp32
intermediates, attention output, concatenation). 23 were measured on one forward pass (hidden 512, 12,256 tokens, bf16,
fused attention); without fused attention the need grows with the square of the tokens. Not included: the text encoder
(in bf16 8.9 GB for VINO, 16.6 GB for VOGUE) and the VAE, which run before and after and need not stay on the device.
"""

from __future__ import annotations

from math import prod

from ..checkpoints.layouts import native_shapes
from ..config import MMDiTConfig
from ..systems.base import Job, PixelLimits, System

ROWS = 24
TEXT_TOKENS = 512
"""Assumed length of prompt, labels and learnable tokens."""
COMPUTE_BYTES = 2


def parameters(config: MMDiTConfig) -> int:
    """Number of weights of the MMDiT with its connectors."""
    return sum(prod(shape) for shape in native_shapes(config).values())


def tokens(job: Job, system: System) -> int:
    """Length of the joint sequence: target, references with their boundary tokens (two each, if any), text stream."""
    time, rows, columns = system.latent_grid(job.frames, job.height, job.width)
    _, patch, _ = system.mmdit.patch_size
    target = time * (rows // patch) * (columns // patch)
    picture = target // time if system.one_size else system.area // system.unit**2
    bounds = 0 if system.boundary_connector is None else 2
    references = job.images * (picture + bounds) + job.videos * (picture * time + bounds)
    return target + references + _text_tokens(job, system)


def _text_tokens(job: Job, system: System) -> int:
    """Length of the text stream where every picture and frame is as large as the VLM takes it."""
    vision = system.vision
    if system.prompt.keeps == "text" or not vision.shown:
        return TEXT_TOKENS
    pixels = (vision.patch * vision.merge) ** 2
    picture = min(system.area, _most(vision.image_first, vision.image_second)) // pixels
    frame = _most(vision.video_first, vision.video_second, vision.frames) // pixels
    groups = -(-vision.frames // vision.temporal_patch)
    return TEXT_TOKENS + job.images * picture + job.videos * frame * groups


def _most(first: PixelLimits, second: PixelLimits | None, frames: int = 1) -> int:
    """Pixels at most of a picture, or of one of `frames`, over which the second resize counts together."""
    return first.max_pixels if second is None else min(first.max_pixels, second.max_pixels // frames)


def activation_bytes(job: Job, system: System, config: MMDiTConfig) -> int:
    """Estimated peak of a step besides the weights."""
    return ROWS * tokens(job, system) * config.hidden_size * COMPUTE_BYTES


def verdict(weights: int, activations: int, available: int | None, offload: bool) -> str:
    """ "fits", "with offload" (weights that do not fit stay in main memory, as in ComfyUI), "too large" or "unknown".

    `offload`: whether the device has memory of its own, so that weights can stay elsewhere. Then a quarter more than
    the activations must be there, for the weights of the layers at work.
    """
    if available is None:
        return "unknown"
    if weights + activations <= available:
        return "fits"
    return "with offload" if offload and activations * 1.25 <= available else "too large"
