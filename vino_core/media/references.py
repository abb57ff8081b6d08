"""Reference pictures and clips, prepared once: the VLM and the VAE both work from what is here.

A picture is letterboxed and seen in that form by both. A clip is seen twice over: the VAE gets its first frames,
scaled and cropped; the VLM gets frames from the whole clip at their own size (VINO paper, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .images import letterbox
from .sizing import TARGET_AREA, UNIT, crop_to_unit, fit_area, video_frame_indices, vlm_frame_indices
from .videos import Selection, check_clip, probe, read_video


class TargetSize(NamedTuple):
    """Size a reference suggests for the result, in pixels; `frames` is None when a picture suggests it."""

    height: int
    width: int
    frames: int | None


@dataclass(frozen=True, eq=False)
class ImageReference:
    """A letterboxed picture: `pixels` uint8 [H, W, 3], H and W multiples of 16."""

    pixels: Tensor


@dataclass(frozen=True, eq=False)
class VideoReference:
    """A prepared clip.

    `frames` uint8 [4n+1, H, W, 3] is what the VAE encodes, H and W multiples of 16; `vlm_frames` uint8 [8, H0, W0, 3]
    are spread over the whole clip at its own size; `fps` is the clip's average frame rate.
    """

    frames: Tensor
    vlm_frames: Tensor
    fps: float


@dataclass(frozen=True, eq=False)
class References:
    """All references of one request in prompt order: images first, then videos."""

    images: tuple[ImageReference, ...] = ()
    videos: tuple[VideoReference, ...] = ()

    def target(self) -> TargetSize | None:
        """The first video's size and frame count, else the last picture's size, else None."""
        if self.videos:
            frames, height, width, _ = self.videos[0].frames.shape
            return TargetSize(height, width, frames)
        if self.images:
            height, width, _ = self.images[-1].pixels.shape
            return TargetSize(height, width, None)
        return None


def prepare_image(pixels: Tensor, area: int = TARGET_AREA, unit: int = UNIT) -> ImageReference:
    """Letterbox uint8 [H, W, 3] pixels. Raises InputError for unusable pixels."""
    return ImageReference(letterbox(pixels, area, unit))


def prepare_video(
    source: str | Path | Tensor,
    num_frames: int,
    fps: float | None = None,
    *,
    area: int = TARGET_AREA,
    unit: int = UNIT,
    vlm_frames: int = 8,
) -> VideoReference:
    """Prepare a clip given by its path or as uint8 [T, H, W, 3] frames, whose rate `fps` must then be given.

    The VAE's share is at most `num_frames` frames from the start, 4n+1 of them. A file and its decoded frames give
    the same VLM frames exactly, and the same VAE frames but for how subsampled colour is scaled: a file is scaled
    before it becomes RGB, frames after. Raises InputError for an unusable clip.
    """
    if isinstance(source, Tensor):
        if fps is None or not fps > 0:
            raise InputError(f"Reference video: {fps} frames per second. Give the rate of the frames, above 0.")
        check_clip(source, "Reference video")
        count = len(source)
        size = _prepared_size(source.shape[2], source.shape[1], area, unit, "Reference video")
        frames = scale_frames(source[video_frame_indices(count, fps, num_frames)], size).round().to(torch.uint8)
        seen = source[vlm_frame_indices(count, vlm_frames)]
    else:
        info = probe(source)
        fps = info.fps
        size = _prepared_size(info.width, info.height, area, unit, str(source))
        frames, seen = read_video(
            source,
            [
                Selection(lambda count: video_frame_indices(count, info.fps, num_frames), size),
                Selection(lambda count: vlm_frame_indices(count, vlm_frames)),
            ],
            info,
        )
    height, width = crop_to_unit(*size, unit)
    return VideoReference(frames[:, :height, :width].contiguous(), seen, fps)


def scale_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames [T, H, W, 3] to `size` (height, width), bilinear with antialiasing: float32, 0..255."""
    if tuple(frames.shape[1:3]) == size:
        return frames.float()
    # One frame at a time: a long clip in float32 would take four times its memory, twice.
    scaled = [
        F.interpolate(frame.float().permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)
        for frame in frames
    ]
    return torch.cat(scaled).permute(0, 2, 3, 1)


def _prepared_size(width: int, height: int, area: int, unit: int, name: str) -> tuple[int, int]:
    size = fit_area(width, height, area)
    if 0 in crop_to_unit(*size, unit):
        raise InputError(
            f"{name}: {width} x {height} pixels is too narrow. Scaled to {area} pixels its shorter side would be less "
            f"than {unit}: crop it to a more even shape."
        )
    return size
