"""Sizes and frame choices: plain integer arithmetic, no pixels (VINO paper, section 3.1; docs/architecture.md).

Every function here is exact: the same numbers as the published inference code for every input it accepts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ..errors import InputError

TARGET_AREA = 480 * 848
"""Pixels a prepared reference should have, about."""
UNIT = 16
"""Prepared heights and widths are multiples of this: 8 from the VAE times 2 from the MMDiT's patches."""
TEMPORAL_STRIDE = 4
"""The VAE turns frames 1 + 4n into latent frames 1 + n."""
MAX_SIDE = 32_768
"""Longest side of a picture or clip that is read, in pixels."""
MAX_PIXELS = 1 << 27
"""Most pixels of a picture or frame that is read."""
MAX_ASPECT = 200
"""The VLM's limit on long side / short side."""

_SEARCH_RADIUS = 256


def fit_area(width: int, height: int, area: int = TARGET_AREA) -> tuple[int, int]:
    """Size (height, width) of about `area` pixels with the aspect ratio of `width` x `height`."""
    ratio = width / height
    exact_height = math.sqrt(area / ratio)
    return round(exact_height), round(exact_height * ratio)


def best_grid(width: int, height: int, area: int = TARGET_AREA, unit: int = UNIT) -> tuple[int, int]:
    """Size (height, width) in multiples of `unit` whose pixel count is nearest to `area`.

    Candidates follow the aspect ratio of `width` x `height`; among equally near ones the ratio decides.
    """
    ratio = width / height
    middle = max(1, round(math.sqrt(area / ratio) / unit))

    def candidates() -> Iterator[tuple[int, float, int, int]]:
        for rows in range(max(1, middle - _SEARCH_RADIUS), middle + _SEARCH_RADIUS + 1):
            tall = rows * unit
            columns = ratio * tall / unit
            for wide in (max(unit, math.floor(columns) * unit), max(unit, math.ceil(columns) * unit)):
                yield abs(tall * wide - area), abs(wide / tall - ratio), tall, wide

    # Area first, then ratio; what still ties goes to the shorter, then the narrower.
    _, _, tall, wide = min(candidates())
    return tall, wide


def crop_to_unit(height: int, width: int, unit: int = UNIT) -> tuple[int, int]:
    """Largest size (height, width) in multiples of `unit` that fits in `height` x `width`."""
    return height // unit * unit, width // unit * unit


def smart_resize(height: int, width: int, factor: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """Size (height, width) the VLM's preprocessing chooses: nearest multiples of `factor` within the pixel limits.

    Raises InputError when one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(
            f"A picture of {width} x {height} pixels is too narrow: the longer side may be at most {MAX_ASPECT} times "
            "the shorter one. Crop it."
        )
    tall = max(factor, round(height / factor) * factor)
    wide = max(factor, round(width / factor) * factor)
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return tall, wide


def video_frame_indices(frames: int, fps: float, num_frames: int, sample_fps: float = -1) -> list[int]:
    """Frames of a clip that the VAE sees: at most `num_frames`, from the start, 4n+1 of them.

    `frames` and `fps` describe the clip. A positive `sample_fps` strides through the clip to come near that rate;
    -1 takes consecutive frames. Raises InputError for an empty clip or when the stride runs past its end.
    """
    if frames < 1 or num_frames < 1:
        raise InputError(f"Cannot take {num_frames} of {frames} video frames: both numbers must be at least 1.")
    count = (min(num_frames, frames) - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    stride = 1
    if count > 1 and sample_fps != -1:
        stride = min(max(1, round(fps / sample_fps)), max(1, round((frames - 1) / (count - 1))))
    indices = list(range(0, count * stride, stride))
    if indices[-1] >= frames:
        raise InputError(
            f"{count} frames at {sample_fps} frames per second need a clip of {indices[-1] + 1} frames, this one has "
            f"{frames}. Ask for fewer frames or a higher sampling rate."
        )
    return indices


def vlm_frame_indices(frames: int, count: int = 8, repeat: bool = True) -> list[int]:
    """The `count` frames, spread evenly over a whole clip of `frames`, that the VLM sees.

    A shorter clip repeats frames or, without `repeat`, gives those that it has.
    """
    if frames < 1:
        raise InputError(f"A video must have at least 1 frame, this one has {frames}.")
    # In float32 like the reference, so that halves round the same way.
    count = count if repeat else min(count, frames)
    return torch.linspace(0, frames - 1, count).round().long().tolist()


def check_source(width: int, height: int, name: str) -> None:
    """Raise InputError when a picture or frame of `width` x `height` pixels, called `name`, cannot be used."""
    size = f"{name}: {width} x {height} pixels"
    if width < 1 or height < 1:
        raise InputError(f"{size}. Both sides must be at least 1 pixel: the input is empty, choose another.")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{size}. At most {MAX_SIDE} pixels a side and {MAX_PIXELS // 1_000_000} million in all are allowed: "
            "scale it down first."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{size}. The longer side may be at most {MAX_ASPECT} times the shorter one: crop it first.")


def check_size(width: int, height: int, unit: int = UNIT) -> None:
    """Raise InputError, offering the nearest size, unless `width` and `height` are positive multiples of `unit`."""
    if width >= unit and height >= unit and width % unit == 0 and height % unit == 0:
        return
    raise InputError(
        f"Size {width} x {height}: width and height must be positive multiples of {unit}. "
        f"The nearest is {nearest_side(width, unit)} x {nearest_side(height, unit)}."
    )


def nearest_side(side: int, unit: int = UNIT) -> int:
    """The positive multiple of `unit` that is nearest to `side`."""
    return max(unit, math.floor(side / unit + 0.5) * unit)


def check_frames(frames: int, maximum: int | None = None) -> None:
    """Raise InputError, offering the nearest count, unless `frames` is 4n+1 and at most `maximum`."""
    stride = TEMPORAL_STRIDE
    limit = None if maximum is None else (maximum - 1) // stride * stride + 1
    if frames >= 1 and frames % stride == 1 and (limit is None or frames <= limit):
        return
    below = max(1, (frames - 1) // stride * stride + 1)
    above = below + stride if frames > below else below
    choices = sorted({min(choice, limit or choice) for choice in (below, above)})
    span = "1, 5, 9, ..." if limit is None else f"1, 5, 9, ... {limit}"
    raise InputError(
        f"{frames} frames: the number of frames must be a multiple of {stride} plus 1 ({span}). "
        f"The nearest is {' or '.join(str(choice) for choice in choices)}."
    )
