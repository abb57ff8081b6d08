"""Where each task's examples come from, as the config says."""

from __future__ import annotations

import math

from ..errors import InputError
from .config import RunConfig, Task
from .example import ExampleSource

_SHORTEST_CLIP = 5
"""Frames of the toy world's shortest clip; its picture tasks do not look at the number."""


def training_sources(run: RunConfig) -> dict[str, ExampleSource]:
    """Examples to train on, by task; a task of weight 0 needs none.

    Raises InputError when a folder or its manifest cannot be used.
    """
    drawn = {name: task for name, task in run.data.tasks.items() if task.weight > 0}
    return {name: _source(run, name, task, task.path, held_out=False) for name, task in drawn.items()}


def validation_sources(run: RunConfig) -> dict[str, ExampleSource]:
    """Held-out examples of the tasks that have some; none when `watch.validate` is off."""
    if not run.watch.validate:
        return {}
    found = {
        name: _source(run, name, task, task.validation, held_out=True)
        for name, task in run.data.tasks.items()
        if task.source == "toy" or task.validation is not None
    }
    if not found:
        raise InputError(
            "watch.validate is on, but no task in data.tasks has a validation path. Give one, or set it to 0."
        )
    return found


def place(source: ExampleSource, index: int) -> str | None:
    """Where example number `index` lies, the shard and key or the manifest and line; None for what is not stored."""
    from .data.latents import LatentSource
    from .data.stored import StoredSource

    stored = source.source if isinstance(source, LatentSource) else source
    return stored.where(index) if isinstance(stored, StoredSource) else None


def _source(run: RunConfig, name: str, task: Task, path: str | None, held_out: bool) -> ExampleSource:
    if task.source == "toy":
        from ..toyworld.tasks import ToySource

        return ToySource(
            name,
            run.seed,
            size=math.isqrt(run.data.area),
            frames=max(_SHORTEST_CLIP, task.frames or run.data.frames),
            split="heldout" if held_out else "train",
            captions=task.captions,
        )
    from .data.latents import LatentSource, cache_root, cache_settings
    from .data.opening import stored_source

    source = stored_source(run, name, path)
    if not task.latents:
        return source
    return LatentSource(source, cache_root(run, name, path, held_out), cache_settings(run, name))
