"""Measuring a generator on the toy world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..training.example import GENERATION_TASKS, Example
from .plans import ToyExample
from .reports import Report
from .scorers import Score, score
from .tasks import ToySource

Generate = Callable[[list[Example]], list[Tensor]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """A result to look at, with its example and its score."""

    toy: ToyExample
    result: Tensor
    score: Score


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The report, and the first few results of each task."""

    report: Report
    samples: list[Sample]


def evaluate(
    generate: Generate,
    tasks: Sequence[str] = GENERATION_TASKS,
    count: int = 100,
    split: str = "heldout",
    seed: int = 0,
    *,
    size: int = 64,
    frames: int = 9,
    captions: str = "both",
    batch: int = 8,
    shown: int = 4,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    finished: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Let `generate` answer the first `count` examples of each task and score its results.

    `generate` takes at most `batch` examples of one task and returns their results, uint8 of each target's shape; it
    may look at everything but the target. `size`, `frames` and `captions` are ToySource's, `shown` results of each task
    are kept, `settings` go into the report, `progress` is told how many results of how many are done, and `finished`
    gets what is known after each task. Raises InputError for values outside what the toy world has, ValueError for
    results of the wrong number or shape.
    """
    if count < 1 or batch < 1:
        raise InputError(f"Toy evaluation: {count} examples in batches of {batch}. Both must be at least 1.")
    if not tasks:
        raise InputError("Toy evaluation: no task is given.")
    sources = {task: ToySource(task, seed, size, frames, split, captions) for task in tasks}
    scores: dict[str, list[tuple[str, Score]]] = {task: [] for task in sources}
    samples: list[Sample] = []
    known = {"count": count, "split": split, "seed": seed, "size": size, "frames": frames, "captions": captions}
    known |= settings or {}
    done = 0
    for task, source in sources.items():
        for toys in _batches(source, count, batch):
            results = generate([toy.example for toy in toys])
            for toy, result in zip(toys, results, strict=True):
                scored = score(result, toy)
                if len(scores[task]) < shown:
                    samples.append(Sample(toy, result, scored))
                scores[task].append((toy.truth.kind, scored))
            done += len(toys)
            if progress is not None:
                progress(done, count * len(sources))
        evaluation = Evaluation(
            Report.of({name: found for name, found in scores.items() if found}, known), list(samples)
        )
        if finished is not None:
            finished(evaluation)
    return evaluation


def _batches(source: ToySource, count: int, batch: int) -> Iterator[list[ToyExample]]:
    for start in range(0, count, batch):
        yield [source.toy(index) for index in range(start, min(count, start + batch))]
