"""The loss on held-out examples, per task, always with the same noise levels and the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..sampling.schedule import shifted
from ..systems.base import System
from .config import RunConfig
from .dropout import Dropped
from .example import ExampleSource
from .feed import Noted
from .prepare import Prepared, prepare
from .team import Team, widest

Losses = Callable[[Sequence[Prepared], Sequence[Tensor], str, int], Tensor]
"""(samples, their noise levels, what the noise is for, number of the first sample) -> losses [B]."""


def check_held_out(run: RunConfig, sources: Mapping[str, ExampleSource], system: System, unusable: Noted) -> None:
    """Raise InputError for a task without a held-out example that can be used, before anything is trained."""
    for task, source in sources.items():
        first_held_out(run, task, source, system, unusable)


def first_held_out(run: RunConfig, task: str, source: ExampleSource, system: System, unusable: Noted) -> Prepared:
    """The first held-out example of `task` that can be used; those before it are noted in `unusable`.

    Raises InputError when there is none.
    """
    count = _count(run, source)
    if not count:
        raise InputError(
            f"data.tasks.{task}.validation: there are no examples. Check its path with `vino data check`, "
            "or leave it out."
        )
    for index in range(count):
        if (sample := _sample(run, task, source, index, system, unusable)) is not None:
            return sample
    raise InputError(
        f"data.tasks.{task}.validation: none of {count} examples can be used, the last because: "
        f"{unusable[task, count - 1]} Check its path with `vino data check`, or leave it out."
    )


@torch.no_grad()
def validation_losses(
    run: RunConfig,
    sources: Mapping[str, ExampleSource],
    losses: Losses,
    system: System,
    team: Team,
    unusable: Noted,
) -> dict[str, float]:
    """Mean loss per task over the first `watch.validation_examples` examples, noise levels spread evenly.

    Examples that cannot be used do not count, and are noted in `unusable`; a task that has no others is left out.
    """
    results = {}
    wide = widest(team.device)
    for task, source in sorted(sources.items()):
        count = _count(run, source)
        total = torch.zeros(2, dtype=wide, device=team.device)
        # Every process runs as many passes: sharded weights are gathered by all together.
        for first in range(0, count, team.size):
            number = first + team.rank
            index = min(number, count - 1)
            sample = _sample(run, task, source, index, system, unusable)
            usable = team.all_objects(sample is not None)
            if not any(usable):
                continue
            counts = number < count and sample is not None
            if not all(usable):  # who has none runs along with another's
                spare = min(first + usable.index(True), count - 1)
                with team.together():
                    sample = sample or prepare(source.example(spare), Dropped(), run.data, system)
            sigma = shifted(torch.tensor((index + 0.5) / count), run.flow.shift)
            loss = losses([sample], [sigma], f"validation {task}", index)
            if counts:
                total += torch.stack([loss.sum().to(wide), torch.ones((), dtype=wide, device=team.device)])
        summed = team.all_values(total).sum(dim=0)
        if summed[1]:
            results[task] = float(summed[0] / summed[1])
    return results


def _count(run: RunConfig, source: ExampleSource) -> int:
    wanted = run.watch.validation_examples
    return wanted if source.count is None else min(wanted, source.count)


def _sample(
    run: RunConfig, task: str, source: ExampleSource, index: int, system: System, unusable: Noted
) -> Prepared | None:
    try:
        return prepare(source.example(index), Dropped(), run.data, system)
    except InputError as error:
        unusable.add(task, index, str(error))
        return None
