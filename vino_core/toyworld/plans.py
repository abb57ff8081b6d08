"""What one example is made of: its scenes and its words, before any pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..training.example import Example
from .draw import draw
from .world import Camera, Motion, Scene


@dataclass(frozen=True)
class Plan:
    """An example's ground truth.

    `kind` groups examples of a task ("recolour", "2 subjects"). `source` is the scene that an edit starts from: what
    the edit leaves alone must be found again. `is_open`: the prompt leaves sizes and places to the generator.
    """

    task: str
    kind: str
    prompt: str
    target: Scene
    is_clip: bool
    images: tuple[Scene, ...] = ()
    videos: tuple[Scene, ...] = ()
    source: Scene | None = None
    is_open: bool = False
    base_image: bool = False

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """Every scene of the example, inputs first."""
        return (*self.images, *self.videos, self.target)


@dataclass(frozen=True, eq=False)
class ToyExample:
    """An example and the plan that it was drawn from, which is all that a scorer may know of its target."""

    example: Example
    truth: Plan


def drawn(plan: Plan, name: str, size: int, frames: int) -> ToyExample:
    """Draw a plan: pictures of `size` x `size` pixels, clips of `frames` frames."""
    return ToyExample(
        Example(
            id=name,
            task=plan.task,
            prompt=plan.prompt,
            target=_pixels(plan.target, size, frames if plan.is_clip else 1),
            images=tuple(_pixels(scene, size, 1)[0] for scene in plan.images),
            videos=tuple(_pixels(scene, size, frames) for scene in plan.videos),
            base_image=plan.base_image,
        ),
        plan,
    )


def first_frame(scene: Scene) -> Scene:
    """The scene as a picture's: nothing moves."""
    return replace(scene, sprites=tuple(replace(sprite, motion=Motion()) for sprite in scene.sprites), camera=Camera())


def _pixels(scene: Scene, size: int, frames: int) -> Tensor:
    return torch.from_numpy(draw(scene, size, frames))
