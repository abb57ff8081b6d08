"""LoRA files in the official checkpoint's (diffusers-style) names. Native names work without this."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.utils

from ...vino_core.checkpoints.lora import lora_targets
from .model import VINO

_PREFIXES = ("transformer.", "diffusion_model.", "base_model.model.")


def official_lora_keys(model: VINO) -> dict[str, Any]:
    """Layer names as LoRA files write them -> the weight, or the rows of it, that they change, as ComfyUI takes it."""
    keys: dict[str, Any] = {}
    for name, target in lora_targets(model.diffusion_model.config).items():
        key: Any = f"diffusion_model.{target.key}"
        if target.swap:
            key = (key, target.rows, comfy.utils.swap_scale_shift)
        elif target.rows is not None:
            key = (key, target.rows)
        for prefix in _PREFIXES:
            keys[prefix + name] = key
        underscored = name.replace(".", "_")
        keys[f"lora_transformer_{underscored}"] = key
        keys[f"lycoris_{underscored}"] = key
    return keys


def lora_keys(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
    """ComfyUI's `model_lora_keys_unet`, which adds VINO's official names for a VINO model."""
    keys = _lora_keys(model, {} if key_map is None else key_map)
    if isinstance(model, VINO):
        keys.update({name: key for name, key in official_lora_keys(model).items() if name not in keys})
    return keys


_lora_keys = comfy.lora.model_lora_keys_unet
