"""The systems this project knows, by name."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError
from .base import System, Thinking
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

THINKING = tuple(dict.fromkeys(kind for system in SYSTEMS.values() for kind in system.thinking or ()))
"""Kinds of drawn pictures that any of the systems thinks about."""


def get_system(name: str) -> System:
    """The system called `name`. Raises InputError for an unknown one."""
    if name not in SYSTEMS:
        raise InputError(f"System '{name}' is unknown. Known systems: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def get_thinking(system: System, kind: str) -> Thinking:
    """How `system` thinks about one kind of drawn picture. Raises InputError when it does not, or not about this."""
    if system.thinking is None:
        others = " and ".join(other.name for other in SYSTEMS.values() if other.thinking is not None)
        raise InputError(
            f"thinking: {system.name} has no thinking mode; {others} have. Load the files of one of them, or let the "
            "text encoder rewrite the prompt instead (VINO Prompt Rewriter, or --understand)."
        )
    if kind not in system.thinking:
        raise InputError(f"thinking: '{kind}' is unknown to {system.name}. Known: {', '.join(system.thinking)}.")
    return system.thinking[kind]


def check_thinking(system: System, kind: str, task: str, remedy: str) -> None:
    """Raise InputError when `system` does not think about that kind of drawn picture, or runs it as another task than
    `task`. `remedy` says what to do then; `{}` in it is the right task."""
    thinking = get_thinking(system, kind)
    if task != thinking.task:
        raise InputError(
            f"thinking: a picture of the kind '{kind}' runs as the task {thinking.task}, not as {task}. "
            f"{remedy.format(thinking.task)}"
        )


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
