"""Outlines of sprites as signed distances, in sprite coordinates: radius 1, y down, negative inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - np.float32(0.95)


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Floats, y: Floats) -> Floats:
    sides = (np.abs(x) * np.float32(1.75) - (y + np.float32(1.0))) / np.float32(np.hypot(1.75, 1))
    return np.maximum(sides, y - np.float32(0.75))


def _diamond(x: Floats, y: Floats) -> Floats:
    return (np.abs(x) / np.float32(0.76) + np.abs(y) - np.float32(1.0)) / np.float32(np.hypot(1 / 0.76, 1))


def _star(x: Floats, y: Floats) -> Floats:
    """Five points: one tenth of the star, mirrored and turned, is a half-plane."""
    tenth = np.pi / 5
    outer, inner = 1.0, 0.45
    turn = np.arctan2(x, -y)
    turn = np.abs((turn + np.float32(tenth)) % np.float32(2 * tenth) - np.float32(tenth))
    radius = np.hypot(x, y)
    edge = np.float32([inner * np.cos(tenth) - outer, inner * np.sin(tenth)])
    edge /= np.hypot(*edge)
    return (radius * np.cos(turn) - np.float32(outer)) * edge[1] - radius * np.sin(turn) * edge[0]


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - np.float32(0.32), np.maximum(x, y) - np.float32(0.92))


def _heart(x: Floats, y: Floats) -> Floats:
    """A square on its corner, with a circle on each of its upper sides."""
    half = np.float32(0.8)
    x, y = np.abs(x), y - np.float32(0.12)
    square = (x + np.abs(y) - half) * np.float32(np.sqrt(0.5))
    lobe = np.hypot(x - half / 2, y + half / 2) - half * np.float32(np.sqrt(0.5))
    return np.minimum(square, lobe)


def _moon(x: Floats, y: Floats) -> Floats:
    return np.maximum(
        np.hypot(x, y) - np.float32(0.95), np.float32(0.8) - np.hypot(x - np.float32(0.5), y + np.float32(0.12))
    )


OUTLINES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
