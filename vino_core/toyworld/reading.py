"""Reading a frame: where a sprite is, and which of the candidates that could be drawn there fits its pixels best.

Nothing is learned. A candidate is drawn, its pixels are compared, and the best one is what the frame is said to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from .backgrounds import BACKGROUNDS, paint_background
from .draw import coverage, paint_sprite
from .sampling import contrast
from .styles import MOSAIC, apply_style, mosaic
from .world import SIZES, Appearance, Scene, Sprite, Style, View, appearance

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

_STEPS = 6
_NUDGES = sorted(product((0.0, -0.5, 0.5, -1.0, 1.0), repeat=2), key=lambda nudge: math.hypot(*nudge))
_FITS = 15.0
"""Error (0..255) of a surface that needs no better place."""
_CLIPPED = 60.0
"""Errors count up to this much per pixel, so that a few wrong pixels do not decide about all the others."""


@dataclass(frozen=True)
class Found:
    """Where a sprite was found: `seen` with the fitted centre, and the distance to the expected one (fraction)."""

    seen: Appearance
    error: float
    is_there: bool


@dataclass(eq=False)
class Frame:
    """One frame float32 [S, S, 3] (0..255) of a scene at a time, with what the scene leads to expect."""

    pixels: Floats
    scene: Scene
    time: float
    found: dict[int, Found] = field(default_factory=dict)
    _known: dict[tuple, Flags] = field(default_factory=dict)

    def flags(self, make: Callable[..., Flags], *key: Hashable) -> Flags:
        """`make(self, *key)`, made once."""
        name = (make, *key)
        if name not in self._known:
            self._known[name] = make(self, *key)
        return self._known[name]

    @property
    def size(self) -> int:
        return len(self.pixels)

    @cached_property
    def view(self) -> View:
        return self.scene.camera.view(self.time)

    @cached_property
    def _plain(self) -> Floats:
        """The expected background, without style."""
        return paint_background(self.scene.background, self.view, self.size)

    @cached_property
    def backdrop(self) -> Floats:
        """The expected background, in style."""
        return apply_style(self.scene.style, self._plain)

    def ground(self, background: str, view: View) -> Floats:
        """A background as the scene's style shows it."""
        return apply_style(self.scene.style, paint_background(background, view, self.size))

    @cached_property
    def difference(self) -> Floats:
        """Distance [S, S] of every pixel to the expected background."""
        return distance(self.pixels, self.backdrop)

    @cached_property
    def foreground(self) -> Flags:
        """Pixels that differ from the expected background by as much as a sprite of the scene may."""
        scene = self.scene
        least = min((contrast(one, scene.background, scene.style) for one in scene.sprites), default=100.0)
        return self.difference > np.clip(0.4 * least, 20, 45)

    def expected(self, index: int) -> Appearance:
        """Where the scene has its sprite number `index`."""
        return appearance(self.scene.sprites[index], self.view, self.time)

    def covered(self, shape: str, seen: Appearance) -> Floats:
        """How much of each pixel a shape covers, in the scene's style."""
        plain = coverage(shape, seen, self.size)
        return mosaic(plain[..., None])[..., 0] if self.scene.style.kind == "mosaic" else plain

    def drawn(self, sprites: Iterable[tuple[Sprite, Appearance]], style: Style | None = None) -> Floats:
        """Sprites, drawn where they are said to be seen, before the scene's background."""
        canvas = self._plain.copy()
        for sprite, seen in sprites:
            paint_sprite(canvas, sprite, seen)
        return apply_style(style or self.scene.style, canvas)

    def found_sprites(self) -> list[tuple[Sprite, Appearance]]:
        """Every sprite of the scene where it was found."""
        return [(sprite, self.found[index].seen) for index, sprite in enumerate(self.scene.sprites)]


def read(pixels: Floats, scene: Scene, time: float) -> Frame:
    """A frame float32 [S, S, 3] (0..255) of a scene at a time, with its sprites located."""
    frame = Frame(pixels, scene, time)
    for index in range(len(scene.sprites)):
        frame.found[index] = locate(frame, index)
    return frame


