"""References as latents on the conditionings."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vino_core.errors import InputError
from ..vino_core.systems.base import Arrangement, System
from .comfy.conditioning import ABSENT, BEHIND, FIRST_FRAME, REFERENCES
from .comfy.guider import check_finite
from .comfy.systems import conditioning_system, expect_same
from .comfy.vae import encode
from .types import PreparedReferences, ReferencesType


class VINOReferenceLatents(io.ComfyNode):
    """Encodes every reference once and attaches it to the branches that see it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOReferenceLatents",
            display_name="VINO Reference Latents",
            category="VINO/conditioning",
            description="Encodes each reference with the VAE, once, and attaches the latents to the conditionings.",
            search_aliases=["reference latent", "vae encode", "image conditioning", "vino"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From VINO Learnable Tokens."),
                io.Conditioning.Input("negative", tooltip="From VINO Learnable Tokens."),
                io.Conditioning.Input("negative_image", tooltip="From VINO Learnable Tokens."),
                io.Vae.Input("vae", tooltip="HunyuanVideo's VAE, or the VAE of another system."),
                ReferencesType.Input("references", tooltip="The references that the encoder got."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the latents of all references."),
                io.Conditioning.Output(display_name="negative", tooltip="With the latents of all references."),
                io.Conditioning.Output(display_name="negative_image", tooltip="With those that this branch keeps."),
            ],
        )

    @classmethod
    def execute(
        cls, positive: list, negative: list, negative_image: list, vae: io.Vae.Type, references: PreparedReferences
    ) -> io.NodeOutput:
        system = conditioning_system(positive, "positive")
        for name, branch in (("negative", negative), ("negative_image", negative_image)):
            expect_same(name, conditioning_system(branch, name), system, "positive")
        prepared = references.for_system(system)
        latents = [encode_frames(system, vae, clip) for clip in prepared.packed]
        places = references.arrangement(system)
        return io.NodeOutput(*(_attach(branch, latents, places) for branch in (positive, negative, negative_image)))


def encode_frames(system: System, vae: io.Vae.Type, pixels: Tensor) -> Tensor:
    """Unscaled latents [1, 16, t, h, w] of [T, H, W, 3] in 0..255. Raises InputError for a VAE of another kind."""
    frames, height, width, _ = pixels.shape
    latents = encode(vae, pixels.to(torch.float32) / 255)
    expected = (1, system.latent_channels, *system.latent_grid(frames, height, width))
    if tuple(latents.shape) != expected:
        raise InputError(
            f"vae: {frames} frames of {width}x{height} pixels became latents {list(latents.shape)} instead of "
            f"{list(expected)}. Load the VAE of {system.name} (published VINO and VOGUE: "
            "hunyuan_video_vae_bf16.safetensors)."
        )
    check_finite("vae", latents, "The VAE overflows in this precision: start ComfyUI with --bf16-vae or --fp32-vae.")
    return latents


def _attach(conditioning: list, latents: list[Tensor], places: Arrangement) -> list:
    attached = []
    for states, values in conditioning:
        if ABSENT not in values:
            indices = values.get(REFERENCES, ())
            if any(index >= len(latents) for index in indices):
                raise InputError(
                    f"references: the prompt was encoded with at least {max(indices) + 1} references, but "
                    f"{len(latents)} are connected here. Connect the same VINO References as at the encoder."
                )
            before, behind = (
                [latents[index] for index in group if index in indices] for group in (places.leading, places.after)
            )
            values = {**values, "reference_latents": before + behind, BEHIND: len(behind)}
            if places.first_frame is not None:
                values[FIRST_FRAME] = latents[places.first_frame]
        attached.append([states, values])
    return attached
