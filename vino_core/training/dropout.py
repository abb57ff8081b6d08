"""Conditions are left out now and then, so that guidance has something to compare with (VINO paper section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ..encoder.encode import BranchPrompt
from ..systems.base import System
from . import draws
from .example import PROXIES, Example


@dataclass(frozen=True)
class Dropped:
    """Which conditions of a sample are left out."""

    text: bool = False
    images: bool = False
    videos: bool = False


def draw_dropped(chance: float, seed: int, step: int, sample: int, images: int) -> Dropped:
    """Each modality on its own with probability `chance`.

    `sample` is the number in the step's whole batch. With several images all samples of the step, on all processes,
    drop their images together or not at all.
    """
    # Keys that differ in zeros at their end only are the same draws: the common one has a name of its own.
    text, one_image, video = draws.numbers(seed, "dropout", step, sample).random(3)
    many_images = draws.numbers(seed, "dropout of many images", step).random()
    return Dropped(text < chance, (many_images if images > 1 else one_image) < chance, video < chance)


def visible(example: Example, dropped: Dropped, system: System) -> BranchPrompt:
    """The prompt behind its task's instruction, and the references (images first, then videos), that remain.

    Without its images a sample has those of them that the third guidance branch sees: a base image among others stays.
    Videos go on their own, whatever that branch sees of them.
    """
    images, videos = len(example.images), len(example.videos)
    seen = system.kept(images, videos, example.base_image) if dropped.images else range(images)
    kept = tuple(index for index in seen if index < images)
    if not dropped.videos:
        kept += tuple(range(images, images + videos))
    return BranchPrompt("" if dropped.text else instruction(example, system) + example.prompt, kept)


def instruction(example: Example, system: System) -> str:
    """What stands before the prompt of an example of this task; nothing for a proxy task. Raises InputError for a task
    that the system does not have."""
    preset = system.presets[system.trained_as(example.task, len(example.images))]
    return "" if example.task in PROXIES else preset.instruction
