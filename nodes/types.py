"""What travels on the pack's own wires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from comfy_api.latest import io
from torch import Tensor

from ..vino_core.encoder.encode import EncodedPrompt
from ..vino_core.errors import InputError
from ..vino_core.media.references import References
from ..vino_core.sampling.guidance import Branch
from ..vino_core.systems.base import Arrangement, System

ReferencesType = io.Custom("VINO_REFERENCES")
ContextType = io.Custom("VINO_CONTEXT")
TokensType = io.Custom("VINO_TOKENS")


@dataclass(frozen=True)
class TargetSize:
    """Size of the result: pixels and frames."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames"


class PreparedReferences:
    """References and the size to generate, for whichever system the text encoder turns out to be of.

    `prepare` gives both for a system, and is called once for each, variants for learnable tokens apart. `system` is the
    one that decided `size`, which other nodes have been told. `task` is a preset's name; None: the references decide.
    """

    def __init__(
        self,
        prepare: Callable[[System], tuple[References, TargetSize]],
        system: System,
        task: str | None = None,
    ) -> None:
        self._prepare = prepare
        self._prepared: dict[tuple[str, int], tuple[References, TargetSize]] = {}
        self._task = task
        self.system = system
        self.size = self._of(system)[1]

    @property
    def frames(self) -> int:
        """Frames to generate, which decide between the defaults of pictures and of videos."""
        return self.size.frames

    def for_system(self, system: System) -> References:
        """The references as `system` takes them. Raises InputError when it would generate another size."""
        references, size = self._of(system)
        if size != self.size:
            raise InputError(
                f"references: the size to generate, {self.size}, was chosen for {self.system.name}, but the text "
                f"encoder belongs to {system.name}, which takes {size}. Connect the text encoder to clip of VINO "
                "References too, or choose a custom size there."
            )
        return references

    def task_for(self, system: System, base_image: bool = False) -> str:
        """The chosen task, or what the references make it."""
        references = self.for_system(system)
        counts = len(references.images), len(references.videos)
        return self._task or system.default_task(*counts, self.frames, base_image)

    def arrangement(self, system: System, task: str | None = None) -> Arrangement:
        """Where the references go, in `task` or in the one that they were prepared for."""
        references = self.for_system(system)
        return system.arrange(task or self.task_for(system), len(references.images), len(references.videos))

    def _of(self, system: System) -> tuple[References, TargetSize]:
        variant = system.name, system.learnable_tokens
        prepared = self._prepared.get(variant)
        if prepared is None:
            prepared = self._prepared[variant] = self._prepare(system)
        return prepared


@dataclass(frozen=True, eq=False)
class EncodedBranch:
    """One branch after the text encoder, and the indices of the references it sees."""

    prompt: EncodedPrompt
    references: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Context:
    """The encoded branches of a request. `repeats_negative`: the third has no image to drop and equals the second.

    `system` is the variant that the prompts were laid out for: the one for learnable tokens when there are `tokens`.
    """

    branches: dict[Branch, EncodedBranch]
    repeats_negative: bool
    system: System
    tokens: LearnableTokens | None = None


@dataclass(frozen=True, eq=False)
class LearnableTokens:
    """Learnable tokens `values` [count, width], marks included, and the system that they were trained for."""

    values: Tensor
    system: System
