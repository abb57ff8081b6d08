"""Exact scores of a result, from its pixels and the words that asked for it.

A scorer knows the scene that was asked for and the pixels of the references, never the pixels of the true result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import beginnings, flaws, reading
from .backgrounds import BACKGROUNDS
from .plans import Plan, ToyExample
from .reading import Frame
from .sampling import COLOURFUL
from .world import (
    COLOURS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Sprite,
    Style,
    Texture,
    View,
    times,
)

Floats = NDArray[np.float32]

PLACE_LIMIT = 0.07
"""Fraction of the side by which a sprite may miss its place; named places are 0.29 apart."""
MOTION_LIMIT = 0.05
"""Mean over the frames of a moving sprite."""
SURFACE_LIMIT = 45.0
GROUND_LIMIT = 30.0
LIKENESS_LIMIT = 0.68
"""Between the truth, of which an autoencoder leaves 0.7 or more, and other patterns of the same colours."""
# Limits of frames between the key frames were chosen on 224 true clips that had passed through the VAE of vino-tiny.
BETWEEN_SURFACE_LIMIT = 60.0
"""Mean over the frames between the key frames; another colour gives 64 or more, mostly above 97."""
FLEETING_LIMIT = 100.0
"""Of one such frame; up to 84 of a truth where something small flies fast."""
BETWEEN_LIKENESS_LIMIT = 0.3
"""Mean over the frames between the key frames: 0.4 or more of a truth that passes else, up to 0.2 of plain surfaces."""
OTHER_COLOUR = 15.0
"""By how much error (0..255) one such frame's surface may be nearer to another colour: none of a truth, 37 or more if
the nearest other colour is there."""
OTHER_REFERENCE = 20.0
"""The same of another reference's pattern: none of a truth, 71 or more if it is there."""
BETWEEN_EXTRA = 60.0
"""How far a thing stands out (0..441) that counts as one sprite more; a VAE leaves fainter ones behind what moves."""
FAINT = 12.0
"""A surface that varies by less (root mean square, 0..255) in the picture's style cannot be told from another."""
_DISTRACTORS = 6
_LIKELY = 6
_OUTLINE = 45.0
"""How much error (0..255) a part of the outline weighs that is missed or too much."""
_INDISTINCT = 2.0
"""A difference of errors (0..255) that noise may make."""
_SIMILAR, _SIMILAR_PLAIN = 10.0, 4.0
"""By how much error (0..255) a frame another shape may fit a textured or a plain sprite better: up to 7.4 and 0.2 where
a VAE blurred the truth, mostly 10 to 45 and at least 5.7 if another shape is there.
"""
_BLURRED = 4.0
"""The same of another style in a later frame; 2.7 was the most that a mosaic fitted one better."""
_ALIKE = 6.0
"""The same in styles that keep only the luminance, in which some colours are nearly the same."""


@dataclass(frozen=True)
class Score:
    """The scores of one result. What does not apply to its task is None.

    `checks` holds every attribute that was asked for, `followed` is all of them together. An edit is "changed" when it
    is nearer to what was asked for than to its input. It is "clean" without remains, specks, shades, holes and gaps. A
    clip's attributes are read from its first, middle and last frame; "between": the other frames show the same,
    compared where their sprites were found. `identity`: every subject
    shows its own reference's surface and no other; `confused`: one shows another reference's. `likeness`: correlation
    with the right surface. `untouched`: PSNR in dB against the source where the edit changes nothing; `first_frame`:
    against the picture that the clip starts from; `kept`: whether both are enough. `place_error`: mean distance to the
    expected places over all frames, as a fraction of the side.
    """

    checks: dict[str, bool]
    identity: bool | None = None
    confused: bool | None = None
    likeness: float | None = None
    untouched: float | None = None
    kept: bool | None = None
    motion: bool | None = None
    place_error: float | None = None
    first_frame: float | None = None

    @property
    def followed(self) -> bool:
        return all(self.checks.values())

    @property
    def passed(self) -> bool:
        """Followed, with the right subjects, and with everything else left alone."""
        return self.followed and self.identity is not False and self.kept is not False


