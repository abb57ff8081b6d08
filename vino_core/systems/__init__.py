"""The systems this project knows, by name."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError
from .base import System
from .vino import VINO
from .vino_tiny import VINO_TINY
from .vogue import VOGUE
from .vogue_tiny import VOGUE_TINY

SYSTEMS: dict[str, System] = {system.name: system for system in (VINO, VINO_TINY, VOGUE, VOGUE_TINY)}

DEFAULT = VINO.name
"""The system of files that name none, such as those that others published."""

UNIT = min(system.unit for system in SYSTEMS.values())
MAX_FRAMES = max(system.max_frames for system in SYSTEMS.values())
"""The widest limits of size and length, where it is not known yet which system will take them."""


def get_system(name: str) -> System:
    """The system called `name`. Raises InputError for an unknown one."""
    if name not in SYSTEMS:
        raise InputError(f"System '{name}' is unknown. Known systems: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def system_of(metadata: Mapping[str, str], source: object) -> System:
    """The system that the file `source` was made for: the one its metadata names, else DEFAULT.

    Raises InputError for one that is unknown here.
    """
    name = metadata.get("system", DEFAULT)
    if name not in SYSTEMS:
        raise InputError(
            f"{source}: made for the system '{name}', which is unknown here. Known systems: {', '.join(SYSTEMS)}. "
            "Update VINO, or choose another file."
        )
    return SYSTEMS[name]


def expect_system(found: str, wanted: System, source: object) -> None:
    """Raise InputError when `source` was made for the system `found` and not for `wanted`."""
    if found != wanted.name:
        raise InputError(f"{source}: made for {found}, not {wanted.name}. Choose the system {found}, or another file.")
