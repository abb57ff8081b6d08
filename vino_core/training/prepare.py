"""From an example to pixels of the sizes that VLM and VAE take, and of a length that the run can afford."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..media.excerpt import Excerpt
from ..media.references import (
    Clip,
    ImageReference,
    References,
    VideoReference,
    Wanted,
    prepare_image,
    prepare_video,
    scale_frames,
)
from ..media.sizing import vlm_frame_indices
from ..systems.base import Arrangement, System
from .config import Data
from .dropout import Dropped, visible
from .example import Example, PreparedLatents
from .fitting import WITHOUT_LATENTS, Fit, bucket, fitted


@dataclass(frozen=True, eq=False)
class Prepared:
    """One sample before the networks. `target` uint8 [T, H, W, 3]; `packed`: references also go to the MMDiT, in the
    places of `arrangement`, which counts those that are left. The first `given` latent frames of the target are known
    from a reference and not learned.

    With `latents` the VAE is not asked: they are those of the target and of each packed reference, and the target and
    the frames of reference clips have shapes but may have no data (device "meta"). `adapted` says what is smaller
    or shorter than usual and why, empty for nothing. `index` is its number in the task's source, once that is known.
    """

    id: str
    task: str
    text: str
    references: References
    target: Tensor
    packed: bool
    arrangement: Arrangement
    given: int = 0
    latents: PreparedLatents | None = None
    adapted: str = ""
    index: int = -1

    @property
    def pixels(self) -> list[Tensor]:
        """What the VAE encodes for the packed sequence, [T, H, W, 3] in 0..255 each, in prompt order."""
        if not self.packed:
            return []
        return self.references.packed


def cover(frames: Tensor, area: int, unit: int) -> Tensor:
    """Frames uint8 [T, H, W, 3] scaled and cropped around the centre to the grid size nearest to their own aspect.

    No size is left out for being rare: each aspect has its bucket, and buckets differ in shape only, not in area.
    """
    _, height, width, _ = frames.shape
    return covering(frames, bucket(width, height, area, unit))


def covering(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames uint8 [T, H, W, 3] scaled and cropped around the centre to `size` (height, width)."""
    _, height, width, _ = frames.shape
    tall, wide = size
    if (tall, wide) == (height, width):
        return frames.contiguous()
    scale = max(tall / height, wide / width)
    scaled_size = max(tall, round(height * scale)), max(wide, round(width * scale))
    scaled = scale_frames(frames, scaled_size).round().clamp(0, 255).to(torch.uint8)
    top, left = (scaled_size[0] - tall) // 2, (scaled_size[1] - wide) // 2
    return scaled[:, top : top + tall, left : left + wide].contiguous()


def prepare(example: Example, dropped: Dropped, data: Data, system: System) -> Prepared:
    """Size everything. Raises InputError, naming the example, when it cannot be used."""
    try:
        return _prepare(example, dropped, data, system)
    except InputError as error:
        raise InputError(f"example {example.id}: {error}") from error


def _prepare(example: Example, dropped: Dropped, data: Data, system: System) -> Prepared:
    count, clips, latents = len(example.images), [len(clip) for clip in example.videos], example.latents
    sizes = [tuple(image.shape[:2]) for image in example.images]
    fit = fitted(tuple(example.target.shape[:3]), sizes, clips, example.base_image, example.task, data, system)
    packed = system.packed and example.task not in WITHOUT_LATENTS
    arrangement = system.arrange(system.trained_as(example.task, count), count, len(clips))
    prompt = visible(example, dropped, system)
    sized = _of_one_size if system.one_size else _each_by_itself
    references = sized(example, prompt.references, arrangement, fit, data, system)
    if latents is None:
        target, chosen = cover(example.target[: fit.frames], data.area, data.unit), None
    else:
        target = _unread(latents.target, system)
        wanted = fit.frames, fit.height, fit.width
        if tuple(target.shape[:3]) != wanted:
            raise InputError(
                f"its latents are of {list(target.shape[:3])} frames x height x width, not {list(wanted)}. "
                "Encode again: vino data encode."
            )
        chosen = PreparedLatents(
            latents.target, tuple(latents.references[i] for i in prompt.references) if packed else ()
        )
    return Prepared(
        id=example.id,
        task=example.task,
        text=prompt.text,
        references=references,
        target=target,
        packed=packed,
        arrangement=arrangement.among(prompt.references) if packed else Arrangement(),
        given=int(packed and arrangement.first_frame is not None),
        latents=chosen,
        adapted=fit.note,
    )


def _unread(latents: Tensor, system: System) -> Tensor:
    """In place of the pixels that latents [16, t, h, w] were made of: uint8 [T, H, W, 3] without data."""
    _, time, rows, columns = latents.shape
    per_frame, tall, wide = system.vae_stride
    shape = (time - 1) * per_frame + 1, rows * tall, columns * wide, 3
    return torch.empty(shape, dtype=torch.uint8, device="meta")


def _of_one_size(
    example: Example, seen: Sequence[int], arrangement: Arrangement, fit: Fit, data: Data, system: System
) -> References:
    """The references that are `seen` at the target's size, as the system prepares them.

    What is edited or gone on from is cut like the target first, so that the two stay aligned.
    """
    size, count = (fit.height, fit.width), len(example.images)
    images, clips = [], []
    for index in seen:
        if index >= count:
            clips.append(Clip(covering(example.videos[index - count][: fit.frames], size), example.fps))
        elif index in arrangement.conditions:
            images.append(covering(example.images[index][None], size)[0])
        else:
            images.append(example.images[index])
    wanted = Wanted(fit.frames, size, fit.height * fit.width, data.unit, vlm_frames(data, system))
    return system.prepare(arrangement.among(seen), images, clips, wanted)


def _each_by_itself(
    example: Example, seen: Sequence[int], arrangement: Arrangement, fit: Fit, data: Data, system: System
) -> References:
    """The references that are `seen`, each at a size of its own."""
    _, height, width, _ = example.target.shape
    count, latents = len(example.images), example.latents
    images = [
        _image(example.images[index], (height, width), fit.area(index, count, data.area), data.unit)
        for index in seen
        if index < count
    ]
    videos = []
    for index in seen:
        if index >= count:
            clip = example.videos[index - count]
            if latents is None:
                videos.append(_video(clip, example.fps, (height, width), fit.frames, data, system))
            else:
                shown = clip[vlm_frame_indices(len(clip), vlm_frames(data, system))]
                videos.append(VideoReference(_unread(latents.references[index], system), shown, example.fps))
    return References(tuple(images), tuple(videos))


def vlm_frames(data: Data, system: System) -> int:
    """Frames of a clip that the VLM sees: the system's own number unless the config gives one."""
    return data.vlm_frames or system.vision.frames


def _image(pixels: Tensor, target: tuple[int, int], area: int, unit: int) -> ImageReference:
    # A picture of the target's size is its counterpart in an edit: both are cut alike, so that they stay aligned.
    if tuple(pixels.shape[:2]) == target:
        return ImageReference(cover(pixels[None], area, unit)[0])
    return prepare_image(pixels, area, unit)


def _video(
    clip: Tensor | Excerpt, fps: float, target: tuple[int, int], frames: int, data: Data, system: System
) -> VideoReference:
    shown = vlm_frames(data, system)
    prepared = prepare_video(clip, frames, fps, area=data.area, unit=data.unit, vlm_frames=shown)
    if tuple(clip.shape[1:3]) == target:
        return VideoReference(cover(clip[: len(prepared.frames)], data.area, data.unit), prepared.vlm_frames, fps)
    return prepared
