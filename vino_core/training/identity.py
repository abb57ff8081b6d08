"""Which settings decide what: the numbers of a run, or no more than the files that it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

_PLACES = "path", "validation"
_OF_THE_COURSE = (
    "any_order", "data", "files.text_encoder", "files.vae", "flow", "optimizer", "parallel.accumulation",
    "parallel.checkpointing", "steps",
)  # fmt: skip


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a resume must keep, without where data lie: what they are is compared by what they hold.

    Checkpoints of earlier versions have those places too.
    """
    kept = deepcopy(dict(settings))
    for task in kept.get("data", {}).get("tasks", {}).values():
        for name in _PLACES:
            task.pop(name, None)
        task["latents"] = bool(task.get("latents"))
    return kept


def decides_result(name: str) -> bool:
    """Whether the export of a checkpoint depends on this setting, and not only what was done before and is behind it.

    `name` is that of a setting or a group, or of what one of them names outside.
    """
    return not any(name == group or name.startswith(f"{group}.") for group in _OF_THE_COURSE)
