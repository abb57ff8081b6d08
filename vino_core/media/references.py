"""Reference pictures and clips, prepared once: the VLM and the VAE both work from what is here.

VINO's picture is letterboxed and seen in that form by both. Its clip is seen twice over: the VAE gets its first frames,
scaled and cropped; the VLM gets frames from the whole clip at their own size (VINO paper, section 3.1). How another
system prepares them is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .excerpt import Excerpt
from .images import letterbox
from .sizing import TARGET_AREA, UNIT, crop_to_unit, fit_area, video_frame_indices, vlm_frame_indices
from .videos import Selection, check_clip, probe, read_video

if TYPE_CHECKING:
    from ..systems.base import Arrangement


class TargetSize(NamedTuple):
    """Size a reference suggests for the result, in pixels; `frames` is None when a picture suggests it."""

    height: int
    width: int
    frames: int | None


@dataclass(frozen=True, eq=False)
class ImageReference:
    """A prepared picture.

    `pixels` uint8 [H, W, 3] is what the VLM sees. The VAE encodes the same, H and W multiples of 16, or else `canvas`:
    uint8, or float32 in 0..255 that nothing has rounded.
    """

    pixels: Tensor
    canvas: Tensor | None = None

    @property
    def packed(self) -> Tensor:
        """What the VAE encodes, [H, W, 3]."""
        return self.pixels if self.canvas is None else self.canvas


@dataclass(frozen=True, eq=False)
class VideoReference:
    """A prepared clip.

    `frames` uint8 [4n+1, H, W, 3] is what the VAE encodes, H and W multiples of 16; `vlm_frames` uint8 [n, H0, W0, 3]
    are spread over what the VLM sees (VINO: 8 of the whole clip at its own size); `fps` is the clip's average frame
    rate.
    """

    frames: Tensor
    vlm_frames: Tensor
    fps: float


@dataclass(frozen=True, eq=False)
class References:
    """All references of one request in prompt order: images first, then videos."""

    images: tuple[ImageReference, ...] = ()
    videos: tuple[VideoReference, ...] = ()

    @property
    def packed(self) -> list[Tensor]:
        """What the VAE encodes of each, [T, H, W, 3], 0..255."""
        return [image.packed[None] for image in self.images] + [video.frames for video in self.videos]

    def target(self) -> TargetSize | None:
        """The first video's size and frame count, else the last picture's size, else None."""
        if self.videos:
            frames, height, width, _ = self.videos[0].frames.shape
            return TargetSize(height, width, frames)
        if self.images:
            height, width, _ = self.images[-1].packed.shape
            return TargetSize(height, width, None)
        return None


class Clip(NamedTuple):
    """A clip to prepare: a file, or uint8 [T, H, W, 3] frames or an excerpt of them, whose rate `fps` must then be
    given."""

    source: str | Path | Tensor | Excerpt
    fps: float | None = None


class Wanted(NamedTuple):
    """What references are prepared for: a result of at most `frames` frames, of `size` (height, width) in pixels or of
    what a reference decides when that is None; references of about `area` pixels in multiples of `unit`, and
    `vlm_frames` frames of a clip for the VLM."""

    frames: int
    size: tuple[int, int] | None
    area: int = TARGET_AREA
    unit: int = UNIT
    vlm_frames: int = 8


def prepare_each(
    arrangement: Arrangement, images: Sequence[Tensor], clips: Sequence[Clip], wanted: Wanted
) -> References:
    """Every reference at a size of its own, whatever its place (VINO). Raises InputError for unusable ones."""
    limits = {"area": wanted.area, "unit": wanted.unit}
    return References(
        tuple(prepare_image(pixels, **limits) for pixels in images),
        tuple(
            prepare_video(clip.source, wanted.frames, clip.fps, **limits, vlm_frames=wanted.vlm_frames)
            for clip in clips
        ),
    )


def prepare_image(pixels: Tensor, area: int = TARGET_AREA, unit: int = UNIT) -> ImageReference:
    """Letterbox uint8 [H, W, 3] pixels. Raises InputError for unusable pixels."""
    return ImageReference(letterbox(pixels, area, unit))


def prepare_video(
    source: str | Path | Tensor | Excerpt,
    num_frames: int,
    fps: float | None = None,
    *,
    area: int = TARGET_AREA,
    unit: int = UNIT,
    vlm_frames: int = 8,
    whole_clip: bool = True,
) -> VideoReference:
    """Prepare a clip given by its path or as uint8 [T, H, W, 3] frames, whose rate `fps` must then be given.

    The VAE's share is at most `num_frames` frames from the start, 4n+1 of them. The VLM's are `vlm_frames` frames of
    the whole clip or, without `whole_clip`, at most so many of the VAE's. A file and its decoded frames give
    the same VLM frames exactly, and the same VAE frames but for how subsampled colour is scaled: a file is scaled
    before it becomes RGB, frames after. Raises InputError for an unusable clip.
    """
    if isinstance(source, Tensor | Excerpt):
        if fps is None or not fps > 0:
            raise InputError(f"Reference video: {fps} frames per second. Give the rate of the frames, above 0.")
        check_clip(source if isinstance(source, Tensor) else source.kept, "Reference video")
        count = len(source)
        size = prepared_size(source.shape[2], source.shape[1], area, unit, "Reference video")
        frames = scale_frames(source[video_frame_indices(count, fps, num_frames)], size).round().to(torch.uint8)
        seen = source[vlm_frame_indices(count, vlm_frames)] if whole_clip else None
    else:
        info = probe(source)
        fps = info.fps
        size = prepared_size(info.width, info.height, area, unit, str(source))
        selections = [Selection(lambda count: video_frame_indices(count, info.fps, num_frames), size)]
        if whole_clip:
            selections.append(Selection(lambda count: vlm_frame_indices(count, vlm_frames)))
        frames, *others = read_video(source, selections, info)
        seen = others[0] if whole_clip else None
    height, width = crop_to_unit(*size, unit)
    frames = frames[:, :height, :width].contiguous()
    if seen is None:
        seen = frames[vlm_frame_indices(len(frames), vlm_frames, repeat=False)]
    return VideoReference(frames, seen, fps)


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


def prepared_size(width: int, height: int, area: int, unit: int, name: str) -> tuple[int, int]:
    """Size (height, width) of about `area` pixels to scale to before the crop. Raises InputError for narrow shapes."""
    size = fit_area(width, height, area)
    if 0 in crop_to_unit(*size, unit):
        raise InputError(
            f"{name}: {width} x {height} pixels is too narrow. Scaled to {area} pixels its shorter side would be less "
            f"than {unit}: crop it to a more even shape, or scale it to a larger area."
        )
    return size
