"""What each guidance branch sees: its prompt and its references (VINO paper section 3.2)."""

from __future__ import annotations

from .encoder.encode import BranchPrompt
from .errors import InputError
from .sampling.guidance import Branch, needed_branches
from .systems.base import System


def branch_prompts(
    system: System,
    prompt: str,
    negative: str,
    images: int,
    videos: int = 0,
    base_image: bool = False,
    text_scale: float = 1.0,
    image_scale: float = 1.0,
) -> dict[Branch, BranchPrompt]:
    """The prompts of all branches that the scales switch on. `prompt` already has the task's instruction.

    References are numbered images first, then videos. `base_image` says that the last image is edited and not merely
    referred to, which decides what VINO's third branch keeps (and calls Image 1). Raises InputError when a base image
    is asked for and there is none, and for scales that the system does not take.
    """
    check_image_to_edit(base_image, images)
    check_scales(system, text_scale)
    everything = tuple(range(images + videos))
    kept = system.kept(images, videos, base_image)
    seen = {
        Branch.POSITIVE: BranchPrompt(prompt, everything),
        Branch.NEGATIVE: BranchPrompt(negative, everything),
        Branch.NEGATIVE_IMAGE: BranchPrompt(negative, kept),
    }
    return {branch: seen[branch] for branch in needed_branches(text_scale, image_scale, kept != everything)}


def check_tags(system: System, tags: bool) -> None:
    """Raise InputError when tags are asked for and the system has labels instead."""
    if tags and not (system.prompt.image_tag or system.prompt.video_tag):
        raise InputError(f"tags: {system.name} labels references by itself. Switch tags off.")


def check_image_to_edit(base_image: bool, images: int) -> None:
    """Raise InputError when the last image is to be edited and there is none."""
    if base_image and images == 0:
        raise InputError(
            "base image is on, but no image is connected or given. Connect the image to edit as the last one, or name "
            "it with --image."
        )


def check_base_image(system: System, base_image: bool, task: str, images: int, videos: int) -> None:
    """Raise InputError when a base image is asked for in a task whose last picture is not the one being edited, in a
    system in which this decides where it goes. Without pictures there is nothing to ask for."""
    if not (base_image and images):
        return
    edits = system.default_task(images, videos, 1, True)
    if system.arrange(edits, images, videos) != system.arrange(task, images, videos):
        raise InputError(
            f"base_image: with it the last picture is edited, and in the task {task} none is. Choose the task {edits} "
            "(at VINO References, or with --preset), or switch base_image off."
        )


def check_scales(system: System, text_scale: float) -> None:
    """Raise InputError when the system does not do without text guidance and `text_scale` switches it off."""
    least = system.min_text_scale
    if least is not None and text_scale <= least:
        own = sorted({f"{preset.text_scale:g}" for preset in system.presets.values()}, key=float)
        raise InputError(
            f"text_scale is {text_scale}; {system.name} takes values above {least:g} only: its guidance starts from "
            f"the negative prompt, which a lower scale would switch off. Its tasks' own are {', '.join(own)}."
        )
