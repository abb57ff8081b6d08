"""What a workflow for a task says: everything that `build` needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from vino_core.systems.base import Preset

from .kits import Kit


@dataclass(frozen=True)
class Task:
    """One workflow. `images` and `videos` are (title, file) of what the user supplies, in prompt order.

    `understand`: the text encoder rewrites the prompt first. `think`: it makes the prompt of a drawing of that kind.
    `answer`: it answers the prompt, and nothing is drawn.
    """

    kit: Kit
    name: str
    title: str
    about: str
    preset: str
    prompt: str
    images: tuple[tuple[str, str], ...] = ()
    videos: tuple[tuple[str, str], ...] = ()
    base_image: bool = False
    understand: bool = False
    think: str | None = None
    answer: bool = False
    separate_sampler: bool = False

    @property
    def settings(self) -> Preset:
        return self.kit.system.presets[self.preset]

    @property
    def writes(self) -> bool:
        """Whether the text encoder writes text."""
        return self.understand or self.answer or self.think is not None

    @property
    def drops_references(self) -> bool:
        """Whether the third branch of guidance sees less than the others."""
        counts = len(self.images), len(self.videos)
        return len(self.kit.system.kept(*counts, self.base_image)) < sum(counts)
