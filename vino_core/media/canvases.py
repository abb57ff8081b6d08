"""References of one sequence of frames: everything at the height and width of the result (VOGUE paper section 2.2).

What is edited or continued decides that size; what is only referred to lies on a white canvas of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .images import check_pixels
from .references import (
    Clip,
    ImageReference,
    References,
    VideoReference,
    Wanted,
    prepare_video,
    prepared_size,
    scale_frames,
)
from .sizing import crop_to_unit

if TYPE_CHECKING:
    from ..systems.base import Arrangement


def pad_to_square(pixels: Tensor) -> Tensor:
    """A picture uint8 [H, W, 3] in the middle of a white square; of an odd difference the smaller half comes first."""
    height, width = pixels.shape[:2]
    return _on_white(pixels, max(height, width), max(height, width))


def on_canvas(square: Tensor, height: int, width: int) -> Tensor:
    """A square picture uint8 [S, S, 3] at the largest size that fits, in the middle of white [height, width, 3]."""
    side = min(height, width)
    resized = Image.fromarray(square.cpu().numpy()).resize((side, side), Image.Resampling.BICUBIC)
    return _on_white(torch.from_numpy(np.array(resized)), height, width)


def _on_white(pixels: Tensor, height: int, width: int) -> Tensor:
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8)
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels.cpu()
    return canvas


def prepare_reference(pixels: Tensor, height: int, width: int) -> ImageReference:
    """A picture that is referred to: the VLM sees its square at its own size, the VAE a canvas of the result's."""
    check_pixels(pixels, "Picture")
    square = pad_to_square(pixels)
    return ImageReference(square, on_canvas(square, height, width))


def prepare_condition(pixels: Tensor, area: int, unit: int) -> ImageReference:
    """A picture that is edited or continued: scaled to about `area` pixels, cropped at the right and the bottom.

    The VAE encodes the scaled values as they are, the VLM sees them rounded. Raises InputError for unusable pixels.
    """
    check_pixels(pixels, "Picture")
    size = prepared_size(pixels.shape[1], pixels.shape[0], area, unit, "Picture")
    height, width = crop_to_unit(*size, unit)
    scaled = scale_frames(pixels[None], size)[0, :height, :width].contiguous()
    return ImageReference(scaled.round().clamp(0, 255).to(torch.uint8), scaled)


def prepare_sequence(
    arrangement: Arrangement, images: Sequence[Tensor], clips: Sequence[Clip], wanted: Wanted
) -> References:
    """Conditions first, since they decide the size, then what is referred to.

    A clip is seen by the VLM as frames of those that the VAE encodes. Raises InputError for unusable references, and
    when nothing decides the size.
    """
    conditions: dict[int, ImageReference] = {}
    videos: list[VideoReference] = []
    size = wanted.size
    for number in arrangement.conditions:
        if number < len(images):
            conditions[number] = prepare_condition(images[number], wanted.area, wanted.unit)
            size = tuple(conditions[number].pixels.shape[:2])
        else:
            clip = clips[number - len(images)]
            limits = {"area": wanted.area, "unit": wanted.unit, "vlm_frames": wanted.vlm_frames}
            videos.append(prepare_video(clip.source, wanted.frames, clip.fps, **limits, whole_clip=False))
            size = tuple(videos[-1].frames.shape[1:3])
    if size is None:
        raise InputError("this task takes its size from a picture or video to edit, but none is given. Add one.")
    pictures = [
        conditions[number] if number in conditions else prepare_reference(pixels, *size)
        for number, pixels in enumerate(images)
    ]
    return References(tuple(pictures), tuple(videos))
