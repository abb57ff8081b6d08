"""Loaders. ComfyUI's own (Load Diffusion Model, Load CLIP, Load VAE) work as well; these check what they load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io

from ..vino_core.checkpoints.files import SAVED, load_tokens, made_for, open_model
from ..vino_core.checkpoints.header import FP8, TensorInfo, read_header
from ..vino_core.errors import InputError
from .comfy.registration import MARKS
from .comfy.text_encoder import load_text_encoder
from .types import LearnableTokens, TokensType

_WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def file_input(name: str, folder: str, what: str) -> io.Input:
    """A choice among the files of one of ComfyUI's model folders."""
    return io.Combo.Input(
        name, options=folder_paths.get_filename_list(folder), tooltip=f"{what} It is looked for in models/{folder}."
    )


def check_scales(file: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise InputError for fp8 weights whose scales are lost: they would load as noise."""
    for name, info in tensors.items():
        layer = name.removesuffix(".weight")
        scales = (f"{layer}.weight_scale", f"{layer}.scale_weight")
        if layer != name and info.dtype in FP8 and not any(scale in tensors for scale in scales):
            raise InputError(
                f"model_name '{file}': {name} is fp8 and has no scale, so its values cannot be restored. Use a "
                "scaled fp8 file, or a bf16 file with weight_dtype fp8_e4m3fn."
            )


class VINOModelLoader(io.ComfyNode):
    """Loads the MMDiT and its connectors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOModelLoader",
            display_name="VINO Model Loader",
            category="VINO/loaders",
            description="Loads the model file of VINO or VOGUE and checks it. Load Diffusion Model works as well.",
            search_aliases=["load diffusion model", "unet loader", "checkpoint", "vino", "vogue", "univideo"],
            inputs=[
                file_input(
                    "model_name",
                    "diffusion_models",
                    "vino_*.safetensors or vogue_*.safetensors, made by `vino convert`.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(_WEIGHT_DTYPES),
                    tooltip="default keeps the file's type. fp8 halves the memory of bf16 weights and costs some "
                    "quality; 'fast' also computes in fp8 where the graphics card can.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for a sampler or guider.")],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        names = read_header(path).tensors
        check_scales(model_name, names)
        # Names and shapes of what ComfyUI saved or quantised itself are its own to judge.
        own = any(name.endswith((".comfy_quant", ".scale_weight", ".weight_scale", *SAVED.values())) for name in names)
        if not (own and any(name.endswith(tuple(MARKS)) for name in names)):
            open_model(path)
        return io.NodeOutput(comfy.sd.load_diffusion_model(path, model_options=dict(_WEIGHT_DTYPES[weight_dtype])))


class VINOTextEncoderLoader(io.ComfyNode):
    """Loads a vision-language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOTextEncoderLoader",
            display_name="VINO Text Encoder Loader",
            category="VINO/loaders",
            description="Loads Qwen3-VL-4B-Instruct (VINO) or Qwen2.5-VL-7B-Instruct (VOGUE), or one in another size "
            "for a model that was trained with it. Load CLIP works as well, with type 'stable_diffusion' for the "
            "first and 'qwen_image' for the second.",
            search_aliases=["load clip", "clip loader", "qwen3 vl", "qwen2.5 vl", "vino", "vogue"],
            inputs=[
                file_input(
                    "text_encoder_name",
                    "text_encoders",
                    "Qwen3-VL-4B-Instruct or Qwen2.5-VL-7B-Instruct as one safetensors file, fp8 too.",
                ),
                io.Combo.Input(
                    "device",
                    options=["default", "cpu"],
                    tooltip="default computes on the graphics card. cpu is slower and leaves its memory to the model.",
                ),
            ],
            outputs=[
                io.Clip.Output(tooltip="The text encoder, for VINO Interleaved Encoder and VINO Learnable Tokens.")
            ],
        )

    @classmethod
    def execute(cls, text_encoder_name: str, device: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("text_encoders", text_encoder_name)
        return io.NodeOutput(load_text_encoder(path, folder_paths.get_folder_paths("embeddings"), device))


class VINOTokensLoader(io.ComfyNode):
    """Loads the learnable tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOTokensLoader",
            display_name="VINO Tokens Loader",
            category="VINO/loaders",
            description="Loads the learnable tokens that belong to the model. VOGUE 'hidden' has none.",
            search_aliases=["metaquery", "embedding", "query tokens", "vino"],
            inputs=[file_input("tokens_name", "embeddings", "*_tokens*.safetensors, made by `vino convert`.")],
            outputs=[
                TokensType.Output(
                    display_name="tokens", tooltip="For VINO Learnable Tokens, and VINO Interleaved Encoder with VOGUE."
                )
            ],
        )

    @classmethod
    def execute(cls, tokens_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("embeddings", tokens_name)
        return io.NodeOutput(LearnableTokens(load_tokens(path), made_for(path)))
