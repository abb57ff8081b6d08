"""LoRA with PEFT, saved in the names that ComfyUI's own LoRA loader reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.files import FORMAT_VERSION
from ..checkpoints.header import TensorInfo
from ..checkpoints.writing import Plan, write_safetensors
from ..errors import InputError, needed
from ..mmdit.model import MMDiT
from . import draws
from .config import Lora

_PREFIX = "diffusion_model."
_ADAPTER = "default"


def add_lora(model: MMDiT, lora: Lora, seed: int) -> dict[str, nn.Parameter]:
    """Put low-rank updates on the model's matrices, in place; returns their parameters by name.

    The first factor's values depend on the seed and the name, the second starts at zero. Raises InputError when no
    matrix has one of the names in `lora.targets`.
    """
    with needed("LoRA training needs peft", "peft>=0.15"):
        from peft import LoraConfig, inject_adapter_in_model
    matrices = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name in matrices if any(f".{name}".endswith(f".{target}") for target in lora.targets)]
    if not names:
        ends = dict.fromkeys(re.sub(r".*blocks\.\d+\.", "", name) for name in matrices)
        raise InputError(
            f"lora.targets {list(lora.targets)}: no matrix of the model has such a name. Names end with "
            f"{', '.join(ends)}."
        )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    inject_adapter_in_model(config, model, _ADAPTER)
    chosen = {}
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                noise = torch.randn(parameter.shape, generator=draws.tensors(seed, "lora", name))
                parameter.data.copy_(noise / parameter.shape[1] ** 0.5)
            chosen[name] = parameter
        else:
            parameter.requires_grad_(False)
    return chosen


def lora_file(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Tensors of a LoRA file: both factors and alpha per matrix, under ComfyUI's names of the model's matrices.

    `weights` are the trained factors by their names in the model.
    """
    tensors = {}
    for name, tensor in weights.items():
        layer, _, factor = name.removesuffix(f".{_ADAPTER}.weight").rpartition(".")
        tensors[f"{_PREFIX}{layer}.{factor}.weight"] = tensor
        tensors[f"{_PREFIX}{layer}.alpha"] = torch.tensor(float(lora.alpha))
    return tensors


def save_lora(path: Path, weights: Mapping[str, Tensor], lora: Lora, system: str, overwrite: bool = False) -> None:
    """Write a LoRA file. Raises InputError when it exists already (unless `overwrite`) or cannot be written."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in lora_file(weights, lora).items()}
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    metadata = {"format": "pt", "format_version": FORMAT_VERSION, "system": system, "kind": "lora"}
    write_safetensors([Plan(path, infos, lambda name: [tensors[name]], metadata)], overwrite)