def refine(frame: Frame) -> None:
    """Move the textured sprites of a read frame to where their surfaces fit best, see `refined`."""
    for index, sprite in enumerate(frame.scene.sprites):
        if sprite.texture.kind != "plain":
            frame.found[index] = refined(frame, index)


def distance(one: Floats, other: Floats) -> Floats:
    """Euclidean distance over the last axis."""
    gap = one - other
    return np.sqrt(np.einsum("...c,...c->...", gap, gap))


def grown(flags: Flags, pixels: int) -> Flags:
    """Flags [S, S] with everything within `pixels` (a square) of a set one set too."""
    if pixels < 1:
        return flags
    return box_mean(flags.astype(np.float32), pixels) > 1e-4


def box_mean(values: Floats, reach: int) -> Floats:
    """Mean of [S, S] over the squares of side 2 * reach + 1, outside counting as zero."""
    side = 2 * reach + 1
    summed = np.pad(values, reach + 1).astype(np.float64).cumsum(0).cumsum(1)
    size = len(values)
    corners = [summed[a : a + size, b : b + size] for a in (0, side) for b in (0, side)]
    return ((corners[3] - corners[1] - corners[2] + corners[0]) / side**2).astype(np.float32)


def locate(frame: Frame, index: int) -> Found:
    """Find sprite number `index` near the place where the scene has it.

    The centre is moved until the foreground around it has the centroid that the sprite's shape would have there, so
    neither the colour nor the texture matters. It is "there" when about the right number of pixels is.
    """
    expected, size = frame.expected(index), frame.size
    sprite = frame.scene.sprites[index]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(0.5)
    own = frame.foreground & ~frame.flags(_others, index)
    seen = expected
    ratio = 0.0
    for _ in range(_STEPS):
        window = np.hypot(columns - seen.x * size, rows - seen.y * size) < (1.35 * seen.radius + 0.06) * size
        here = own & window
        shape = frame.covered(sprite.shape, seen) > 0.5
        ratio = here.sum() / max(1, shape.sum())
        if not here.any() or not shape.any():
            return Found(expected, 1.0, False)
        dx = float(columns[here].mean() - columns[shape].mean()) / size
        dy = float(rows[here].mean() - rows[shape].mean()) / size
        seen = seen._replace(x=seen.x + dx, y=seen.y + dy)
        if abs(dx) + abs(dy) < 0.1 / size:
            break
    error = float(np.hypot(seen.x - expected.x, seen.y - expected.y))
    if frame.scene.style.kind == "mosaic" and error < 0.75 / MOSAIC:
        # Blocks tell a place no better than this, and another place changes all their colours.
        seen = expected
    return Found(seen, error, bool(0.4 < ratio < 2.5))


def _others(frame: Frame, index: int) -> Flags:
    """Pixels that belong to the other sprites if those are where they should be, and a little around them."""
    flags = np.zeros((frame.size, frame.size), bool)
    for other, sprite in enumerate(frame.scene.sprites):
        if other != index:
            flags |= coverage(sprite.shape, frame.expected(other), frame.size) > 0
    if flags.any():
        flags = grown(flags, round(frame.size * 2 / 64))
        flags &= coverage(frame.scene.sprites[index].shape, frame.expected(index), frame.size) == 0
    return flags


def overlap(frame: Frame, index: int, shape: str, radius: float) -> float:
    """How well a shape of a radius covers the foreground at a found sprite: intersection over union, 0..1."""
    filled = frame.covered(shape, aligned(frame, index, shape, radius)) > 0.5
    window = around(frame, index, radius)
    here = frame.foreground & window
    return float((here & filled).sum() / max(1, (here | (filled & window)).sum()))


def outline_error(frame: Frame, index: int, sprite: Sprite, radius: float) -> float:
    """Root mean square of clipped errors around a found sprite if it were `sprite` with another radius.

    Errors are smoothed first: what an autoencoder loses of a small texture says nothing about the outline.
    """
    near = around(frame, index, max(SIZES.values()))
    if not near.any():
        return 0.0
    window = _window(near)
    error = (frame.pixels - frame.drawn([(sprite, aligned(frame, index, sprite.shape, radius))]))[window]
    padded = np.pad(error, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    smooth = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4
    length = np.sqrt(np.einsum("...c,...c->...", smooth, smooth))
    return rms(np.minimum(length[near[window]], _CLIPPED))


def _window(flags: Flags) -> tuple[slice, slice]:
    """The rows and columns with flags that are set, and one more on every side where the picture has one."""
    rows, columns = np.flatnonzero(flags.any(1)), np.flatnonzero(flags.any(0))
    return slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)


