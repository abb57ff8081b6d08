"""Clips through ComfyUI's HunyuanVideo VAE, to the latents of the published one (docs/architecture.md).

Three things differ in ComfyUI's encoder for more than one frame. It rolls through time in pieces, each normalised by
its own statistics; where it halves the frame rate it carries one frame too many from piece to piece, so that latents
lag three frames behind and never see a clip's last three; and frames attend to later ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

_GROUP, _STEP = 17, 12
"""Frames that are encoded together, and from one group's start to the next one's, as in the published setup."""

_LEAD_FRAMES, _LEAD_LATENTS = 5, 2
"""What a group has in common with the one before, which keeps it."""


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Unscaled latents [1, 16, (T-1)/4 + 1, H/8, W/8] of pixels [T, H, W, 3] in 0..1, T = 4n + 1.

    Equal to `vino_core.vae.VAE.encode` but for rounding, and for tiles where memory makes ComfyUI use them. A VAE whose
    network does not roll, which ComfyUI's HunyuanVideo VAE does, encodes in its own way.
    """
    encoder = getattr(getattr(vae, "first_stage_model", None), "encoder", None)
    if len(pixels) == 1 or not getattr(encoder, "carried", False):
        return vae.encode(pixels)
    latents = []
    with _as_published(encoder):
        for start in (0, *range(_STEP, len(pixels) - _LEAD_FRAMES, _STEP)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            group = vae.encode(pixels[start : start + _GROUP])
            latents.append(group[:, :, _LEAD_LATENTS:] if start else group)
    return torch.cat(latents, dim=2)


@contextmanager
def _as_published(encoder: Any) -> Iterator[None]:
    """Let `encoder` work on whole groups, causally. Other users of the same VAE find it as it was."""
    attention = encoder.mid.attn_1
    saved = encoder.carried, attention.optimized_attention
    encoder.carried, attention.optimized_attention = False, frame_causal_attention
    try:
        yield
    finally:
        encoder.carried, attention.optimized_attention = saved


def frame_causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head over [B, C, T, H, W] in which a frame sees itself and earlier ones.

    Frame by frame, as a mask would have (THW)^2 entries.
    """

    def tokens(frames: Tensor) -> Tensor:
        return frames.flatten(2).transpose(1, 2)[:, None].contiguous()

    out = []
    for end in range(1, q.shape[2] + 1):
        query, keys, values = tokens(q[:, :, end - 1 : end]), tokens(k[:, :, :end]), tokens(v[:, :, :end])
        out.append(comfy.ops.scaled_dot_product_attention(query, keys, values))
    return torch.cat(out, dim=2)[:, 0].transpose(1, 2).reshape(q.shape)
