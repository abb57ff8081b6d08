"""The systems this project knows, by name."""

from __future__ import annotations

from ..errors import InputError
from .base import System
from .vino import VINO

SYSTEMS: dict[str, System] = {system.name: system for system in (VINO,)}


def get_system(name: str) -> System:
    """The system called `name`. Raises InputError for an unknown one."""
    if name not in SYSTEMS:
        raise InputError(f"System '{name}' is unknown. Known systems: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]
