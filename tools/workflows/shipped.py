"""All workflows that are shipped."""

from __future__ import annotations

from .build import build
from .graph import Workflow
from .training import train_lora
from .vino import VINO_TASKS
from .vogue import VOGUE_TASKS

TASKS = (*VINO_TASKS, *VOGUE_TASKS)


def workflows() -> list[Workflow]:
    """In the order in which they are made."""
    return [*(build(task) for task in TASKS), train_lora()]
