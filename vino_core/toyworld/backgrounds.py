"""Backgrounds: two tones and a repeating pattern that fills the plane, so that a camera always has something to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .world import View

Floats = NDArray[np.float32]
Share = Callable[[Floats, Floats, float], Floats]


@dataclass(frozen=True)
class Background:
    """`base` and `other` (0..255) are mixed by `share(x [1, W], y [H, 1], pixel)`, `pixel` the size of one pixel."""

    base: tuple[int, int, int]
    other: tuple[int, int, int]
    share: Share | None = None
    is_fine: bool = False
    """Whether `other` makes only lines or dots, before which nothing can hide."""


def _wave(value: Floats) -> Floats:
    return np.sin(np.float32(2 * np.pi) * value)


def _grass(x: Floats, y: Floats, pixel: float) -> Floats:
    zigzag = np.abs((3 * y) % 1 - np.float32(0.5))
    return np.float32(0.5) + np.float32(0.5) * _wave(4 * x + zigzag)


def _sand(x: Floats, y: Floats, pixel: float) -> Floats:
    return np.float32(0.5) + np.float32(0.5) * _wave(4 * y - x + np.float32(0.25) * _wave(2 * x))


def _sea(x: Floats, y: Floats, pixel: float) -> Floats:
    height = _wave(5 * y + np.float32(0.35) * _wave(np.float32(2.5) * x))
    return np.clip(height, 0, 1)


def _night(x: Floats, y: Floats, pixel: float) -> Floats:
    """Stars in rows, every other row shifted by half a step."""
    row = np.floor(4 * y)
    shift = np.float32(0.5) * (row % 2)
    distance = np.hypot((4 * x + shift) % 1 - np.float32(0.5), (4 * y) % 1 - np.float32(0.5)) / 4
    return np.clip((np.float32(0.024) - distance) / np.float32(pixel) + np.float32(0.5), 0, 1)


def _brick(x: Floats, y: Floats, pixel: float) -> Floats:
    row = np.floor(4 * y)
    across = (2 * x + np.float32(0.5) * (row % 2)) % 1 / 2
    down = (4 * y) % 1 / 4
    across, down = np.minimum(across, np.float32(0.5) - across), np.minimum(down, np.float32(0.25) - down)
    return np.clip((np.float32(0.018) - np.minimum(across, down)) / np.float32(pixel) + np.float32(0.5), 0, 1)


def _tiles(x: Floats, y: Floats, pixel: float) -> Floats:
    """A chequered floor; the product of two soft square waves keeps its corners smooth."""
    soft = np.float32(1 / (4 * np.pi * pixel))
    across, down = (np.clip(_wave(2 * v) * soft, -1, 1) for v in (x, y))
    return np.float32(0.5) + np.float32(0.5) * across * down


BACKGROUNDS: dict[str, Background] = {
    "white": Background((238, 238, 236), (238, 238, 236)),
    "grey": Background((152, 152, 156), (152, 152, 156)),
    "grass": Background((78, 128, 62), (98, 152, 78), _grass),
    "sand": Background((226, 203, 156), (206, 180, 130), _sand),
    "sea": Background((52, 104, 150), (84, 136, 178), _sea),
    "night": Background((22, 22, 52), (225, 225, 235), _night, is_fine=True),
    "brick": Background((146, 80, 62), (190, 158, 140), _brick, is_fine=True),
    "tiles": Background((208, 208, 214), (168, 170, 180), _tiles),
}
PATTERNED = tuple(name for name, background in BACKGROUNDS.items() if background.share)
"""Backgrounds on which a camera's movement can be seen."""


@lru_cache(maxsize=256)
def _still(name: str, size: int) -> Floats:
    painted = _paint(BACKGROUNDS[name], View(), size)
    painted.flags.writeable = False
    return painted


def paint_background(name: str, view: View, size: int) -> Floats:
    """Pixels float32 [size, size, 3] of a background, 0..255. Shared and read-only when the view is the first one."""
    return _still(name, size) if view == View() else _paint(BACKGROUNDS[name], view, size)


def _paint(background: Background, view: View, size: int) -> Floats:
    base, other = np.float32(background.base), np.float32(background.other)
    if background.share is None:
        return np.broadcast_to(base, (size, size, 3)).copy()
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    x = np.float32(0.5 + view.dx) + line / np.float32(view.zoom)
    y = np.float32(0.5 + view.dy) + line / np.float32(view.zoom)
    share = background.share(x[None, :], y[:, None], 1 / (size * view.zoom))
    return base + np.broadcast_to(share, (size, size))[..., None] * (other - base)
