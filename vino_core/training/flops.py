"""How many floating-point operations a pass takes, and how many a machine can do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..mmdit.model import MMDiT

TRAINING = 3
"""A step costs the forward pass once more for each of the two gradients; recomputed activations do not count."""


class ForwardCost:
    """Operations of one sample's forward pass through the MMDiT, of which `text` and `visual` tokens are in the blocks.

    Two per weight and token, and four per pair of tokens, channel and block for attention. Made before weights are
    sharded.
    """

    def __init__(self, model: MMDiT) -> None:
        def weights(*parts: torch.nn.Module) -> int:
            return sum(p.numel() for part in parts for p in part.parameters() if p.ndim > 1)

        both = sum(weights(block.linear1, block.linear2) for block in model.single_blocks)
        self._text = both + weights(model.txt_in)
        self._text += sum(weights(block.txt_attn, block.txt_mlp) for block in model.double_blocks)
        self._visual = both + weights(model.img_in, model.final_layer)
        self._visual += sum(weights(block.img_attn, block.img_mlp) for block in model.double_blocks)
        self._pair = 2 * (len(model.double_blocks) + len(model.single_blocks)) * model.config.hidden_size

    def __call__(self, text: int, visual: int) -> float:
        return 2.0 * (self._text * text + self._visual * visual + self._pair * (text + visual) ** 2)


def visual_tokens(model: MMDiT, references: Sequence[Tensor], target: Tensor, conditions: Sequence[Tensor] = ()) -> int:
    """Length of the packed sequence, of references before the target and conditions behind it."""
    before, after = ([model.grid(latents) for latents in each] for each in (references, conditions))
    return model.layout(before, model.grid(target), after).tokens


@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product here: what MFU is measured against."""
    size, repeats = (8192, 10) if device.type == "cuda" else (1024, 3)
    a = torch.ones(size, size, device=device, dtype=dtype)

    def run() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 2.0 * size**3 * repeats / (time.perf_counter() - started)

    run()
    return max(run() for _ in range(3))
