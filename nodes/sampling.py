"""Noise levels, guidance and the sampler."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ..vino_core.media.sizing import TEMPORAL_STRIDE, check_frames, check_size
from ..vino_core.sampling.guidance import Branch
from ..vino_core.sampling.sampler import initial_noise
from ..vino_core.sampling.schedule import sigmas
from ..vino_core.systems import DEFAULT, MAX_FRAMES, UNIT, get_system
from .comfy.guider import DualCFGGuider

TEXT_SCALE = {
    "default": 7.0,
    "min": 0.0,
    "max": 100.0,
    "step": 0.1,
    "round": 0.01,
    "tooltip": "How strongly the result follows the prompt rather than the negative prompt: 5 for pictures, 7 for "
    "videos; VOGUE: 5 to 7, see VINO Task Preset. At 1 or less the negative prompt is not computed at all, which VOGUE "
    "does not take.",
}
IMAGE_SCALE = {
    "default": 1.0,
    "min": 0.0,
    "max": 100.0,
    "step": 0.1,
    "round": 0.01,
    "tooltip": "How strongly the result follows the reference images: 1 to 3. Above 1 a third evaluation without the "
    "images runs in every step; VINO Interleaved Encoder must be set above 1 too. At 1 or less it is not computed.",
}
STEPS = {"default": 50, "min": 1, "max": 10000, "tooltip": "Number of sampling steps."}
SHIFT = {
    "default": 7.0,
    "min": 0.01,
    "max": 100.0,
    "step": 0.1,
    "round": 0.01,
    "tooltip": "How much of the run is spent at high noise: 5 for pictures, 7 for videos; VOGUE: 7 for both.",
}
DENOISE = {
    "default": 1.0,
    "min": 0.01,
    "max": 1.0,
    "step": 0.01,
    "tooltip": "1 starts from pure noise. Below 1 the run starts from latent_image with less noise, keeping more of "
    "it.",
}


def noise_levels(steps: int, shift: float, denoise: float) -> torch.Tensor:
    """The last `steps` noise levels of a schedule that would take steps / denoise."""
    return sigmas(round(steps / denoise), shift)[-(steps + 1) :]


def make_guider(
    model: io.Model.Type,
    positive: list,
    negative: list,
    negative_image: list | None,
    text_scale: float,
    image_scale: float,
) -> DualCFGGuider:
    """A guider for the three branches."""
    guider = DualCFGGuider(model)
    conditionings = {Branch.POSITIVE: positive, Branch.NEGATIVE: negative}
    if negative_image is not None:
        conditionings[Branch.NEGATIVE_IMAGE] = negative_image
    guider.set_branches(conditionings, text_scale, image_scale)
    return guider


def branch_inputs() -> list[io.Input]:
    """Sockets of the three conditionings."""
    return [
        io.Conditioning.Input("positive", tooltip="The prompt with all references."),
        io.Conditioning.Input("negative", tooltip="The negative prompt with all references."),
        io.Conditioning.Input(
            "negative_image",
            optional=True,
            tooltip="The negative prompt without the images. Only read when image_scale is above 1.",
        ),
    ]


class VINOEmptyLatent(io.ComfyNode):
    """Zeros of the size to generate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOEmptyLatent",
            display_name="VINO Empty Latent",
            category="VINO/latent",
            description="An empty latent of the size and length to generate. Length 1 makes a picture.",
            search_aliases=["empty latent video", "new latent", "resolution", "video size"],
            inputs=[
                io.Int.Input(
                    "width",
                    default=848,
                    min=UNIT,
                    max=8192,
                    step=UNIT,
                    tooltip="Width in pixels, a multiple of 16. Connect VINO References to take it from a reference.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=UNIT,
                    max=8192,
                    step=UNIT,
                    tooltip="Height in pixels, a multiple of 16.",
                ),
                io.Int.Input(
                    "length",
                    default=81,
                    min=1,
                    max=MAX_FRAMES,
                    step=TEMPORAL_STRIDE,
                    tooltip="Number of frames: 1 for a picture, or 5, 9, 13 ... 89 (VOGUE: 129) for a video at 24 "
                    "frames per second.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many results to generate at once."),
            ],
            outputs=[io.Latent.Output(tooltip="The empty latent.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, length: int, batch_size: int) -> io.NodeOutput:
        check_size(width, height, UNIT)
        check_frames(length, MAX_FRAMES)
        # All systems share one latent space; ComfyUI adapts an empty latent to a model with another one.
        system = get_system(DEFAULT)
        shape = (batch_size, system.latent_channels, *system.latent_grid(length, height, width))
        samples = torch.zeros(
            shape,
            device=comfy.model_management.intermediate_device(),
            dtype=comfy.model_management.intermediate_dtype(),
        )
        return io.NodeOutput({"samples": samples})


class VINOScheduler(io.ComfyNode):
    """VINO's exact noise levels for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOScheduler",
            display_name="VINO Scheduler",
            category="VINO/sampling",
            description="VINO's noise levels for SamplerCustomAdvanced. The stock 'simple' scheduler gives the same "
            "ones only when the number of steps divides 1000.",
            search_aliases=["sigmas", "flow shift", "timestep shift"],
            inputs=[
                io.Int.Input("steps", **STEPS),
                io.Float.Input("shift", **SHIFT),
                io.Float.Input("denoise", **DENOISE),
            ],
            outputs=[io.Sigmas.Output(tooltip="steps + 1 noise levels, from high to 0.")],
        )

    @classmethod
    def execute(cls, steps: int, shift: float, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(noise_levels(steps, shift, denoise))


class VINODualCFGGuider(io.ComfyNode):
    """Text and image guidance for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINODualCFGGuider",
            display_name="VINO Dual CFG Guider",
            category="VINO/sampling",
            description="Guidance by text and by images for SamplerCustomAdvanced. A branch whose scale is 1 or less "
            "is never computed.",
            search_aliases=["cfg", "guidance", "image cfg", "dual cfg"],
            inputs=[
                io.Model.Input("model", tooltip="The VINO model."),
                *branch_inputs(),
                io.Float.Input("text_scale", **TEXT_SCALE),
                io.Float.Input("image_scale", **IMAGE_SCALE),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: list,
        negative: list,
        text_scale: float,
        image_scale: float,
        negative_image: list | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(make_guider(model, positive, negative, negative_image, text_scale, image_scale))


class VINOSampler(io.ComfyNode):
    """Everything from noise to latent in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOSampler",
            display_name="VINO Sampler",
            category="VINO/sampling",
            description="Samples with VINO's own schedule, guidance and Euler steps. The same seed gives the same "
            "noise as `vino generate`.",
            search_aliases=["ksampler", "generate", "denoise", "vino"],
            inputs=[
                io.Model.Input("model", tooltip="The VINO model."),
                *branch_inputs(),
                io.Latent.Input("latent_image", tooltip="An empty latent, or one to start from with denoise below 1."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Fixes the noise: the same seed and settings give the same result.",
                ),
                io.Int.Input("steps", **STEPS),
                io.Float.Input("shift", **SHIFT),
                io.Float.Input("text_scale", **TEXT_SCALE),
                io.Float.Input("image_scale", **IMAGE_SCALE),
                io.Float.Input("denoise", **DENOISE),
            ],
            outputs=[io.Latent.Output(tooltip="The sampled latent, for VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: list,
        negative: list,
        latent_image: io.Latent.LatentDict,
        seed: int,
        steps: int,
        shift: float,
        text_scale: float,
        image_scale: float,
        denoise: float,
        negative_image: list | None = None,
    ) -> io.NodeOutput:
        guider = make_guider(model, positive, negative, negative_image, text_scale, image_scale)
        start = comfy.sample.fix_empty_latent_channels(
            model,
            latent_image["samples"],
            latent_image.get("downscale_ratio_spacial"),
            latent_image.get("downscale_ratio_temporal"),
        )
        samples = guider.sample(
            _noise_of(latent_image, start, seed),
            start,
            comfy.samplers.sampler_object("euler"),
            noise_levels(steps, shift, denoise),
            denoise_mask=latent_image.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        out = {name: value for name, value in latent_image.items() if not name.startswith("downscale_ratio_")}
        out["samples"] = samples.to(comfy.model_management.intermediate_device())
        return io.NodeOutput(out)


def _noise_of(latent_image: io.Latent.LatentDict, start: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise [B, C, t, h, w] for `start`; results taken out of a batch get the noise that they had in it."""
    places = latent_image.get("batch_index")
    if places is None:
        return initial_noise(tuple(start.shape), seed)
    return initial_noise((max(places) + 1, *start.shape[1:]), seed)[list(places)]
