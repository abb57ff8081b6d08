"""The choice of the next token from logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .engine import Sampling


class NextToken:
    """Choose a token id from logits [vocabulary] as `sampling` says. `prompt` holds the ids that were there before.

    The generator lives on the CPU, so that a seed gives the same text wherever the logits are the same.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.used = set(prompt)

    def __call__(self, logits: Tensor) -> int:
        token = self._choose(self._penalised(logits))
        self.used.add(token)
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        """Logits after the repetition penalty (CTRL, section 4.1): it weakens each used token once, however often."""
        penalty = self.sampling.repetition_penalty
        if penalty == 1 or not self.used:
            return logits
        used = torch.tensor(sorted(self.used), device=logits.device)
        logits = logits.float()
        values = logits[used]
        return logits.index_copy(0, used, torch.where(values < 0, values * penalty, values / penalty))

    def _choose(self, logits: Tensor) -> int:
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        scaled = logits.float().cpu() / self.sampling.temperature
        kept = min(self.sampling.top_k or scaled.numel(), scaled.numel())
        values, ids = scaled.topk(kept)
        probabilities = values.softmax(dim=0)
        # Keep a candidate while those before it hold less than top_p: the most likely one always stays.
        probabilities[probabilities.cumsum(dim=0) - probabilities >= self.sampling.top_p] = 0
        return int(ids[torch.multinomial(probabilities, 1, generator=self.generator)])
