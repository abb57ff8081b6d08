"""Which task a step trains: the same on every process (VINO paper section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

from . import draws


def task_of_step(weights: Mapping[str, float], seed: int, step: int) -> str:
    """The task of step `step`, drawn in proportion to `weights`: a function of its arguments alone."""
    names = sorted(weights)
    total = sum(weights.values())
    return str(draws.numbers(seed, "task", step).choice(names, p=[weights[name] / total for name in names]))
