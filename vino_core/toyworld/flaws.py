"""Flaws of pictures and clips that none of their attributes shows: remains, specks, shades, holes and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import reading
from .reading import Flags, Frame

Floats = NDArray[np.float32]

# Chosen on 338 true pictures and 272 true clips that had passed through the VAE of vino-tiny: "of the truth" is the
# most among them, of a clip its median over the frames.
SPECK = 60.0
"""Distance (0..441) to the expected background from which a lone pixel counts."""
SPECKS = 12
"""How many such pixels a picture of 64 x 64 may have; 2 of the truth, 4 in clips. A line through a clip has 16 or more.
"""
SHADE, SHADE_IN_CLIPS = 15.0, 25.0
"""Distance (0..441) of a square of background, of a small sprite's inner size, to the rest of it; 8.5 of the truth, 19
in clips, where things leave traces behind. A quarter of the least contrast that sprites have is 19.
"""
HOLE = 60.0
"""The same of a smaller square inside a sprite; 30 of the truth, 58 in clips. A black hole of 4 x 4 pixels has 96 or
more in a picture.
"""
GAP = 0.85
"""How much of a square of 3 x 3 pixels well inside a sprite may look like the background; 0.78 of the truth, in clips.
"""
# Limits of one frame of a clip. "Of the truth" is the most in a frame of 148 true clips that had passed through that
# VAE and are clean else. Each catches what is drawn into one frame of nine only.
STRAYS = 12
"""Pixels more than SPECK from the background; 5 of the truth. A pole of 4 pixels has 56 or more."""
GLARE, GLARING = 120.0, 8
"""Pixels more than the first (0..441) from the background, anywhere beside the sprites; 4 of the truth, 25 specks have
138 or more."""
BLOT = 20.0
"""As SHADE; 14.8 of the truth, a pole 34 or more."""
FLEETING_HOLE = 85.0
"""As HOLE; 72 of the truth, a black hole of 4 x 4 pixels 101 or more but for some in stripes, 79."""
_DISTINCT, _LIKE_GROUND = 30.0, 0.35
"""A sprite's pixel counts where it should differ from the background by the first (0..441), and looks like background
where it differs by less than this share of that."""


class Flaws(NamedTuple):
    """The measures of one frame, see the limits above."""

    specks: float
    shade: float
    hole: float
    gap: float


def is_clean(frames: Sequence[Frame]) -> bool:
    """Whether a picture or a clip shows nothing but its scene, as far as its sprites were found.

    No remains or specks beside the sprites, no faint shade of another sprite, no hole in a sprite and none that lacks a
    part; of a clip, in half of its frames, as an autoencoder leaves much behind for a moment, and nothing glaring in
    any of them. Patterned sprites are left out, as their surface is judged by itself.
    """
    area = (frames[0].size / 64) ** 2
    measured = [flaws_of(frame) for frame in frames]
    specks, shade, hole, gap = np.median(measured, axis=0)
    limit = SHADE_IN_CLIPS if len(frames) > 1 else SHADE
    clean = specks <= SPECKS * area and shade <= limit and hole < HOLE and gap <= GAP
    if len(frames) > 1 and clean:
        swept = reading.grown(np.logical_or.reduce([_taken(frame) for frame in frames]), round(frames[0].size / 64))
        clean = all(one.hole < FLEETING_HOLE for one in measured) and all(_is_calm(frame, swept) for frame in frames)
    return bool(clean)


def _is_calm(frame: Frame, swept: Flags) -> bool:
    """Whether a clip's frame has nothing glaring in it, nor anything plain beside all places where its sprites are at
    some time (`swept`): there an autoencoder leaves traces."""
    area = (frame.size / 64) ** 2
    error = _strange(frame.pixels, frame.backdrop)
    size = reading.distance(error, np.float32(0))
    return bool(
        np.count_nonzero((size > SPECK) & ~swept) <= STRAYS * area
        and np.count_nonzero((size > GLARE) & ~_taken(frame)) <= GLARING * area
        and _largest_blot(error, ~swept, round(frame.size * 3 / 64)) <= BLOT
    )


def _taken(frame: Frame) -> Flags:
    return reading.taken(frame, round(frame.size * 2 / 64))


def flaws_of(frame: Frame) -> Flaws:
    """What a frame shows beside its scene, and what its sprites lack."""
    scale = frame.size / 64
    free = ~_taken(frame)
    error = _strange(frame.pixels, frame.backdrop)
    specks = np.count_nonzero((reading.distance(error, np.float32(0)) > SPECK) & free)
    found = frame.found_sprites()
    expected = frame.drawn(found)
    insides = [reading.interior(frame, index, seen) for index, (sprite, seen) in enumerate(found) if sprite.colour]
    return Flaws(
        specks,
        _largest_blot(error, free, round(3 * scale)),
        max((_hole(frame, expected.copy(), inside) for inside in insides), default=0.0),
        max((_gap(frame, expected, inside) for inside in insides), default=0.0),
    )


def _hole(frame: Frame, expected: Floats, inside: Flags) -> float:
    if not inside.any():  # the sprite has left the picture
        return 0.0
    # A sprite of another colour has no hole.
    expected[inside] += np.median((frame.pixels - expected)[inside], 0)
    return _largest_blot(_strange(frame.pixels, expected), inside, round(frame.size * 2 / 64))


def _gap(frame: Frame, expected: Floats, inside: Flags) -> float:
    """The largest share of a square inside a sprite that shows the background instead. Blocks of a mosaic show both."""
    if frame.scene.style.kind == "mosaic":
        return 0.0
    contrast = reading.distance(expected, frame.backdrop)
    bare = inside & (contrast > _DISTINCT) & (frame.difference < _LIKE_GROUND * contrast)
    return float(reading.box_mean(bare.astype(np.float32), max(1, round(frame.size / 64))).max())


def _strange(pixels: Floats, expected: Floats) -> Floats:
    """What pixels [S, S, 3] show beyond the colours that are expected within a pixel of them.

    So a fine dot or line of the background, or an edge, may be blurred or lie a pixel off.
    """
    padded = np.pad(expected, ((1, 1), (1, 1), (0, 0)), mode="edge")
    size = len(pixels)
    around = [padded[row : row + size, column : column + size] for row in range(3) for column in range(3)]
    return pixels - np.clip(pixels, np.minimum.reduce(around), np.maximum.reduce(around))


def _largest_blot(error: Floats, where: Flags, reach: int) -> float:
    """The largest mean error over a square of side 2 * reach + 1: its length over the channels, 0..441.

    An autoencoder's errors cancel out over a square, those of a thing that should not be there do not. What all pixels
    of `where` have in common does not count, nor do pixels elsewhere.
    """
    if not where.any():
        return 0.0
    # A tone that is off as a whole is no blot.
    odd = np.where(where[..., None], error - np.median(error[where], 0), np.float32(0))
    means = np.stack([reading.box_mean(odd[..., channel], reach) for channel in range(3)], -1)
    return float(reading.distance(means, np.float32(0)).max())
