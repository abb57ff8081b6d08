"""Styles: how a whole picture looks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .world import Style

Floats = NDArray[np.float32]

_LUMINANCE = np.float32([0.299, 0.587, 0.114])
_SEPIA_DARK, _SEPIA_LIGHT = np.float32([48, 26, 8]), np.float32([255, 232, 188])
MOSAIC = 16
"""Blocks along a side of a mosaic."""


def apply_style(style: Style, pixels: Floats) -> Floats:
    """`pixels` float32 [..., H, W, 3] or colours [..., 3] (0..255) in a style. A mosaic leaves lone colours alone."""
    if style.kind == "greyscale":
        return np.repeat((pixels @ _LUMINANCE)[..., None], 3, -1)
    if style.kind == "sepia":
        return _ramp(pixels, _SEPIA_DARK, _SEPIA_LIGHT)
    if style.kind == "duotone":
        return _ramp(pixels, *_duotone(style.seed))
    if style.kind == "negative":
        return np.float32(255) - pixels
    if style.kind == "mosaic" and pixels.ndim >= 3:
        return mosaic(pixels)
    return pixels


def mosaic(pixels: Floats) -> Floats:
    """Pixels [..., H, W, C] with every block replaced by its mean."""
    *lead, height, width, channels = pixels.shape
    step = height // MOSAIC
    blocks = pixels.reshape(*lead, height // step, step, width // step, step, channels)
    return np.broadcast_to(blocks.mean((-4, -2), keepdims=True), blocks.shape).reshape(pixels.shape)


def _ramp(pixels: Floats, dark: Floats, light: Floats) -> Floats:
    return dark + (pixels @ _LUMINANCE)[..., None] * ((light - dark) / np.float32(255))


@lru_cache(maxsize=4096)
def _duotone(seed: int) -> tuple[Floats, Floats]:
    """A dark and a light colour, far enough apart to keep the picture's shapes, and not grey."""
    draw = np.random.default_rng((seed, 5))
    while True:
        dark, light = draw.integers(0, 100, 3), draw.integers(130, 256, 3)
        if np.ptp(dark) >= 60 and np.ptp(light) >= 60 and np.linalg.norm(light - dark) >= 240:
            return dark.astype(np.float32), light.astype(np.float32)