def aligned(frame: Frame, index: int, shape: str, radius: float) -> Appearance:
    """Where another shape has the centroid of a found sprite, which lies elsewhere in each shape."""
    found = frame.found[index].seen
    seen = found._replace(radius=radius)
    centroid = _centroid(frame.scene.sprites[index].shape, found, frame.size)
    own = _centroid(shape, seen, frame.size)
    return seen._replace(x=seen.x + (centroid[0] - own[0]) / frame.size, y=seen.y + (centroid[1] - own[1]) / frame.size)


def around(frame: Frame, index: int, radius: float) -> Flags:
    """The disc around a found sprite in which one of a radius would lie, without the other sprites."""
    found = frame.found[index].seen
    return frame.flags(_disc, index, found.x, found.y, 1.35 * max(radius, found.radius) + 0.06)


def _disc(frame: Frame, index: int, x: float, y: float, reach: float) -> Flags:
    size = frame.size
    rows, columns = np.ogrid[0:size, 0:size]
    window = np.hypot(columns + 0.5 - x * size, rows + 0.5 - y * size) < reach * size
    return window & ~frame.flags(_others, index)


@lru_cache(maxsize=256)
def _centroid(shape: str, seen: Appearance, size: int) -> tuple[float, float]:
    weights = coverage(shape, seen, size)
    total = max(float(weights.sum()), 1e-6)
    line = np.arange(len(weights), dtype=np.float32)
    return float(weights.sum(0) @ line) / total, float(weights.sum(1) @ line) / total


def surface_error(frame: Frame, index: int, sprite: Sprite) -> float:
    """Root mean square error (0..255) inside a found sprite if it were `sprite`."""
    return _error_inside(frame, index, sprite, frame.found[index].seen)


def _error_inside(frame: Frame, index: int, sprite: Sprite, seen: Appearance) -> float:
    inside = frame.flags(interior, index, seen)
    return rms(frame.pixels[inside] - frame.drawn([(sprite, seen)])[inside])


def refined(frame: Frame, index: int) -> Found:
    """A found sprite moved by up to a pixel to where its own surface fits best, which its outline cannot tell."""
    found, sprite = frame.found[index], frame.scene.sprites[index]
    if not found.is_there or _error_inside(frame, index, sprite, found.seen) < _FITS:
        return found
    places = [
        replace(found, seen=found.seen._replace(x=found.seen.x + dx / 64, y=found.seen.y + dy / 64))
        for dx, dy in _NUDGES
    ]
    return min(places, key=lambda place: _error_inside(frame, index, sprite, place.seen))


def turned_error(frame: Frame, index: int, turn: float) -> float:
    """Root mean square error (0..255) around a found sprite if it were turned by `turn` more."""
    sprite, seen = frame.scene.sprites[index], frame.found[index].seen
    painted = frame.drawn([(sprite, seen._replace(angle=seen.angle + turn))])
    disc = coverage("circle", seen._replace(radius=1.15 * seen.radius), frame.size) > 0.5
    return rms(frame.pixels[disc] - painted[disc])


def interior(frame: Frame, index: int, seen: Appearance) -> Flags:
    """Pixels well inside a sprite that is seen there."""
    covered = frame.covered(frame.scene.sprites[index].shape, seen)
    inside = covered > 0.9
    return inside if inside.sum() >= 12 else covered > 0.5


def likeness(frame: Frame, index: int) -> float:
    """Correlation (-1..1) over pixels and channels of a found sprite's surface with the surface that it should have."""
    sprite, seen = frame.scene.sprites[index], frame.found[index].seen
    inside = interior(frame, index, seen)
    painted = frame.drawn([(sprite, seen)])[inside]
    shown = frame.pixels[inside]
    painted, shown = painted - painted.mean(0), shown - shown.mean(0)
    norm = float(np.linalg.norm(painted) * np.linalg.norm(shown))
    return float((painted * shown).sum()) / norm if norm > 1e-3 else 0.0


