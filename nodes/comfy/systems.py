"""Which system the objects on ComfyUI's wires belong to."""

from __future__ import annotations

from comfy.sd import CLIP

from ...vino_core.errors import InputError
from ...vino_core.systems import DEFAULT, SYSTEMS, get_system
from ...vino_core.systems.base import System
from .conditioning import LEARNABLE, SYSTEM
from .families import family_of, transformer_of

FOREIGN = (
    "{}: it does not come from VINO Learnable Tokens. Encode the prompt with VINO Interleaved Encoder and VINO "
    "Learnable Tokens; other text encoding nodes leave out the learnable tokens and the system's prompt."
)


def clip_system(clip: CLIP | None) -> System:
    """The system of a text encoder: the one that its file names, else the one that is published with such a model.

    Without a text encoder, and for one that no system uses, it is the published VINO.
    """
    named = getattr(getattr(clip, "tokenizer", None), "vino_system", None)
    if named is not None:
        return get_system(named)
    family = family_of(transformer_of(clip))
    return get_system(DEFAULT) if family is None else family.system


def conditioning_system(conditioning: list, name: str) -> System:
    """The system that the CONDITIONING of input `name` was encoded for. Raises InputError when it is foreign."""
    systems = {(values.get(SYSTEM), values.get(LEARNABLE)) for _, values in conditioning}
    if len(systems) != 1 or (None, None) in systems:
        raise InputError(FOREIGN.format(name))
    ((system, learnable),) = systems
    return get_system(system).for_tokens(learnable or None)


def expect_task(system: System, task: str) -> None:
    """Raise InputError, saying which systems know `task`, unless `system` does."""
    if task not in system.presets:
        others = [other.name for other in SYSTEMS.values() if task in other.presets]
        known = f"It is a task of {' and '.join(others)}" if others else "No system knows it"
        raise InputError(
            f"task '{task}': {system.name} does not know it; its tasks are {', '.join(system.presets)}. {known}. "
            "Choose another task, or connect the text encoder of that system to clip."
        )


def expect_same(name: str, found: System, wanted: System, other: str) -> None:
    """Raise InputError unless the input `name` belongs to the system of `other`, the text encoder for example."""
    if found.name != wanted.name:
        raise InputError(
            f"{name}: made for {found.name}, but {other} belongs to {wanted.name}. Load all files of one "
            f"system: those of {found.name}, or those of {wanted.name}."
        )
