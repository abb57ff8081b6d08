"""Telling loaded models apart by what they hold: ComfyUI hands them from node to node without the name of a file."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

_SAMPLES = 64
"""Numbers of each tensor that are looked at: enough to tell two trainings apart, few enough for 16 GB in a second."""


def weights_digest(owner: Any) -> str:
    """SHA-256 over names, shapes, types and some numbers of all weights of a CLIP or VAE, and over its patches (LoRAs).

    The same whether the weights are loaded, patched in place, or on which device. A VAE of another pack that has no
    ModelPatcher is known by its class alone.
    """
    found = sha256(type(owner).__qualname__.encode())
    patcher = getattr(owner, "patcher", None)
    if patcher is None:
        return found.hexdigest()
    for name, weight in sorted(patcher.model_state_dict().items()):
        kept = patcher.backup.get(name)
        for part in (name, *_pieces(weight if kept is None else kept.weight), *_pieces(patcher.patches.get(name))):
            found.update(part if isinstance(part, bytes) else part.encode())
    return found.hexdigest()


def _pieces(value: Any) -> Iterable[str | bytes]:
    """What stands for `value` in a digest: a weight, or a patch with its strengths."""
    if isinstance(value, Tensor):
        yield from _sample(getattr(value, "_qdata", value))  # ComfyUI's QuantizedTensor keeps its numbers there
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _pieces(item)
    elif hasattr(value, "weights"):  # a LoRA, LoHa, ... as ComfyUI's weight adapters hold it
        yield type(value).__qualname__
        yield from _pieces(value.weights)
    elif value is None or isinstance(value, (str, int, float)):
        yield repr(value)


def _sample(tensor: Tensor) -> Iterable[str | bytes]:
    yield f"{tuple(tensor.shape)} {tensor.dtype}"
    numbers = tensor.detach().reshape(-1)
    count = min(_SAMPLES, len(numbers))
    chosen = numbers[[(len(numbers) - 1) * place // max(1, count - 1) for place in range(count)]]
    yield chosen.cpu().contiguous().view(torch.uint8).numpy().tobytes()