def ground_error(frame: Frame, backdrop: Floats) -> float:
    """Root mean square of clipped errors (0..60 a pixel) to a background where no sprite was found."""
    free = ~taken(frame, 2)
    return rms(np.minimum(distance(frame.pixels, backdrop)[free], _CLIPPED))


def taken(frame: Frame, margin: int) -> Flags:
    """Pixels at found sprites and `margin` pixels around them."""
    return frame.flags(_taken, margin, *(seen for _, seen in frame.found_sprites()))


def _taken(frame: Frame, margin: int, *places: Appearance) -> Flags:
    flags = np.zeros((frame.size, frame.size), bool)
    for sprite, seen in zip(frame.scene.sprites, places, strict=True):
        flags |= frame.covered(sprite.shape, seen) > 0.02
    return grown(flags, margin)


def has_more(frame: Frame, least: float = 40.0) -> bool:
    """Whether something of a small sprite's size stands out, by `least` (0..441), where no sprite was found."""
    reach = max(1, round(frame.size * 2 / 64))
    rest = ((frame.difference > least) & ~taken(frame, reach)).astype(np.float32)
    return bool(box_mean(rest, reach).max() > 0.85)


def rms(values: Floats) -> float:
    """Root mean square; 0 for none."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def settle(scene: Scene, pixels: Floats) -> Scene:
    """A scene with its sprites moved, and sized, to where they fit a picture float32 [S, S, 3] best.

    For prompts that leave places and sizes open. Sprites are looked for by shape, colour and texture together, and
    apart from each other.
    """
    bare = Frame(pixels, replace(scene, sprites=()), 0.0)
    filled = box_mean((bare.difference > 30).astype(np.float32), max(1, len(pixels) // 8))
    line = np.arange(0.1, 0.91, 3 / 64).tolist()
    spots = [(x, y) for y in line for x in line if filled[int(y * len(pixels)), int(x * len(pixels))] > 0.1]
    options = [_best_of_cells(bare, sprite, spots) for sprite in scene.sprites]
    chosen = min(
        product(*options),
        key=lambda sprites: sum(misfit for misfit, _ in sprites) if _are_apart([one for _, one in sprites]) else np.inf,
    )
    rough = replace(scene, sprites=tuple(sprite for _, sprite in chosen))
    frame = Frame(pixels, rough, 0.0)
    seen = [locate(frame, index).seen for index in range(len(chosen))]
    return replace(
        rough, sprites=tuple(replace(one, place=(at.x, at.y)) for one, at in zip(rough.sprites, seen, strict=True))
    )


def _best_of_cells(bare: Frame, sprite: Sprite, spots: Sequence[tuple[float, float]]) -> list[tuple[float, Sprite]]:
    """For each tenth of the picture the place and size that explain its pixels best, with their misfit."""
    best: dict[tuple[int, int, str], tuple[float, Sprite]] = {}
    for size in ("small", "large"):
        for spot in spots:
            candidate = replace(sprite, size=size, place=spot)
            cell = (int(10 * spot[0]), int(10 * spot[1]), size)
            misfit = _misfit(bare, candidate)
            if cell not in best or misfit < best[cell][0]:
                best[cell] = (misfit, candidate)
    return list(best.values()) or [(0.0, sprite)]


def _misfit(bare: Frame, sprite: Sprite) -> float:
    """Clipped error of a picture with a sprite at its place, less that of one without; negative where it belongs."""
    seen = appearance(sprite, View(), 0.0)
    error = np.minimum(distance(bare.pixels, bare.drawn([(sprite, seen)])), _CLIPPED)
    return float((error**2).sum()) - float((np.minimum(bare.difference, _CLIPPED) ** 2).sum())


def _are_apart(sprites: Sequence[Sprite]) -> bool:
    return all(
        math.dist(one.place, other.place) > 0.8 * (one.radius + other.radius) for one, other in combinations(sprites, 2)
    )


def backgrounds(frames: Sequence[Frame]) -> str:
    """The background that fits frames best."""
    return min(
        BACKGROUNDS, key=lambda name: sum(ground_error(frame, frame.ground(name, frame.view)) for frame in frames)
    )
