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

import torch

from vino_core.commands.loading import add_file_arguments, add_machine_arguments, choose_system, load_pipeline
from vino_core.errors import InputError
from vino_core.pipeline import Pipeline
from vino_core.systems.base import System
from vino_core.toyworld.evaluate import Sample
from vino_core.toyworld.requests import Settings, from_pipeline
from vino_core.toyworld.scorers import score
from vino_core.toyworld.sheet import Card
from vino_core.toyworld.tasks import ToySource

from .jobs import TITLES

SETTINGS = tuple(Settings.__dataclass_fields__)
EXAMPLES = ("split", "seed", "size", "frames", "captions")
"""Settings that decide which examples the toy world gives."""

Reports = Mapping[str, Mapping[str, Any]]
"""What `vino eval toy` found, by system."""


@dataclass(frozen=True)
class Race:
    """Cards of the examples shown; by system the median seconds of one result by task, and the weights of its
    transformer; and what it ran on."""

    cards: list[Card]
    seconds: dict[str, dict[str, float]]
    weights: dict[str, int]
    machine: str


def load(folder: Path, device: str | None = None) -> Pipeline:
    """The pipeline of a folder such as models/vino-tiny, as `vino generate` loads it. Raises InputError."""
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"--models {folder}: holds no model.safetensors. Give the folder of a miniature's files.")
    parser = argparse.ArgumentParser()
    add_file_arguments(parser)
    add_machine_arguments(parser)
    chosen = parser.parse_args(["--model", str(folder), *(["--device", device] if device else [])])
    return load_pipeline(chosen, choose_system(chosen))


def read_reports(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Reports of `vino eval toy` by system; those of one system, with other tasks each, become one.

    Raises InputError for a file that is none, for tasks that are there twice, and when reports were not made alike.
    """
    found: dict[str, dict[str, Any]] = {}
    first: Mapping[str, Any] | None = None
    for path in paths:
        report = _read(path)
        settings = report["settings"]
        first = settings if first is None else first
        differing = [name for name in dict.fromkeys((*EXAMPLES, *SETTINGS)) if first[name] != settings[name]]
        if differing:
            raise InputError(
                f"{path}: made with other settings than {paths[0]} ({', '.join(differing)}). Give `vino eval toy` the "
                "same ones for both."
            )
        known = found.setdefault(settings["system"], {"settings": settings, "tasks": {}})
        twice = [task for task in report["tasks"] if task in known["tasks"]]
        if twice:
            raise InputError(
                f"{path}: {', '.join(twice)} of {settings['system']} in a second report. Give one of each."
            )
        known["tasks"].update(report["tasks"])
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--reports {path}: cannot be read ({error.strerror}). `vino eval toy` writes it.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--reports {path}: is not JSON ({error}). `vino eval toy` writes it.") from error
    wanted = {"system", *EXAMPLES, *SETTINGS}
    if (
        not isinstance(report, dict)
        or not {"settings", "tasks"} <= set(report)
        or not wanted <= set(report["settings"])
    ):
        raise InputError(f"--reports {path}: is no report.json of `vino eval toy`, or an old one. Make it again.")
    return report


def check_systems(systems: Sequence[System], reports: Reports) -> None:
    """Raise InputError when the reports are not those of the systems, or not on the same examples of some task."""
    names = [system.name for system in systems]
    if sorted(names) != sorted(reports):
        raise InputError(
            f"the models are {' and '.join(names)}, the reports of {' and '.join(reports)}. Give one of each."
        )
    shared = shared_tasks(systems, reports)
    uneven = [task for task in shared if len({reports[name]["tasks"][task]["count"] for name in names}) > 1]
    if uneven:
        raise InputError(
            f"{', '.join(uneven)}: measured on more examples of one system than of the other. Take as many."
        )
    if not shared:
        raise InputError("the reports have no task in common, so there is nothing to compare. Evaluate the same tasks.")


def shared_tasks(systems: Sequence[System], reports: Reports) -> list[str]:
    """Tasks of the toy world that all of the systems have, and all of the reports too."""
    return [
        task
        for task in TITLES
        if all(task in each.training_tasks and task in reports[each.name]["tasks"] for each in systems)
    ]


def race(pipelines: Sequence[Pipeline], reports: Reports, shown: int = 2, timed: int = 5) -> Race:
    """Results of the first examples that the reports are about, of every shared task: one at a time, and in turn.

    `shown` of each task are kept, `timed` are timed after one that is not, since it warms up.
    """
    known = next(iter(reports.values()))["settings"]
    settings = Settings(**{name: known[name] for name in SETTINGS})
    world = {name: known[name] for name in EXAMPLES}
    cards: list[Card] = []
    seconds: dict[str, dict[str, float]] = {each.system.name: {} for each in pipelines}
    for task in shared_tasks([each.system for each in pipelines], reports):
        source = ToySource(task, **world)
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
            seconds[name][task] = median(values[1 : timed + 1])
    weights = {each.system.name: sum(part.numel() for part in each.model.parameters()) for each in pipelines}
    return Race(cards, seconds, weights, _machine(pipelines[0]))


def _machine(pipeline: Pipeline) -> str:
    device = torch.device(pipeline.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
