"""What a toy scene is: sprites with a shape, colour, texture, size, place and motion, before a background.

Lengths and places are fractions of the picture's side, x to the right and y down, (0, 0) the top left corner. Angles
are radians, clockwise. Time runs from 0 (first frame) to 1 (last frame), whatever the number of frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
SUBJECT_SHAPES = SHAPES[:-1]
"""Shapes of subjects, which a reference shows: all but the moon, too thin to show a texture."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 45),
    "orange": (245, 135, 20),
    "yellow": (250, 225, 60),
    "green": (35, 150, 55),
    "cyan": (60, 205, 215),
    "blue": (35, 65, 215),
    "purple": (150, 60, 190),
    "pink": (250, 140, 190),
}
TEXTURES = ("plain", "striped", "spotted")
"""Textures that a word describes."""

SIZES = {"small": 0.125, "large": 0.2, "huge": 0.3}
"""Radius by name; "huge" is only how a reference shows its subject."""

_LINE = (0.21, 0.5, 0.79)
PLACES = {
    "top left": (_LINE[0], _LINE[0]),
    "top": (_LINE[1], _LINE[0]),
    "top right": (_LINE[2], _LINE[0]),
    "left": (_LINE[0], _LINE[1]),
    "centre": (_LINE[1], _LINE[1]),
    "right": (_LINE[2], _LINE[1]),
    "bottom left": (_LINE[0], _LINE[2]),
    "bottom": (_LINE[1], _LINE[2]),
    "bottom right": (_LINE[2], _LINE[2]),
}
STILL = "still"
FREE = "free"
"""A motion or camera path drawn from a seed, which no word describes."""
MOTIONS = (STILL, "left", "right", "up", "down", "circle", "jump", "grow", "shrink", "spin")
CAMERAS = (STILL, "left", "right", "up", "down", "in", "out")
STYLES = ("greyscale", "sepia", "negative", "mosaic")
"""Styles that a word describes. "duotone", two colours drawn from a seed, must be seen; "none" is the plain look."""

_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
TRAVEL = 0.3
PAN = 0.22
"""No background repeats after this distance, so that the end of a pan never looks like its start."""


class Pose(NamedTuple):
    """Where a sprite stands in relation to its start."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    angle: float = 0.0


class View(NamedTuple):
    """What the camera sees: its centre's shift from the picture's centre, and how much larger things appear."""

    dx: float = 0.0
    dy: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Texture:
    """`kind` is one of TEXTURES, or "pattern", which no word describes: colours and waves drawn from two seeds."""

    kind: str = "plain"
    colours: int = 0
    waves: int = 0

    @property
    def is_pattern(self) -> bool:
        return self.kind == "pattern"


@dataclass(frozen=True)
class Motion:
    """`kind` is one of MOTIONS, or FREE: a bent path drawn from `seed`."""

    kind: str = STILL
    seed: int = 0

    def pose(self, time: float) -> Pose:
        """The pose at `time` 0..1; at 0 it is the identity."""
        if self.kind in _DIRECTIONS:
            dx, dy = _DIRECTIONS[self.kind]
            return Pose(TRAVEL * time * dx, TRAVEL * time * dy)
        if self.kind == "circle":
            turn = 2 * math.pi * time
            return Pose(0.13 * math.sin(turn), 0.13 * (math.cos(turn) - 1))
        if self.kind == "jump":
            return Pose(dy=-0.26 * math.sin(math.pi * time))
        if self.kind in ("grow", "shrink"):
            ratio = SIZES["large"] / SIZES["small"]
            end = ratio if self.kind == "grow" else 1 / ratio
            return Pose(scale=1 + (end - 1) * time)
        if self.kind == "spin":
            return Pose(angle=math.pi * time)
        if self.kind == FREE:
            (bend_x, bend_y), (end_x, end_y) = _path(self.seed)
            bend = 2 * time * (1 - time)
            return Pose(bend * bend_x + time**2 * end_x, bend * bend_y + time**2 * end_y)
        return Pose()


@dataclass(frozen=True)
class Camera:
    """`kind` is one of CAMERAS (pans and zooms), or FREE: a straight pan with a zoom, both drawn from `seed`."""

    kind: str = STILL
    seed: int = 0

    def view(self, time: float) -> View:
        """The view at `time` 0..1; at 0 it is the identity."""
        if self.kind in _DIRECTIONS:
            dx, dy = _DIRECTIONS[self.kind]
            return View(PAN * time * dx, PAN * time * dy)
        if self.kind == "in":
            return View(zoom=1 + 0.5 * time)
        if self.kind == "out":
            return View(zoom=1 / (1 + 0.4 * time))
        if self.kind == FREE:
            direction, distance, zoom = _flight(self.seed)
            return View(distance * math.cos(direction) * time, distance * math.sin(direction) * time, zoom**time)
        return View()


@dataclass(frozen=True)
class Style:
    """How the whole picture looks: "none", one of STYLES, or "duotone": two colours drawn from `seed`."""

    kind: str = "none"
    seed: int = 0


@dataclass(frozen=True)
class Sprite:
    """One thing in a scene. `colour` is None for a pattern, which brings its own colours."""

    shape: str
    colour: str | None
    texture: Texture
    size: str
    place: tuple[float, float]
    motion: Motion = Motion()

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    @property
    def place_name(self) -> str:
        """The nearest named place."""
        return min(PLACES, key=lambda name: math.dist(PLACES[name], self.place))


@dataclass(frozen=True)
class Scene:
    """Sprites that never overlap, before a background, seen by a camera."""

    sprites: tuple[Sprite, ...]
    background: str
    style: Style = Style()
    camera: Camera = Camera()


class Appearance(NamedTuple):
    """A sprite as one frame shows it: centre and radius in fractions of the side, angle in radians."""

    x: float
    y: float
    radius: float
    angle: float


def appearance(sprite: Sprite, view: View, time: float) -> Appearance:
    """Where `view` shows `sprite` at `time`."""
    pose = sprite.motion.pose(time)
    x = 0.5 + (sprite.place[0] + pose.dx - 0.5 - view.dx) * view.zoom
    y = 0.5 + (sprite.place[1] + pose.dy - 0.5 - view.dy) * view.zoom
    return Appearance(x, y, sprite.radius * pose.scale * view.zoom, pose.angle)


def times(frames: int) -> list[float]:
    """The time of each of `frames` frames."""
    return [index / max(1, frames - 1) for index in range(frames)]


@lru_cache(maxsize=4096)
def _path(seed: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """A bend and an end point, so far from the start that no one takes the path for standing still."""
    draw = np.random.default_rng((seed, 1))
    while True:
        bend, end = draw.uniform(-0.4, 0.4, 2), draw.uniform(-0.3, 0.3, 2)
        if math.hypot(*end) >= 0.18:
            return (float(bend[0]), float(bend[1])), (float(end[0]), float(end[1]))


@lru_cache(maxsize=4096)
def _flight(seed: int) -> tuple[float, float, float]:
    """Direction and length of a pan, and the zoom at its end."""
    draw = np.random.default_rng((seed, 2))
    return float(draw.uniform(0, 2 * math.pi)), float(draw.uniform(0.12, PAN)), float(draw.uniform(0.75, 1.5))
