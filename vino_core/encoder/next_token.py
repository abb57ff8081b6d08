"""The choice of the next token from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from .engine import Sampling


class NextToken:
    """Choose a token id from logits [vocabulary] as `sampling` says.

    The generator lives on the CPU, so that a seed gives the same text wherever the logits are the same.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        scaled = logits.float().cpu() / self.sampling.temperature
        kept = min(self.sampling.top_k or scaled.numel(), scaled.numel())
        values, ids = scaled.topk(kept)
        probabilities = values.softmax(dim=0)
        # Keep a candidate while those before it hold less than top_p: the most likely one always stays.
        probabilities[probabilities.cumsum(dim=0) - probabilities >= self.sampling.top_p] = 0
        return int(ids[torch.multinomial(probabilities, 1, generator=self.generator)])
