"""The systems this project knows, by name."""

from __future__ import annotations

from ..errors import InputError
from .base import System
from .vino import VINO
from .vino_tiny import VINO_TINY

SYSTEMS: dict[str, System] = {system.name: system for system in (VINO, VINO_TINY)}


def get_system(name: str) -> System:
    """The system called `name`. Raises InputError for an unknown one."""
    if name not in SYSTEMS:
        raise InputError(f"System '{name}' is unknown. Known systems: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def expect_system(found: str, wanted: System, source: object) -> None:
    """Raise InputError when `source` was made for the system `found` and not for `wanted`."""
    if found != wanted.name:
        raise InputError(f"{source}: made for {found}, not {wanted.name}. Choose the system {found}, or another file.")
