"""Random scenes: what may stand where, which contrasts are strong enough, and what training never shows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .backgrounds import BACKGROUNDS, PATTERNED
from .styles import apply_style
from .textures import tones, variety
from .world import (
    CAMERAS,
    COLOURS,
    FREE,
    MOTIONS,
    PLACES,
    SHAPES,
    STILL,
    STYLES,
    SUBJECT_SHAPES,
    Camera,
    Motion,
    Scene,
    Sprite,
    Style,
    Texture,
    appearance,
    times,
)

Item = TypeVar("Item")

SPLITS = ("train", "heldout")
_CHECKED = times(9)
_MARGIN = 0.03
_TRIES = 100
LEAST_CONTRAST = 75.0
LEAST_STYLED_CONTRAST = 55.0
"""Where the style keeps only the luminance."""
LEAST_VARIETY = 50.0
COLOURFUL = ("none", "negative", "mosaic")
"""Styles that tell colours of one luminance apart."""
_HIDDEN_SHARE = 10
"""One in so many combinations of shape, colour, texture and background is held out."""


class Unfit(Exception):
    """A draw that broke a rule: draw again."""


class Draw:
    """Random choices from a key of whole numbers; seeds of patterns, paths and duotones differ between the splits."""

    def __init__(self, split: str, *key: int) -> None:
        self._generator = np.random.default_rng((SPLITS.index(split), *key))
        self._is_heldout = split == "heldout"

    def chance(self, probability: float) -> bool:
        return bool(self._generator.random() < probability)

    def pick(self, options: Sequence[Item]) -> Item:
        return options[int(self._generator.integers(len(options)))]

    def seed(self) -> int:
        return 2 * int(self._generator.integers(2**30)) + self._is_heldout

    def texture(self, kinds: Sequence[str] = ("plain", "plain", "striped", "spotted")) -> Texture:
        return Texture(self.pick(kinds))

    def pattern(self) -> Texture:
        return Texture("pattern", self.seed(), self.seed())

    def motion(self, free: float = 0.0) -> Motion:
        """Any motion but standing still; with probability `free` one that no word describes."""
        return Motion(FREE, self.seed()) if self.chance(free) else Motion(self.pick(MOTIONS[1:]))

    def camera(self, free: float = 0.0) -> Camera:
        return Camera(FREE, self.seed()) if self.chance(free) else Camera(self.pick(CAMERAS[1:]))

    def style(self, duotone: float = 0.0) -> Style:
        return Style("duotone", self.seed()) if self.chance(duotone) else Style(self.pick(STYLES))


def is_hidden(sprite: Sprite, background: str) -> bool:
    """Whether training never shows this sprite before this background."""
    if sprite.texture.is_pattern:
        return sprite.texture.waves % 2 == 1
    combination = "|".join((sprite.shape, sprite.colour or "", sprite.texture.kind, background))
    return zlib.crc32(combination.encode()) % _HIDDEN_SHARE == 0


def belongs(split: str, scenes: Sequence[Scene]) -> bool:
    """Whether an example of these scenes may be in a split.

    Training holds nothing hidden. A held-out example holds at least one hidden combination of words, or, where it has
    none that words describe, only hidden patterns.
    """
    described, patterned = [], []
    for scene in scenes:
        for sprite in scene.sprites:
            (patterned if sprite.texture.is_pattern else described).append(is_hidden(sprite, scene.background))
    if split == "train":
        return not any(described) and not any(patterned)
    return all(patterned) and (any(described) or not described)


def contrast(sprite: Sprite, background: str, style: Style) -> float:
    """The least distance (0..441) between a tone of the sprite and one of the background, as the style shows them."""
    if not sprite.texture.is_pattern:
        alike = replace(sprite, shape="circle", size="small", place=(0.5, 0.5), motion=Motion())
        return _contrast(alike, background, style)
    return _least_distance(sprite, background, style)


@lru_cache(maxsize=4096)
def _contrast(sprite: Sprite, background: str, style: Style) -> float:
    return _least_distance(sprite, background, style)


def _least_distance(sprite: Sprite, background: str, style: Style) -> float:
    ground = BACKGROUNDS[background]
    # Lines and dots hide nothing, unless the style takes away the colour that tells them from a sprite.
    grounds = [ground.base] if ground.is_fine and style.kind in COLOURFUL else [ground.base, ground.other]
    shown = apply_style(style, np.stack(tones(sprite)))
    behind = apply_style(style, np.float32(grounds))
    # On the way from one tone to another the surface may pass through the background's own colour.
    between = np.concatenate([one + (shown - one) * share for one in shown for share in (0.25, 0.5, 0.75)])
    return min(_gap(shown, behind), 1.5 * _gap(between, behind))


def _gap(colours: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float(np.sqrt(((colours[:, None] - others[None]) ** 2).sum(-1)).min())


def is_clear(scene: Scene) -> bool:
    """Whether every sprite stands out, shows its pattern, stays in sight and apart from the others in every frame."""
    least = LEAST_CONTRAST if scene.style.kind in COLOURFUL else LEAST_STYLED_CONTRAST
    if any(contrast(sprite, scene.background, scene.style) < least for sprite in scene.sprites):
        return False
    if any(not _shows_pattern(sprite.shape, sprite.texture) for sprite in scene.sprites):
        return False
    moves = scene.camera.kind != STILL or any(sprite.motion.kind != STILL for sprite in scene.sprites)
    border = 0.1 if scene.camera.kind != STILL else None
    # The blocks of a mosaic hide the shape of anything small.
    least_radius = 0.19 if scene.style.kind == "mosaic" else 0.0
    for time in _CHECKED if moves else (0.0,):
        view = scene.camera.view(time)
        seen = [appearance(sprite, view, time) for sprite in scene.sprites]
        for index, one in enumerate(seen):
            edge = one.radius - _MARGIN / 2 if border is None else border
            if one.radius < least_radius or not (edge <= one.x <= 1 - edge and edge <= one.y <= 1 - edge):
                return False
            for other in seen[:index]:
                if math.hypot(one.x - other.x, one.y - other.y) < one.radius + other.radius + _MARGIN * view.zoom:
                    return False
    return True


@lru_cache(maxsize=4096)
def _shows_pattern(shape: str, texture: Texture) -> bool:
    """Whether a pattern shows more than one of its colours within the shape."""
    return not texture.is_pattern or variety(Sprite(shape, None, texture, "small", (0.5, 0.5))) >= LEAST_VARIETY


def label(sprite: Sprite) -> str:
    """What tells a sprite from the others of its scene: its colour, or that it is patterned, and its shape."""
    return f"{sprite.colour or 'patterned'} {sprite.shape}"


def sprite(draw: Draw, patterned: float = 0.0, sizes: Sequence[str] = ("small", "large")) -> Sprite:
    """Any sprite at any named place, standing still."""
    size, place = draw.pick(sizes), PLACES[draw.pick(tuple(PLACES))]
    if draw.chance(patterned):
        return Sprite(draw.pick(SUBJECT_SHAPES), None, draw.pattern(), size, place)
    return Sprite(draw.pick(SHAPES), draw.pick(tuple(COLOURS)), draw.texture(), size, place)


def standing_out(make: Callable[[], tuple[Sprite, str]]) -> tuple[Sprite, str]:
    """The first sprite and background of those that `make` draws that can be seen well. Raises Unfit without one."""
    for _ in range(_TRIES):
        made, background = make()
        if contrast(made, background, Style()) >= LEAST_CONTRAST and _shows_pattern(made.shape, made.texture):
            return made, background
    raise Unfit


def moved(draw: Draw, sprite: Sprite, free: float = 0.0) -> Sprite:
    """The sprite with a motion that suits it: it grows or shrinks to a named size. Raises Unfit for another draw."""
    motion = draw.motion(free)
    if motion.kind in ("grow", "shrink") and (motion.kind == "grow") != (sprite.size == "small"):
        raise Unfit
    return replace(sprite, motion=motion)


def check(scene: Scene) -> Scene:
    """The scene itself. Raises Unfit when it is not clear, two sprites share a label or a turn would not show."""
    labels = {label(sprite) for sprite in scene.sprites}
    if len(labels) < len(scene.sprites) or not all(map(_turn_shows, scene.sprites)) or not is_clear(scene):
        raise Unfit
    return scene


def _turn_shows(sprite: Sprite) -> bool:
    return sprite.motion.kind != "spin" or sprite.texture.is_pattern or sprite.shape in ("triangle", "heart", "moon")


def scene(
    draw: Draw, count: int, patterned: float = 0.0, *, motion: bool = False, camera: bool = False, free: float = 0.0
) -> Scene:
    """A scene of `count` sprites in the plain style; with `motion` at least the first one moves. Raises Unfit."""
    background = draw.pick(PATTERNED if camera else tuple(BACKGROUNDS))
    sprites: list[Sprite] = []
    for index in range(count):
        made, _ = standing_out(lambda: (sprite(draw, patterned), background))
        if motion and (index == 0 or draw.chance(0.5)):
            made = moved(draw, made, free)
        sprites.append(made)
    return check(Scene(tuple(sprites), background, camera=draw.camera(free) if camera else Camera()))


def portrait(draw: Draw, shown: Sprite) -> Scene:
    """A reference picture of a subject: large, in the middle, standing still, before any background. Raises Unfit."""
    posed = replace(shown, size="huge", place=PLACES["centre"], motion=Motion())
    _, background = standing_out(lambda: (posed, draw.pick(tuple(BACKGROUNDS))))
    return check(Scene((posed,), background))
