"""How much memory a generation needs, estimated.

Weights are exact: parameters times bytes. Activations are an estimate: at its peak a single block holds about
`ROWS` copies of the sequence in the compute dtype (input, modulated input, q, k, v, MLP, rotated q and k, their fp32
intermediates, attention output, concatenation). 23 were measured on one forward pass (hidden 512, 12,256 tokens, bf16,
fused attention); without fused attention the need grows with the square of the tokens. Not included: the text encoder
(in bf16 8.9 GB for VINO, 16.6 GB for VOGUE) and the VAE, which run before and after and need not stay on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..checkpoints.layouts import native_shapes
from ..config import MMDiTConfig
from ..systems.base import System

ROWS = 24
TEXT_TOKENS = 512
"""Assumed length of prompt plus learnable tokens."""
IMAGE_TOKENS, VIDEO_TOKENS = 420, 2400
"""Text-stream tokens of one reference picture and one reference video, at the sizes to which VINO prepares them. For
VOGUE it is 522 for either, and none in its variant with learnable tokens."""
COMPUTE_BYTES = 2


@dataclass(frozen=True)
class Job:
    """A generation: size of the target and number of references."""

    name: str
    frames: int
    height: int
    width: int
    images: int = 0
    videos: int = 0


JOBS = {
    "vino": (
        Job("picture 640x640", 1, 640, 640),
        Job("picture 640x640, 1 reference", 1, 640, 640, images=1),
        Job("video 848x480, 49 frames", 49, 480, 848),
        Job("video 848x480, 85 frames", 85, 480, 848),
        Job("video 848x480, 81 frames, 3 references", 81, 480, 848, images=3),
        Job("video edit 848x480, 81 frames", 81, 480, 848, videos=1),
    ),
    "vogue": (
        Job("picture 832x480", 1, 480, 832),
        Job("picture edit 832x480", 1, 480, 832, images=1),
        Job("video 848x480, 61 frames", 61, 480, 848),
        Job("video 832x480, 129 frames, 3 references", 129, 480, 832, images=3),
        Job("video edit 848x480, 129 frames", 129, 480, 848, videos=1),
    ),
}
"""Typical generations of each published system."""


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
    text = TEXT_TOKENS + job.images * IMAGE_TOKENS + job.videos * VIDEO_TOKENS
    return target + references + text


def activation_bytes(job: Job, system: System, config: MMDiTConfig) -> int:
    """Estimated peak of a step besides the weights."""
    return ROWS * tokens(job, system) * config.hidden_size * COMPUTE_BYTES


def verdict(weights: int, activations: int, available: int | None, offload: bool) -> str:
    """ "fits", "with offload" (weights that do not fit stay in main memory), "too large" or "unknown".

    `offload`: whether the device has memory of its own, so that weights can stay elsewhere. Then a quarter more than
    the activations must be there, for the weights of the layers at work.
    """
    if available is None:
        return "unknown"
    if weights + activations <= available:
        return "fits"
    return "with offload" if offload and activations * 1.25 <= available else "too large"
