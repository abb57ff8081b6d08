"""Drawing: from a scene to pixels, anti-aliased, the same on every call."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .backgrounds import paint_background
from .shapes import OUTLINES
from .styles import apply_style
from .textures import surface
from .world import Appearance, Scene, Sprite, appearance, times

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Window = tuple[slice, slice]


def draw(scene: Scene, size: int = 64, frames: int = 1) -> Bytes:
    """Pixels uint8 [frames, size, size, 3] of a scene; `frames` is 1 for a picture."""
    painted = np.empty((frames, size, size, 3), np.float32)
    for index, time in enumerate(times(frames)):
        painted[index] = draw_frame(scene, time, size)
    return (painted + np.float32(0.5)).astype(np.uint8)


def draw_frame(scene: Scene, time: float, size: int) -> Floats:
    """One frame of a scene at `time`: float32 [size, size, 3], 0..255."""
    view = scene.camera.view(time)
    canvas = paint_background(scene.background, view, size)
    if scene.sprites:
        canvas = canvas.copy()
    for sprite in scene.sprites:
        paint_sprite(canvas, sprite, appearance(sprite, view, time))
    return apply_style(scene.style, canvas)


def paint_sprite(canvas: Floats, sprite: Sprite, seen: Appearance) -> None:
    """Paint a sprite over a canvas [size, size, 3], without style."""
    found = _placed(sprite.shape, seen, len(canvas))
    if found is None:
        return
    window, x, y, covered = found
    below = canvas[window]
    below += covered[..., None] * (surface(sprite.texture, sprite.colour, x, y) - below)


def coverage(shape: str, seen: Appearance, size: int) -> Floats:
    """How much of each pixel a shape covers: float32 [size, size], 0..1."""
    covered = np.zeros((size, size), np.float32)
    found = _placed(shape, seen, size)
    if found is not None:
        window, *_, inside = found
        covered[window] = inside
    return covered


@lru_cache(maxsize=256)
def _placed(shape: str, seen: Appearance, size: int) -> tuple[Window, Floats, Floats, Floats] | None:
    """The pixels around a sprite, their centres in its coordinates, and how much of each it covers; None when it is
    out of sight. Kept, because a scorer draws a shape at one place in every colour and texture.
    """
    reach = 1.15 * seen.radius * size + 1
    left, right = _span(seen.x * size, reach, size)
    top, bottom = _span(seen.y * size, reach, size)
    if left >= right or top >= bottom:
        return None
    x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - seen.x * size)) / np.float32(seen.radius * size)
    y = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - seen.y * size)) / np.float32(seen.radius * size)
    cos, sin = np.float32(np.cos(seen.angle)), np.float32(np.sin(seen.angle))
    x, y = x[None, :], y[:, None]
    x, y = x * cos + y * sin, y * cos - x * sin
    covered = np.clip(np.float32(0.5) - OUTLINES[shape](x, y) * np.float32(seen.radius * size), 0, 1)
    return (slice(top, bottom), slice(left, right)), x, y, covered


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, int(np.floor(centre - reach))), min(size, int(np.ceil(centre + reach)))
