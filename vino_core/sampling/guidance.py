"""Classifier-free guidance over text and images: which branches are needed, and how velocities combine."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from torch import Tensor


class Branch(Enum):
    """One evaluation of the model per step (VINO paper section 3.2)."""

    POSITIVE = "positive"
    """The user's prompt with all references."""
    NEGATIVE = "negative"
    """The negative prompt with all references."""
    NEGATIVE_IMAGE = "negative_image"
    """The negative prompt without the images; videos, and a base image, stay."""


def needed_branches(text_scale: float, image_scale: float, images_dropped: bool = True) -> tuple[Branch, ...]:
    """The branches that the scales switch on; the others are never computed.

    A scale of 1 or less switches its branch off. Without images to drop (`images_dropped` False) the third branch
    would equal the second, so it is off whatever its scale.
    """
    branches = [Branch.POSITIVE]
    if text_scale > 1:
        branches.append(Branch.NEGATIVE)
    if image_scale > 1 and images_dropped:
        branches.append(Branch.NEGATIVE_IMAGE)
    return tuple(branches)


def guided_velocity(velocities: Mapping[Branch, Tensor], text_scale: float, image_scale: float) -> Tensor:
    """Combine the branches' velocities, all of one shape.

    With all three: `u_img + image_scale * (u - u_img) + text_scale * (c - u)`. A branch that is off takes its term
    with it: `u + text_scale * (c - u)`, `u_img + image_scale * (c - u_img)`, or `c` alone.
    """
    guided = velocities[Branch.POSITIVE]
    text = velocities.get(Branch.NEGATIVE)
    image = velocities.get(Branch.NEGATIVE_IMAGE)
    if text is not None and image is not None:
        return image + image_scale * (text - image) + text_scale * (guided - text)
    if text is not None:
        return text + text_scale * (guided - text)
    if image is not None:
        return image + image_scale * (guided - image)
    return guided
