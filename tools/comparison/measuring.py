"""Two trained miniatures asked for the same examples."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vino_core.commands.loading import add_file_arguments, add_machine_arguments, choose_system, load_pipeline
from vino_core.errors import InputError
from vino_core.pipeline import Pipeline
from vino_core.toyworld.evaluate import Sample
from vino_core.toyworld.requests import Settings, from_pipeline
from vino_core.toyworld.scorers import score
from vino_core.toyworld.sheet import Card
from vino_core.toyworld.tasks import ToySource
from vino_core.training.example import GENERATION_TASKS

_SAME = ("count", "split", "seed", "size", "frames", "captions", "steps", "text_scale", "image_scale", "shift")
"""Settings that two reports must share to be compared."""


@dataclass(frozen=True)
class Race:
    """Cards of the examples shown, and by system the median seconds of one result, by task."""

    cards: list[Card]
    seconds: dict[str, dict[str, float]]


def load(folder: Path, device: str | None = None) -> Pipeline:
    """The pipeline of a folder such as models/vino-tiny, as `vino generate` loads it."""
    parser = argparse.ArgumentParser()
    add_file_arguments(parser)
    add_machine_arguments(parser)
    chosen = parser.parse_args(["--model", str(folder), *(["--device", device] if device else [])])
    return load_pipeline(chosen, choose_system(chosen))


def shared_tasks(pipelines: Sequence[Pipeline]) -> list[str]:
    """Tasks of the toy world that all of the systems have."""
    return [task for task in GENERATION_TASKS if all(task in each.system.training_tasks for each in pipelines)]


def race(pipelines: Sequence[Pipeline], settings: Settings, shown: int = 2, timed: int = 5) -> Race:
    """Results of the first held-out examples of every shared task, one at a time and in turn.

    `shown` of each task are kept, at most `timed` are made; the first is not timed, since it warms up.
    """
    cards: list[Card] = []
    seconds: dict[str, dict[str, float]] = {each.system.name: {} for each in pipelines}
    for task in shared_tasks(pipelines):
        source = ToySource(task, settings.seed, 64, 9, "heldout")
        taken: dict[str, list[float]] = {name: [] for name in seconds}
        for index in range(max(shown, timed + 1)):
            toy, card = source.toy(index), {}
            for pipeline in pipelines:
                started = time.perf_counter()
                (result,) = from_pipeline(pipeline, settings)([toy.example])
                taken[pipeline.system.name].append(time.perf_counter() - started)
                card[pipeline.system.name] = Sample(toy, result, score(result, toy))
            if index < shown:
                cards.append(card)
        for name, values in taken.items():
            seconds[name][task] = median(values[1:])
    return Race(cards, seconds)


def read_reports(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Reports of `vino eval toy` by system. Raises InputError when they were not made alike."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    first: Mapping[str, Any] = reports[0]["settings"]
    for path, report in zip(paths[1:], reports[1:], strict=True):
        other = report["settings"]
        differing = [name for name in _SAME if first.get(name) != other.get(name)]
        if differing:
            raise InputError(
                f"{path}: made with other settings than {paths[0]} ({', '.join(differing)}). Give `vino eval toy` the "
                "same ones for both."
            )
    return {report["settings"]["system"]: report for report in reports}
