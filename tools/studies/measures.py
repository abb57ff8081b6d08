"""Numbers out of the folder of one variant and seed: `stage3/losses.jsonl` and `exams/NAME.json`.

Each returns None where the folder does not hold what it needs yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from vino_core.training.metrics import VALIDATION, read_record

LAST = 3
LAST_STAGE = f"stage{LAST}"
"""The stage that all variants end with."""


def exam_file(folder: Path, name: str) -> Path:
    """Where the report of an exam lies."""
    return folder / "exams" / f"{name}.json"


def read_report(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def scored(exam: str, value: str, kinds: Sequence[str] = ()) -> Callable[[Path], float | None]:
    """A value of an exam's report, over all examples or those of some kinds."""

    def of(folder: Path) -> float | None:
        report = read_report(exam_file(folder, exam))
        return None if report is None else value_of(report, value, kinds)

    return of


def value_of(report: dict[str, Any], value: str, kinds: Sequence[str] = ()) -> float | None:
    """A mean or rate in the report of one task; None when no example has it."""
    (task,) = report["tasks"].values()
    rows = [task["kinds"][kind] for kind in kinds if kind in task["kinds"]] if kinds else [task]
    found = [row[value] for row in rows if value in row]
    total = sum(one["count"] for one in found)
    return sum(one["value"] * one["count"] for one in found) / total if total else None


def by_task(folder: Path, quantity: str, start: float) -> list[list[float]]:
    """A quantity of the last stage's steps from the share `start` (0..1) on, apart for each task."""
    rows = read_record(folder / LAST_STAGE)
    tasks: dict[str, list[float]] = {}
    for row in rows[int(start * len(rows)) :]:
        tasks.setdefault(row["task"], []).append(row[quantity])
    return list(tasks.values())


def held_out_loss(tasks: Sequence[str]) -> Callable[[Path], float | None]:
    """Mean over tasks of the last stage's loss on held-out examples."""

    def of(folder: Path) -> float | None:
        found = {row["task"]: row["loss"] for row in read_record(folder / LAST_STAGE, VALIDATION)}
        return fmean(found[task] for task in tasks) if set(tasks) <= set(found) else None

    return of


def norm_variance(folder: Path) -> float | None:
    """Variance of the gradient norm within a task, averaged over tasks, without the first tenth of the steps."""
    found = [variance(values) for values in by_task(folder, "norm", 0.1) if len(values) > 1]
    return fmean(found) if found else None


def norm_variation(folder: Path) -> float | None:
    """Standard deviation of the gradient norm over its mean, in the same way."""
    found = [variance(values) ** 0.5 / fmean(values) for values in by_task(folder, "norm", 0.1) if len(values) > 1]
    return fmean(found) if found else None
