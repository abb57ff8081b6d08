"""Makes ComfyUI's own loaders recognise VINO files.

ComfyUI has no call for this: packs extend its list of models. A file of VINO or VOGUE has HunyuanVideo's names plus a
connector of its own, so without this it would load as a HunyuanVideo, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.lora
import comfy.model_base
import comfy.model_detection
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor

from ...vino_core.checkpoints.files import LEARNABLE, SAVED, infer_mmdit_config, saved_metadata, seems_for
from ...vino_core.checkpoints.layouts import NORM
from ...vino_core.systems import SYSTEMS, system_of
from .lora import lora_keys
from .model import VINO

MARKS = frozenset(f"{system.text_connector}.{NORM}.weight" for system in SYSTEMS.values())
"""Weights of connectors, that no other model has. Norms keep their name and type in quantised files."""


class SupportedVINO(comfy.supported_models_base.BASE):
    """VINO in ComfyUI's list of supported models."""

    unet_config = {"image_model": "vino"}  # only `detect` says so
    unet_extra_config: dict[str, Any] = {}
    latent_format = comfy.latent_formats.HunyuanVideo
    memory_usage_factor = 1.8
    supported_inference_dtypes = [torch.bfloat16, torch.float32]

    def __init__(self, unet_config: dict[str, Any]) -> None:
        super().__init__(unet_config)
        # For samplers of others, which ask the model; the pack's own have a shift of their own.
        self.sampling_settings = {"shift": unet_config["system"].presets["t2v"].shift}

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None) -> VINO:
        return VINO(self, device=device)

    def inpaint_model(self) -> bool:
        return False

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in state_dict.items() if name not in SAVED.values()}

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """ComfyUI's saving nodes write no metadata of ours, so dimensions and system go along as tensors."""
        texts = {"config": self.unet_config["config"].to_json(), "system": self.unet_config["system"].name}
        if self.unet_config["learnable"] is not None:
            texts[LEARNABLE] = str(self.unet_config["learnable"])
        extras = {SAVED[key]: torch.tensor(list(text.encode()), dtype=torch.uint8) for key, text in texts.items()}
        return super().process_unet_state_dict_for_saving({**state_dict, **extras})


def detect(
    weights: Mapping[str, Tensor], prefix: str, metadata: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """ComfyUI's `detect_unet_config`, with VINO in front of it."""
    if not any(prefix + mark in weights for mark in MARKS):
        return _detect(weights, prefix, metadata=metadata)
    shapes = {
        # GGUF files flatten convolutions and keep the true shape beside them.
        name[len(prefix) :]: tuple(getattr(tensor, "tensor_shape", tensor.shape))
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    stored = {name: weights[prefix + name] for name in SAVED.values() if prefix + name in weights}
    said = {"system": seems_for(shapes), **(metadata or {}), **saved_metadata(stored)}
    return {
        "image_model": "vino",
        "system": system_of(said, "model"),
        "config": infer_mmdit_config(shapes, said),
        "learnable": int(said[LEARNABLE]) if LEARNABLE in said else None,
    }


_detect = comfy.model_detection.detect_unet_config


def register() -> None:
    """Add VINO to ComfyUI's models, in front: HunyuanVideo's entry would match too. Again has no effect."""
    if SupportedVINO not in comfy.supported_models.models:
        comfy.supported_models.models.insert(0, SupportedVINO)
        comfy.model_detection.detect_unet_config = detect
        comfy.lora.model_lora_keys_unet = lora_keys
