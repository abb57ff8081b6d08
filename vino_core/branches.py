"""What each guidance branch sees: its prompt and its references (VINO paper section 3.2)."""

from __future__ import annotations

from .encoder.encode import BranchPrompt
from .errors import InputError
from .sampling.guidance import Branch, needed_branches


def branch_prompts(
    prompt: str,
    negative: str,
    images: int,
    videos: int = 0,
    base_image: bool = False,
    text_scale: float = 1.0,
    image_scale: float = 1.0,
) -> dict[Branch, BranchPrompt]:
    """The prompts of all branches that the scales switch on.

    References are numbered images first, then videos. `base_image` says that the last image is edited and not merely
    referred to: the third branch keeps it (and calls it Image 1), unless it is the only one. Raises InputError when a
    base image is asked for and there is none.
    """
    if base_image and images == 0:
        raise InputError("base image is on, but no image is connected. Connect the image to edit as the last one.")
    everything = tuple(range(images + videos))
    keeps_base = base_image and images > 1
    kept = everything[images - 1 :] if keeps_base else everything[images:]
    seen = {
        Branch.POSITIVE: BranchPrompt(prompt, everything),
        Branch.NEGATIVE: BranchPrompt(negative, everything),
        Branch.NEGATIVE_IMAGE: BranchPrompt(negative, kept),
    }
    return {branch: seen[branch] for branch in needed_branches(text_scale, image_scale, kept != everything)}
