"""What a result makes of the picture or clip that it starts from: how much of it was changed, and how well the rest
was left alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import reading
from .draw import coverage, draw
from .plans import Plan, ToyExample
from .world import Scene, appearance, times

Floats = NDArray[np.float32]

KEPT = 28.0
"""PSNR in dB from which an edit counts as leaving the rest alone."""
CLIPS_KEPT = 22.0
"""The same in a clip, of which an autoencoder leaves less; a lost small sprite costs more."""
SPRITES_KEPT = 20.0
"""The same where the background changes and only sprites stay, of which it leaves less still."""
MOST_DECIBELS = 60.0
"""Equal pixels count as this much, so that a mean over examples exists."""


def psnr(one: Floats, other: Floats) -> float:
    """Peak signal to noise ratio in dB of values 0..255, at most MOST_DECIBELS."""
    error = reading.rms(one - other)
    return min(MOST_DECIBELS, 20 * math.log10(255 / error)) if error else MOST_DECIBELS


def untouched(pixels: Floats, toy: ToyExample) -> float | None:
    """PSNR in dB of a result [T, S, S, 3] (0..255) against the source where the instruction changes nothing.

    None when it changes everything.
    """
    plan = toy.truth
    source, target = plan.source, plan.target
    if source is None or source.style != target.style or source.camera != target.camera:
        return None
    size = pixels.shape[1]
    kept = np.stack([_kept(source, target, time, size) for time in times(len(pixels))])
    if kept.sum() < 16:
        return None
    before = np.broadcast_to(_source_pixels(toy, source), pixels.shape)
    return psnr(pixels[kept], before[kept])


def least_kept(plan: Plan) -> float:
    """PSNR in dB from which a result of the plan counts as leaving the rest alone."""
    if plan.source is not None and plan.source.background != plan.target.background:
        return SPRITES_KEPT
    return CLIPS_KEPT if plan.is_clip else KEPT


def is_changed(pixels: Floats, toy: ToyExample) -> bool | None:
    """Whether an edit's result [T, S, S, 3] (0..255) is nearer to the asked scene than to its input where those differ.

    Nearer in root mean square over all their differing pixels. None for what is no edit of a picture or clip.
    """
    plan = toy.truth
    inputs = plan.videos if plan.is_clip else plan.images
    if plan.source is None or plan.source not in inputs or plan.source == plan.target:
        return None
    before = _source_pixels(toy, plan.source)
    asked = draw(plan.target, pixels.shape[1], len(pixels)).astype(np.float32)
    differs = (before != asked).any(-1)
    return reading.rms((pixels - asked)[differs]) < reading.rms((pixels - before)[differs])


def first_frame(pixels: Floats, toy: ToyExample) -> float | None:
    """PSNR in dB of a clip's first frame against the picture that it starts from; None without one."""
    plan = toy.truth
    if not plan.is_clip or plan.source is None or plan.source not in plan.images:
        return None
    return psnr(pixels[0], _source_pixels(toy, plan.source)[0])


def _kept(source: Scene, target: Scene, time: float, size: int) -> NDArray[np.bool_]:
    view = target.camera.view(time)
    if source.background != target.background:
        inside = np.zeros((size, size), bool)
        for sprite in set(source.sprites) & set(target.sprites):
            inside |= coverage(sprite.shape, appearance(sprite, view, time), size) >= 0.999
        return inside
    changed = np.zeros((size, size), bool)
    for sprite in set(source.sprites) ^ set(target.sprites):
        changed |= coverage(sprite.shape, appearance(sprite, view, time), size) > 0
    return ~reading.grown(changed, round(size * 3 / 64))


def _source_pixels(toy: ToyExample, source: Scene) -> Floats:
    """The reference that an edit starts from: [T, S, S, 3], or [1, S, S, 3] when it is a picture."""
    plan, example = toy.truth, toy.example
    if source in plan.videos:
        return example.videos[plan.videos.index(source)].numpy().astype(np.float32)
    return example.images[plan.images.index(source)][None].numpy().astype(np.float32)