def score(result: Tensor, toy: ToyExample) -> Score:
    """Score a result uint8 [T, S, S, 3]. Raises ValueError when its shape is not that of the example's target."""
    plan, example = toy.truth, toy.example
    if result.shape != example.target.shape:
        raise ValueError(f"{example.id}: the result is {list(result.shape)}, not {list(example.target.shape)}")
    pixels = result.numpy().astype(np.float32)
    scene = reading.settle(plan.target, pixels[0]) if plan.is_open else plan.target
    frames = [reading.read(frame, scene, time) for frame, time in zip(pixels, times(len(pixels)), strict=True)]
    keys = frames if len(frames) == 1 else [frames[0], frames[len(frames) // 2], frames[-1]]
    for frame in keys:
        reading.refine(frame)

    checks = {"clean": flaws.is_clean(frames), **_scene_checks(keys)}
    readers = [_Reader(keys, index) for index in range(len(scene.sprites))]
    for reader in readers:
        for name, holds in _sprite_checks(reader).items():
            checks[name] = checks.get(name, True) and holds
    errors = [frame.found[index].error for frame in frames for index in range(len(scene.sprites))]
    motion = None
    if plan.is_clip and scene.sprites:
        motion = all(_follows(frames, reader) for reader in readers)
        checks["motion"] = motion
    between = [frame for frame in frames if frame not in keys]
    if plan.is_clip:
        checks["between"] = _shows_scene(between) and all(_keeps_shape(between, reader) for reader in readers)
    changed = beginnings.is_changed(pixels, toy)
    if changed is not None:
        checks["changed"] = changed
    identity = confused = like = None
    subjects = [reader for reader in readers if reader.sprite.texture.is_pattern and reader.contrast >= FAINT]
    if subjects:
        verdicts = [_surface_verdict(reader, plan) for reader in subjects]
        likes = [float(np.mean([reading.likeness(frame, one.index) for frame in keys])) for one in subjects]
        like = min(likes)
        identity = all(verdict == "own" for verdict in verdicts) and like >= LIKENESS_LIMIT
        identity = identity and all(_keeps_surface(between, one, plan) for one in subjects)
        confused = "other reference" in verdicts
    untouched, first_frame = beginnings.untouched(pixels, toy), beginnings.first_frame(pixels, toy)
    kept = None if untouched is None else untouched >= beginnings.least_kept(plan)
    if first_frame is not None:
        kept = kept is not False and first_frame >= beginnings.CLIPS_KEPT
    return Score(
        checks=checks,
        identity=identity,
        confused=confused,
        likeness=like,
        untouched=untouched,
        kept=kept,
        motion=motion,
        place_error=float(np.mean(errors)) if errors else None,
        first_frame=first_frame,
    )


def _scene_checks(keys: Sequence[Frame]) -> dict[str, bool]:
    scene = keys[0].scene
    error = float(np.mean([reading.ground_error(frame, frame.backdrop) for frame in keys]))
    checks = {
        "background": reading.backgrounds(keys) == scene.background and error < GROUND_LIMIT,
        "style": all(map(_has_style, keys)),
        "count": not any(reading.has_more(frame) for frame in keys),
    }
    if len(keys) > 1 and BACKGROUNDS[scene.background].share:
        checks["camera"] = all(_shown_view(frame) == frame.view for frame in keys[1:])
    return checks


def _shows_scene(frames: Sequence[Frame]) -> bool:
    """Whether frames show the background, the surfaces that words describe and nothing else, where their sprites were
    found. No candidate is searched for.
    """
    if any(
        reading.ground_error(frame, frame.backdrop) >= GROUND_LIMIT or reading.has_more(frame, BETWEEN_EXTRA)
        for frame in frames
    ):
        return False
    described = [index for index, sprite in enumerate(frames[0].scene.sprites) if sprite.colour]
    errors = [[_surface_error_nearby(frame, index) for frame in frames] for index in described]
    if not all(max(one) < FLEETING_LIMIT and np.mean(one) < BETWEEN_SURFACE_LIMIT for one in errors):
        return False
    return not any(_has_other_colour(frame, index) for frame in frames for index in described)


def _has_other_colour(frame: Frame, index: int) -> bool:
    """Whether a found sprite looks more like one of another colour, in styles that keep colours."""
    if frame.scene.style.kind not in COLOURFUL:
        return False
    sprite = frame.scene.sprites[index]
    others = [replace(sprite, colour=colour) for colour in COLOURS if colour != sprite.colour]
    return _looks_rather_like(others, frame, index, OTHER_COLOUR)


def _looks_rather_like(others: Sequence[Sprite], frame: Frame, index: int, limit: float) -> bool:
    """Whether a found sprite's surface is nearer to that of one of the `others`, by an error of `limit` or more."""
    nearest = min((reading.surface_error(frame, index, other) for other in others), default=math.inf)
    return reading.surface_error(frame, index, frame.scene.sprites[index]) >= nearest + limit


def _surface_error_nearby(frame: Frame, index: int) -> float:
    """A found sprite's surface error, if need be a pixel away from where its outline was found."""
    sprite = frame.scene.sprites[index]
    error = reading.surface_error(frame, index, sprite)
    if error < BETWEEN_SURFACE_LIMIT:
        return error
    frame.found[index] = reading.refined(frame, index)
    return reading.surface_error(frame, index, sprite)


def _has_style(frame: Frame) -> bool:
    """Whether no other style fits better, beyond what noise and blur can do where two look the same (a grey background)
    or small things are gone.
    """
    own = frame.scene.style
    # Other duotones stand for what words cannot list.
    others = {Style(), *map(Style, STYLES), *(Style("duotone", own.seed + number) for number in (1, 2, 3))} - {own}
    found = frame.found_sprites()

    def misfit(style: Style) -> float:
        return reading.rms(np.minimum(reading.distance(frame.pixels, frame.drawn(found, style)), 90.0))

    return misfit(own) <= 1.02 * min(map(misfit, others)) + (_BLURRED if frame.time else 0.5)


def _shown_view(frame: Frame) -> View:
    """The view that fits the background best: the expected one, one a little beside it, or the first frame's."""
    dx, dy, zoom = frame.view
    shifts = (0.0, -0.05 / zoom, 0.05 / zoom)
    candidates = [View(dx + x, dy + y, zoom * z) for z in (1.0, 0.88, 1.14) for y in shifts for x in shifts]
    if max(abs(dx), abs(dy), abs(zoom - 1)) > 0.05:
        candidates.append(View())
    return min(candidates, key=lambda view: reading.ground_error(frame, frame.ground(frame.scene.background, view)))


@dataclass(eq=False)
class _Reader:
    """What key frames show at one sprite of the scene."""

    keys: Sequence[Frame]
    index: int

    @cached_property
    def sprite(self) -> Sprite:
        return self.keys[0].scene.sprites[self.index]

    @cached_property
    def is_there(self) -> bool:
        return all(frame.found[self.index].is_there for frame in self.keys)

    @property
    def contrast(self) -> float:
        """How much the surface should vary: root mean square distance (0..255) to its mean colour."""
        frame = self.keys[0]
        seen = frame.found[self.index].seen
        painted = frame.drawn([(self.sprite, seen)])[reading.interior(frame, self.index, seen)]
        return reading.rms(painted - painted.mean(0))

    def surface_error(self, sprite: Sprite) -> float:
        return float(np.mean([reading.surface_error(frame, self.index, sprite) for frame in self.keys]))

    @cached_property
    def shown(self) -> tuple[Sprite, float]:
        """The sprite with the colour and texture that fit best, and their error. A pattern stays what it should be."""
        own = self.surface_error(self.sprite)
        if self.sprite.colour is None:
            return self.sprite, own
        others = [replace(self.sprite, colour=colour, texture=Texture(kind)) for colour in COLOURS for kind in TEXTURES]
        errors = [self.surface_error(one) for one in others]
        best = int(np.argmin(errors))
        slack = _INDISTINCT if self.keys[0].scene.style.kind in COLOURFUL else _ALIKE
        return (self.sprite, own) if own <= errors[best] + slack else (others[best], errors[best])

    def outline_error(self, keys: Sequence[Frame], shape: str, ratio: float) -> float:
        """How badly a shape fits, `ratio` times as large as expected: with its surface if that is known, else bare."""
        surface, error = self.shown
        total = 0.0
        for frame in keys:
            radius = frame.expected(self.index).radius * ratio
            if error < SURFACE_LIMIT:
                total += reading.outline_error(frame, self.index, replace(surface, shape=shape), radius)
                if surface.texture.kind != "plain":
                    # A texture that lies a pixel off may fit another shape by chance; the bare outline does not.
                    total -= _OUTLINE * reading.overlap(frame, self.index, shape, radius)
            else:
                total -= reading.overlap(frame, self.index, shape, radius)
        return total

    def turned_error(self, turn: float) -> float:
        """How badly the sprite fits if it were turned further in the later key frames."""
        return float(np.mean([reading.turned_error(frame, self.index, turn) for frame in self.keys[1:]]))


def _sprite_checks(reader: _Reader) -> dict[str, bool]:
    sprite = reader.sprite
    if not reader.is_there:
        return {name: False for name in ("found", "shape", "size", "colour", "texture", "place")}
    shape, size = _outline(reader)
    checks = {
        "found": True,
        "shape": shape == sprite.shape,
        "size": size == sprite.size,
        "place": reader.keys[0].found[reader.index].error < PLACE_LIMIT,
    }
    if sprite.colour:
        shown, error = reader.shown
        checks["colour"] = shown.colour == sprite.colour and error < SURFACE_LIMIT
        checks["texture"] = shown.texture == sprite.texture
    return checks


def _outline(reader: _Reader) -> tuple[str, str]:
    """The shape and size that fit best."""

    def misfit(option: tuple[str, str], keys: Sequence[Frame]) -> float:
        return reader.outline_error(keys, option[0], SIZES[option[1]] / reader.sprite.radius)

    errors = {option: misfit(option, reader.keys[:1]) for option in product(SHAPES, SIZES)}
    # What is far off in the first frame is not tried in the others.
    likely = sorted(errors, key=errors.__getitem__)[:_LIKELY]
    return min(likely, key=lambda option: errors[option] + misfit(option, reader.keys[1:]))


def _keeps_shape(frames: Sequence[Frame], reader: _Reader) -> bool:
    """Whether a sprite's own shape fits frames, or nearly, as well as the other that covers most of what is seen."""

    def cover(shape: str) -> float:
        ends = frames[:: len(frames) - 1]
        return sum(reading.overlap(frame, reader.index, shape, frame.found[reader.index].seen.radius) for frame in ends)

    own = reader.sprite.shape
    rival = max((shape for shape in SHAPES if shape != own), key=cover)
    gap = reader.outline_error(frames, own, 1.0) - reader.outline_error(frames, rival, 1.0)
    slack = _SIMILAR_PLAIN if reader.sprite.texture.kind == "plain" else _SIMILAR
    return gap <= slack * len(frames)


def _keeps_surface(frames: Sequence[Frame], reader: _Reader, plan: Plan) -> bool:
    """Whether a subject looks like its reference on the average of frames, and like another one in none of them."""
    index, sprite = reader.index, reader.sprite
    if frames and float(np.mean([reading.likeness(frame, index) for frame in frames])) < BETWEEN_LIKENESS_LIMIT:
        return False
    others = [replace(sprite, texture=texture) for texture in _other_references(plan, sprite)]
    return not any(_looks_rather_like(others, frame, index, OTHER_REFERENCE) for frame in frames)


def _other_references(plan: Plan, sprite: Sprite) -> set[Texture]:
    """The patterns that the references show beside the sprite's own."""
    inputs = (*plan.images, *plan.videos)
    return {one.texture for scene in inputs for one in scene.sprites if one.texture.is_pattern} - {sprite.texture}


def _surface_verdict(reader: _Reader, plan: Plan) -> str:
    """Whose pattern a subject shows: its "own", an "other reference"'s, or "another" (or none in particular)."""
    if not reader.is_there:
        return "another"
    own = reader.sprite.texture
    strangers = [Texture("pattern", own.colours, own.waves + number) for number in range(1, _DISTRACTORS + 1)]
    strangers += [Texture("pattern", own.colours + number, own.waves) for number in range(1, _DISTRACTORS + 1)]

    def misfit(texture: Texture) -> float:
        return reader.surface_error(replace(reader.sprite, texture=texture))

    others = min(map(misfit, _other_references(plan, reader.sprite)), default=math.inf)
    unknown = min(_flat_error(reader), *map(misfit, strangers))
    best = misfit(own)
    if best < min(others, unknown):
        return "own"
    return "other reference" if others < unknown else "another"


def _flat_error(reader: _Reader) -> float:
    """Error of the surface if it were of one colour, the best one: what a blurred copy would also reach."""
    shown = [
        frame.pixels[reading.interior(frame, reader.index, frame.found[reader.index].seen)] for frame in reader.keys
    ]
    return float(np.mean([reading.rms(pixels - pixels.mean(0)) for pixels in shown]))


def _follows(frames: Sequence[Frame], reader: _Reader) -> bool:
    """Whether a sprite was, in every frame, about where it should be, of the right size and turned the right way."""
    motion = reader.sprite.motion
    found = [frame.found[reader.index] for frame in frames]
    if not all(one.is_there for one in found) or np.mean([one.error for one in found]) > MOTION_LIMIT:
        return False
    if max(one.error for one in found) > 2 * MOTION_LIMIT:
        return False
    if motion.kind in ("grow", "shrink"):
        end = motion.pose(1.0).scale
        ratios = (1.0, 1 / end, end, end**-0.5, end**0.5)
        last = reader.keys[-1:]
        return min(ratios, key=lambda ratio: reader.outline_error(last, reader.sprite.shape, ratio)) == 1.0
    if motion.kind == "spin":
        turns = (0.0, 0.25 * math.pi, -0.25 * math.pi, 0.5 * math.pi, -0.5 * math.pi, math.pi)
        return min(turns, key=reader.turned_error) == 0.0
    return True
