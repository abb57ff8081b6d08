"""The loss on held-out examples, per task, always with the same noise levels and the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..sampling.schedule import shifted
from .config import RunConfig
from .dropout import Dropped
from .example import ExampleSource
from .prepare import Prepared, prepare
from .team import Team

Losses = Callable[[Sequence[Prepared], Sequence[Tensor], str, int], Tensor]
"""(samples, their noise levels, what the noise is for, number of the first sample) -> losses [B]."""


@torch.no_grad()
def validation_losses(
    run: RunConfig, sources: Mapping[str, ExampleSource], losses: Losses, system: object, team: Team
) -> dict[str, float]:
    """Mean loss per task over the first `watch.validation_examples` examples, noise levels spread evenly."""
    results = {}
    for task, source in sorted(sources.items()):
        wanted = run.watch.validation_examples
        count = wanted if source.count is None else min(wanted, source.count)
        total = torch.zeros(2, dtype=torch.float64, device=team.device)
        # Every process runs as many passes: sharded weights are gathered by all together.
        for first in range(0, count, team.size):
            number = first + team.rank
            index = min(number, count - 1)
            sigma = shifted(torch.tensor((index + 0.5) / count), run.flow.shift)
            failure = None
            try:
                sample = prepare(source.example(index), Dropped(), run.data, system)
            except InputError as error:
                failure = InputError(f"validation of {task}: {error} Remove it from the validation data.")
            team.agree(failure)  # or the others would wait for this process in the next pass
            loss = losses([sample], [sigma], f"validation {task}", index)
            if number < count:
                total += torch.stack([loss.sum().double(), torch.ones((), dtype=torch.float64, device=team.device)])
        summed = team.all_values(total).sum(dim=0)
        results[task] = float(summed[0] / summed[1])
    return results
