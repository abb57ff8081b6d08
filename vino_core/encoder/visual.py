"""Pixels to the patches that the VLM's vision tower reads (VINO paper, section 3.1; Qwen2.5-VL report, section 2.1).

Pictures and frames go through one or two resizes, as in the published inference code, each with its own roundings. All
of them are exact: VINO's patches equal the published code's bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..media.images import check_pixels
from ..media.sizing import smart_resize
from ..media.videos import check_clip
from ..systems.base import PixelLimits, VisionLimits

Grid = tuple[int, int, int]
"""Patches of a picture or clip along time, height and width."""


def image_sizes(height: int, width: int, limits: VisionLimits) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes (height, width) of a picture after the first and the second resize.

    Raises InputError for a picture so narrow that the VLM's limits cannot be met.
    """
    return _sizes(height, width, limits.image_first, limits.image_second, frames=1)


def video_sizes(height: int, width: int, limits: VisionLimits) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes (height, width) of a clip's frames after the first and the second resize. Raises like `image_sizes`."""
    return _sizes(height, width, limits.video_first, limits.video_second, limits.frames)


def _sizes(
    height: int, width: int, one: PixelLimits, two: PixelLimits | None, frames: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    try:
        first = smart_resize(height, width, one.factor, one.min_pixels, one.max_pixels)
        if two is None:
            return first, first
        return first, smart_resize(*first, two.factor, two.min_pixels / frames, two.max_pixels / frames)
    except InputError as error:
        raise InputError(f"{width} x {height} pixels: too narrow for the VLM. Crop it to a more even shape.") from error


def image_patches(pixels: Tensor, limits: VisionLimits) -> tuple[Tensor, Grid]:
    """Patches of a uint8 [H, W, 3] picture: float32 [N, 2*3*patch*patch], and their grid (1, rows, columns)."""
    check_pixels(pixels, "Picture for the VLM")
    first, second = image_sizes(*pixels.shape[:2], limits)
    frame = _resize(_pillow_resize(pixels, first), second).float()
    return _to_patches(frame.expand(limits.temporal_patch, -1, -1, -1), limits)


def video_patches(frames: Tensor, limits: VisionLimits) -> tuple[Tensor, Grid]:
    """Patches of uint8 [F, H, W, 3] frames: float32 [N, 2*3*patch*patch] and their grid (groups, rows, columns).

    An odd last frame is repeated. A second resize overshoots at edges and is not clamped, so that VINO's values reach a
    little past -1..1.
    """
    check_clip(frames, "Clip for the VLM")
    if not limits.whole_clips and len(frames) != limits.frames:
        raise InputError(f"Clip for the VLM: {len(frames)} frames. The VLM takes exactly {limits.frames}.")
    first, second = video_sizes(*frames.shape[1:3], limits)
    if limits.video_second is None:
        resized = torch.cat([_pillow_resize(frame, first) for frame in frames]).float()
    else:
        resized = _resize(first_video_resize(frames, first), second)
    missing = -len(resized) % limits.temporal_patch
    return _to_patches(torch.cat([resized, *[resized[-1:]] * missing]), limits)


def _pillow_resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture uint8 [H, W, 3] at `size`, uint8 [1, 3, h, w]."""
    resized = Image.fromarray(pixels.cpu().numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]


def first_video_resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames uint8 [T, H, W, 3] at `size`, as float32 [T, 3, h, w] of whole numbers in 0..255."""
    return _resize(frames.cpu().permute(0, 3, 1, 2).float(), size).clamp(0, 255).round()


def _resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", antialias=True)


def _to_patches(frames: Tensor, limits: VisionLimits) -> tuple[Tensor, Grid]:
    """Rows of `merge` x `merge` neighbouring patches together; each row channel, time, height, width."""
    count, _, height, width = frames.shape
    patch, merge, depth = limits.patch, limits.merge, limits.temporal_patch
    grid = (count // depth, height // patch, width // patch)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (limits.mean, limits.std))
    values = (frames - mean) / std
    blocks = values.reshape(
        grid[0], depth, 3, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
    )  # time, depth, colour, row, sub-row, y, column, sub-column, x
    rows = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(grid[0] * grid[1] * grid[2], -1)
    return rows, grid
