"""Flaws of a picture that none of its attributes shows: remains, specks, shades and holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import reading
from .reading import Flags, Frame

Floats = NDArray[np.float32]

# Chosen on 338 true pictures that had passed through the VAE of vino-tiny: "of the truth" is the most among them.
SPECK = 60.0
"""Distance (0..441) to the expected background from which a lone pixel counts."""
SPECKS = 12
"""How many such pixels a picture of 64 x 64 may have; 2 of the truth."""
SHADE = 15.0
"""Distance (0..441) of a square of background, of a small sprite's inner size, to the rest of it; 8.5 of the truth.
A quarter of the least contrast that sprites have is 19.
"""
HOLE = 60.0
"""The same of a smaller square inside a sprite; 30 of the truth, 96 or more of a black hole of 4 x 4 pixels."""


def is_clean(frame: Frame) -> bool:
    """Whether a picture shows nothing but its scene, as far as its sprites were found.

    No remains or specks beside the sprites, no faint shade of another sprite, no hole in a sprite. Patterned sprites
    are left out, as their surface is judged by itself. Only for pictures: an autoencoder leaves more behind what moves.
    """
    scale = frame.size / 64
    free = ~reading.taken(frame, round(2 * scale))
    error = _strange(frame.pixels, frame.backdrop)
    if np.count_nonzero((reading.distance(error, np.float32(0)) > SPECK) & free) > SPECKS * scale**2:
        return False
    if _largest_blot(error, free, round(3 * scale)) > SHADE:
        return False
    found = frame.found_sprites()
    expected = frame.drawn(found)
    return not any(
        _has_hole(frame, expected.copy(), reading.interior(frame, index, seen))
        for index, (sprite, seen) in enumerate(found)
        if sprite.colour
    )


def _has_hole(frame: Frame, expected: Floats, inside: Flags) -> bool:
    # A sprite of another colour has no hole.
    expected[inside] += np.median((frame.pixels - expected)[inside], 0)
    return _largest_blot(_strange(frame.pixels, expected), inside, round(frame.size * 2 / 64)) >= HOLE


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
