"""Surfaces of sprites: textures that a word describes, and patterns that must be seen to be known."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .shapes import OUTLINES
from .world import COLOURS, Sprite, Texture

Floats = NDArray[np.float32]

_PALE = np.float32([255, 255, 255])
_DEEP = np.float32([20, 16, 30])
_BRIGHT = 150.0
"""Colours above this luminance get a deep second tone, the others a pale one."""


class Pattern(NamedTuple):
    """Three colours [3, 3] (0..255), spread by two sums of plane waves `waves` [2, K, 3]: (kx, ky, phase)."""

    colours: Floats
    waves: Floats


def pattern(texture: Texture) -> Pattern:
    """The pattern of a texture of that kind."""
    return Pattern(_colours(texture.colours), _waves(texture.waves))


@lru_cache(maxsize=4096)
def _colours(seed: int) -> Floats:
    """Three colours that a blurred picture still tells apart."""
    draw = np.random.default_rng((seed, 3))
    while True:
        colours = draw.integers(15, 246, (3, 3)).astype(np.float32)
        gaps = [np.linalg.norm(colours[a] - colours[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        if gaps[0] >= 130 and min(gaps) >= 90:
            return colours


@lru_cache(maxsize=4096)
def _waves(seed: int) -> Floats:
    draw = np.random.default_rng((seed, 4))
    angle = draw.uniform(0, 2 * np.pi, (2, 3))
    # One to two periods across a sprite: the least sprite of a 64-pixel picture must still show them.
    length = draw.uniform(2.4, 4.4, (2, 3))
    phase = draw.uniform(0, 2 * np.pi, (2, 3))
    return np.stack([length * np.cos(angle), length * np.sin(angle), phase], -1).astype(np.float32)


def second_tone(colour: str) -> Floats:
    """The tone of a colour's stripes and spots."""
    tone = np.float32(COLOURS[colour])
    is_bright = float(tone @ np.float32([0.299, 0.587, 0.114])) > _BRIGHT
    return tone * np.float32(0.35) + (_DEEP if is_bright else _PALE) * np.float32(0.65)


def tones(sprite: Sprite) -> list[Floats]:
    """Every colour [3] that the sprite shows, the main one first."""
    if sprite.texture.is_pattern or sprite.colour is None:
        return list(pattern(sprite.texture).colours)
    main = np.float32(COLOURS[sprite.colour])
    return [main] if sprite.texture.kind == "plain" else [main, second_tone(sprite.colour)]


def surface(texture: Texture, colour: str | None, x: Floats, y: Floats) -> Floats:
    """Colours [h, w, 3] or [3] at sprite coordinates `x`, `y` [h, w], in which the sprite's radius is 1."""
    if texture.is_pattern or colour is None:
        return _patterned(pattern(texture), x, y)
    main = np.float32(COLOURS[colour])
    if texture.kind == "plain":
        return main
    if texture.kind == "striped":
        share = _step(np.sin(np.float32(2 * np.pi / 0.9) * (x + y) * np.float32(0.7071)), 0.0)
    else:
        share = _step(np.cos(np.float32(2 * np.pi / 0.95) * x) * np.cos(np.float32(2 * np.pi / 0.95) * y), 0.3)
    return main + share[..., None] * (second_tone(colour) - main)


def variety(sprite: Sprite) -> float:
    """How much a sprite's colour varies over its shape: root mean square distance (0..441) to its mean colour."""
    line = np.linspace(-1, 1, 17, dtype=np.float32)
    x, y = line[None, :], line[:, None]
    inside = OUTLINES[sprite.shape](x, y) < -0.1
    shown = surface(sprite.texture, sprite.colour, *np.broadcast_arrays(x, y))[inside]
    return float(np.sqrt(((shown - shown.mean(0)) ** 2).sum(-1).mean()))


def _patterned(pattern: Pattern, x: Floats, y: Floats) -> Floats:
    first, second = (np.cos(x[..., None] * w[:, 0] + y[..., None] * w[:, 1] + w[:, 2]).sum(-1) for w in pattern.waves)
    base, other, third = pattern.colours
    painted = base + _step(first, 0.0)[..., None] * (other - base)
    return painted + _step(second, 0.7)[..., None] * (third - painted)


def _step(field: Floats, level: float) -> Floats:
    """0 below `level`, 1 above it, with a soft edge a small sprite's pixels can carry."""
    return np.clip((field - np.float32(level)) * np.float32(2.5) + np.float32(0.5), 0, 1)
