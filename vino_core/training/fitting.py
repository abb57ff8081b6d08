"""What a run can afford of an example: how long its clips are, and how large its reference pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..errors import InputError
from ..media.sizing import TEMPORAL_STRIDE, best_grid, check_frames, video_frame_indices
from ..systems.base import System
from . import draws
from .config import Data

WITHOUT_LATENTS = {"reconstruct_image"}
"""Proxy tasks whose references reach the VLM only (VINO paper section 2.3)."""
SHARES = (0.75, 0.5, 0.25)
"""Areas of smaller reference pictures, in `data.area`. Few, so that samples of one layout can still be found; below a
quarter, half of each side, a subject shows too little of what the instruction says about it."""

AREA_STEPS = 8
"""Steps from `data.smallest_area` to `data.area`. Few, so that a size is met, and looked for, more than once."""

bucket = lru_cache(maxsize=4096)(best_grid)
"""Looked for once per size: the search takes longer than reading a small picture."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Fit:
    """`frames`, `height` and `width` of the target; `share` of `data.area` that reference pictures get.

    With `keep_last` the last picture keeps the whole area. `note` says what was made smaller and why, of which clip one
    frame is left, and which reference clips end before the target does; empty for nothing.
    """

    frames: int
    height: int
    width: int
    share: float = 1.0
    keep_last: bool = False
    note: str = ""

    def area(self, picture: int, pictures: int, area: int) -> int:
        """Pixels of reference picture number `picture` (0 is the first) of `pictures`."""
        return area if self.keep_last and picture == pictures - 1 else int(area * self.share)


