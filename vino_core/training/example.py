"""One training example, and where examples come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..media.excerpt import Excerpt

GENERATION_TASKS = (
    "t2i",
    "t2v",
    "i2v",
    "ti2v",
    "ti2i",
    "ti2i_baseimg",
    "tv2v",
    "tiv2v",
    "tiv2v_clone",
    "tiv2v_camclone",
)
PROXIES = ("reconstruct_image", "select_image")
"""Tasks of stages 1 and 2 that a request cannot ask for (VINO paper section 2.3)."""
TASKS = (*GENERATION_TASKS, *PROXIES)
"""Every task of training, as data names it. A system says which of them it has, and what it calls them."""


@dataclass(frozen=True, eq=False)
class PreparedLatents:
    """What the VAE made beforehand: scaled latents [16, t, h, w] of target and references, in prompt order."""

    target: Tensor
    references: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Example:
    """Inputs, instruction and result. Pixels are uint8 RGB, 0..255.

    `target` [T, H, W, 3] with T = 4n + 1, 1 for a picture. `images` [H, W, 3] each and `videos` [T, H, W, 3] each, of
    long ones excerpts, are the references in prompt order, images first, as the prompt's "Image 1" and "Video 1" count
    them. `fps` is the rate of the target and of the videos. `base_image`: the last image is the one to edit.

    With `latents` the target has a shape but no data (its device is "meta"): nobody needs its pixels.
    """

    id: str
    task: str
    prompt: str
    target: Tensor
    images: tuple[Tensor, ...] = ()
    videos: tuple[Tensor | Excerpt, ...] = ()
    fps: float = 24.0
    base_image: bool = False
    latents: PreparedLatents | None = None


class ExampleSource(Protocol):
    """Examples of one task by number. Each is a function of its number alone: any worker, any order, any rank."""

    @property
    def name(self) -> str:
        """The task, one of TASKS."""
        ...

    @property
    def count(self) -> int | None:
        """How many examples there are; None when they have no end."""
        ...

    def example(self, index: int) -> Example:
        """Example number `index`, 0 or more and below `count`."""
        ...
