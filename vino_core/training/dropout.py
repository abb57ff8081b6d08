"""Conditions are left out now and then, so that guidance has something to compare with (VINO paper section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ..branches import branch_prompts
from ..encoder.encode import BranchPrompt
from ..sampling.guidance import Branch
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
    text, one_image, video = draws.numbers(seed, "dropout", step, sample).random(3)
    many_images = draws.numbers(seed, "dropout", step).random()
    return Dropped(text < chance, (many_images if images > 1 else one_image) < chance, video < chance)


def visible(example: Example, dropped: Dropped, system: System) -> BranchPrompt:
    """The prompt behind its task's instruction, and the references (images first, then videos), that remain.

    Without its images a sample is what the third guidance branch sees: a base image among others stays.
    """
    images, videos = len(example.images), len(example.videos)
    counts = images, videos, example.base_image
    everything = branch_prompts(system, example.prompt, "", *counts, text_scale=2.0, image_scale=2.0)
    kept = everything[Branch.POSITIVE].references
    if dropped.images and Branch.NEGATIVE_IMAGE in everything:
        kept = everything[Branch.NEGATIVE_IMAGE].references
    if dropped.videos:
        kept = tuple(index for index in kept if index < images)
    return BranchPrompt("" if dropped.text else instruction(example, system) + example.prompt, kept)


def instruction(example: Example, system: System) -> str:
    """What stands before the prompt of an example of this task; nothing for a proxy task. Raises InputError for a task
    that the system does not have."""
    preset = system.presets[system.trained_as(example.task, len(example.images))]
    return "" if example.task in PROXIES else preset.instruction