def at_drawn_area(data: Data, seed: int, step: int, number: int) -> Data:
    """`data` as it is for sample `number` of the whole batch of `step`: with an area drawn for it, if there is a range.

    Depends on nothing else, so that any number of processes and any resume draw the same.
    """
    if data.smallest_area is None:
        return data
    share = int(draws.numbers(seed, "area", step, number).integers(AREA_STEPS + 1))
    return replace(data, area=data.smallest_area + (data.area - data.smallest_area) * share // AREA_STEPS)


def affordable_frames(
    frames: int, per_frame: int, pictures: int, videos: int, budget: int | None, marks: int = 2, given: int = 0
) -> int:
    """The longest clip, at most `frames` and 4n + 1, whose packed sequence has at most `budget` tokens; 0 for none.

    `per_frame`: tokens of a latent frame, of reference clips too, whose own aspect may make it a few more or less.
    `pictures`: tokens of all reference pictures. Reference clips are as long as the target; each brings `marks`
    boundary tokens. `given`: latent frames that target and references have in common, and the sequence once.
    """
    for count in range((frames - 1) // TEMPORAL_STRIDE + 1, 0, -1):
        tokens = pictures + videos * (count * per_frame + marks) + (count - given) * per_frame
        if budget is None or tokens <= budget:
            return (count - 1) * TEMPORAL_STRIDE + 1
    return 0


def fitted(
    target: tuple[int, int, int],
    images: Sequence[Size],
    clips: Sequence[int],
    base: bool,
    task: str,
    data: Data,
    system: System,
) -> Fit:
    """What a target of `target` frames x height x width gets, with reference pictures of these sizes and reference
    clips of so many frames each.

    `base`: the last picture is the one to edit. Clips get shorter, down to five frames; then several pictures smaller;
    then clips are one frame. None is left out, because the instruction counts them. A single picture may be what is
    edited or gone on from, as the one to edit is: those keep the target's scale, as all do in a system of one size.
    Raises InputError when the example cannot be used.
    """
    fit = _affordable(target, images, len(clips), base, task, data, system)
    notes = [note for note in (fit.note, _ends_early(clips, fit.frames, system)) if note]
    return replace(fit, note="; ".join(notes))


def _ends_early(clips: Sequence[int], frames: int, system: System) -> str:
    """What there is to say of reference clips, of so many frames each, beside a target of `frames`; empty for nothing.

    A system of one size has no other place for a clip than beside the target's own frames: raises InputError for a
    shorter one there. Others give the MMDiT what the clip has.
    """
    if system.one_size:
        for count in clips:
            if count < frames:
                raise InputError(
                    f"its reference clip has {count} frames, the target {frames}. {system.name} needs one as long as "
                    "the target: cut the target, or lower data.frames."
                )
        return ""
    if not system.packed:
        return ""
    # The rate does not matter where frames are taken one after the other, as training does.
    given = [(count, len(video_frame_indices(count, 1.0, frames))) for count in clips]
    return "; ".join(
        f"a reference clip of {count} frames, {taken} of which are taken, beside a target of {frames}: nothing is "
        "given for the rest"
        for count, taken in given
        if taken < frames
    )


def _affordable(
    target: tuple[int, int, int], images: Sequence[Size], videos: int, base: bool, task: str, data: Data, system: System
) -> Fit:
    """`fitted`, whatever the length of the `videos` reference clips."""
    limits = data.tasks[task]
    if limits.images is not None and len(images) > limits.images:
        raise InputError(f"{len(images)} pictures; data.tasks.{task}.images is {limits.images}.")
    count, height, width = target
    check_frames(count)
    tall, wide = bucket(width, height, data.area, data.unit)
    per_frame = _tokens(tall, wide, system)
    arrangement = system.arrange(system.trained_as(task, len(images)), len(images), videos)
    marks, given = 2 * (system.boundary_connector is not None), int(arrangement.first_frame is not None)
    if task in WITHOUT_LATENTS or not system.packed:
        images, videos, given = (), 0, 0
    frames = min(count, limits.frames or data.frames)
    shortest = TEMPORAL_STRIDE + 1 if given else 1
    if frames < shortest:
        raise InputError(
            f"{task}: its first frame is given, and {frames} frames leave nothing to learn. Give the clip, "
            f"data.frames and data.tasks.{task}.frames {shortest} or more."
        )
    whole = images[-1:] if base else ()

    def pictures(share: float) -> int:
        """Tokens of all reference pictures, boundaries included, where those that may shrink do."""
        if system.one_size or data.max_tokens is None:  # without a limit no size need be searched for
            return len(images) * (per_frame + marks)
        areas = [int(data.area * share)] * (len(images) - len(whole)) + [data.area] * len(whole)
        sizes = [bucket(across, down, area, data.unit) for (down, across), area in zip(images, areas, strict=True)]
        return sum(_tokens(*size, system) + marks for size in sizes)

    needs = f"{len(images)} pictures and {videos} clips need more than data.max_tokens = {data.max_tokens} tokens"
    # A clip of one frame moves nothing, and the instruction may be about its motion: that is the last resort.
    shares = (1.0, *SHARES) if len(images) > 1 and not system.one_size else (1.0,)
    for least in dict.fromkeys((min(frames, TEMPORAL_STRIDE + 1), shortest)):
        for share in shares:
            most = affordable_frames(frames, per_frame, pictures(share), videos, data.max_tokens, marks, given)
            if most >= least:
                made = []
                if share < 1:
                    made.append(f"{len(images) - len(whole)} reference pictures at {share} of data.area")
                if most == 1 < frames:
                    made.append(f"one frame of {frames}")
                note = f"{' and '.join(made)}: otherwise {needs}" if made else ""
                return Fit(most, tall, wide, share, base and share < 1, note)
    raise InputError(
        f"{needs} even for {'one frame' if shortest == 1 else f'{shortest} frames'}. Raise it, or lower data.area."
    )


def _tokens(height: int, width: int, system: System) -> int:
    """Tokens of a picture or latent frame of so many pixels."""
    _, rows, columns = system.latent_grid(1, height, width)
    _, patch_rows, patch_columns = system.mmdit.patch_size
    return rows * columns // (patch_rows * patch_columns)
