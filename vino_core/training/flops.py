"""How many floating-point operations a pass takes, and how many a machine can do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..mmdit.model import MMDiT


class ForwardCost:
    """Operations of one sample's forward pass through the MMDiT, of which `text` and `visual` tokens are in the blocks.

    Two per weight and token, and four per pair of tokens, channel and block for attention. Made before weights are
    sharded, and after it was decided which of them are trained.
    """

    def __init__(self, model: MMDiT) -> None:
        def weights(*parts: torch.nn.Module, trained: bool) -> int:
            parameters = [p for part in parts for p in part.parameters() if p.ndim > 1]
            return sum(p.numel() for p in parameters if p.requires_grad or not trained)

        double, single = model.double_blocks, model.single_blocks
        both = [part for block in single for part in (block.linear1, block.linear2)]
        # Modulation is computed once a sample.
        text = [*both, model.txt_in.input_embedder]
        refiner = model.txt_in.individual_token_refiner.blocks
        text += [part for block in refiner for part in (block.self_attn, block.mlp)]
        text += [part for block in double for part in (block.txt_attn, block.txt_mlp)]
        visual = [*both, model.img_in, model.final_layer.linear]
        visual += [part for block in double for part in (block.img_attn, block.img_mlp)]
        self._text, self._visual = weights(*text, trained=False), weights(*visual, trained=False)
        self._trained = weights(*text, trained=True), weights(*visual, trained=True)
        self._pair = 2 * (len(double) + len(single)) * model.config.hidden_size

    def __call__(self, text: int, visual: int) -> float:
        return 2.0 * (self._text * text + self._visual * visual + self._pair * (text + visual) ** 2)

    def training(self, text: int, visual: int) -> float:
        """Operations of a training step: once more for the gradients of what goes in, which lead to the connectors and
        factors even through frozen weights, and once more for those of the weights that are trained.

        Attention has two inputs in each of its products. Recomputed activations do not count.
        """
        weights = self._trained[0] * text + self._trained[1] * visual
        return 2.0 * self(text, visual) + 2.0 * (weights + self._pair * (text + visual) ** 2)


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
