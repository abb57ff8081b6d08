"""All workflows that are shipped."""

from __future__ import annotations

from .graph import Workflow
from .tasks import TASKS, build
from .training import train_lora


def workflows() -> list[Workflow]:
    """In the order in which they are made."""
    return [*(build(task) for task in TASKS), train_lora()]
