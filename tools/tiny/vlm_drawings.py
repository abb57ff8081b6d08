"""Annotated pictures and canvases of the toy world, with the plan and the prompt that they stand for.

A mark is drawn in black with a white rim, so that it shows before every background: an arrow where something goes to,
an arrow with two heads where it jumps, a ring around what goes round in a circle.
"""

from __future__ import annotations

from dataclasses import replace
from math import hypot
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vino_core.toyworld.captions import article, at, described, ground, moves, sentence, the
from vino_core.toyworld.draw import draw
from vino_core.toyworld.plans import first_frame
from vino_core.toyworld.sampling import Unfit, check, label
from vino_core.toyworld.world import STILL, Camera, Scene, Sprite, Style

from .vlm_questions import Last, in_order

SIZE = 64
ARROWS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SAYS = {
    "left": "an arrow points to the left",
    "right": "an arrow points to the right",
    "up": "an arrow points up",
    "down": "an arrow points down",
    "jump": "an arrow points up and down",
    "circle": "a ring is drawn around it",
    STILL: "there is no mark",
}
"""What a mark of each motion looks like, in words: motions without one are not drawn."""
WORDS = f"{' '.join(SAYS.values())} at marks canvas says begins"
"""Words of plans that the toy world does not have."""
_FINE = 4
"""Marks are drawn so many times larger, and then reduced."""
_LENGTH, _TALL = 0.2, 0.32
"""Of an arrow, and of one with two heads."""


class Drawing(NamedTuple):
    """`pixels` uint8 [SIZE, SIZE, 3]; `words` is what the user says about them, perhaps nothing."""

    pixels: NDArray[np.uint8]
    words: str
    plan: str
    prompt: str


def drawing_of(random: Random, kind: str, scene: Scene) -> Drawing | None:
    """A drawing of one kind that asks for the clip of `scene`, or None when no mark can say what happens there."""
    scene = in_order(scene)
    if not scene.sprites or scene.camera != Camera() or any(one.motion.kind not in SAYS for one in scene.sprites):
        return None
    return _KINDS[kind](random, scene)


def marked(pixels: NDArray[np.uint8], sprites: tuple[Sprite, ...]) -> NDArray[np.uint8] | None:
    """The picture [SIZE, SIZE, 3] with the marks of its sprites' motions, or None where one does not fit in."""
    drawn = Image.new("L", (SIZE * _FINE, SIZE * _FINE)), Image.new("L", (SIZE * _FINE, SIZE * _FINE))
    for sprite in sprites:
        for layer, width in zip(drawn, (0.07, 0.03), strict=True):
            if not _mark(ImageDraw.Draw(layer), sprite, width):
                return None
    rim, ink = (np.asarray(layer.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255 for layer in drawn)
    values = pixels.astype(np.float32)
    values += rim[..., None] * (255 - values)
    values -= ink[..., None] * values
    return (values + 0.5).astype(np.uint8)


def _mark(layer: ImageDraw.ImageDraw, sprite: Sprite, width: float) -> bool:
    """Draw a sprite's mark with lines of `width`; False where it does not fit. Lengths are parts of the side."""
    side, (x, y) = SIZE * _FINE, sprite.place
    kind, reach = sprite.motion.kind, sprite.radius + 0.03
    if kind == "circle":
        layer.ellipse([(v - d) * side for d in (reach, -reach) for v in (x, y)], outline=255, width=int(width * side))
        return True
    if kind == "jump":
        heads = [(x + reach + 0.03, y + sign * _TALL / 2) for sign in (-1, 1)]
        return _arrow(layer, heads[0], heads[1], width) and _arrow(layer, heads[1], heads[0], width)
    if kind in ARROWS:
        dx, dy = ARROWS[kind]
        start = x + dx * reach, y + dy * reach
        return _arrow(layer, start, (start[0] + dx * _LENGTH, start[1] + dy * _LENGTH), width)
    return True


def _arrow(layer: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], width: float) -> bool:
    """An arrow from `start` to `end`; False where that lies outside the picture."""
    if not all(0.03 <= value <= 0.97 for value in end):
        return False
    side, length = SIZE * _FINE, hypot(end[0] - start[0], end[1] - start[1])
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    points = [start, end]
    for sign in (-1, 1):
        points += [(end[0] - 0.09 * dx + sign * 0.07 * dy, end[1] - 0.09 * dy - sign * 0.07 * dx), end]
    line = [(px * side, py * side) for px, py in points]
    layer.line(line, fill=255, width=int(width * side), joint="curve")
    return True


def _annotated(random: Random, scene: Scene) -> Drawing | None:
    pixels = marked(draw(first_frame(scene), SIZE)[0], scene.sprites)
    if pixels is None:
        return None
    plan = [f"At {the(one)} {SAYS[one.motion.kind]}" for one in scene.sprites]
    prompt = [sentence(f"{the(one)} {moves(one.motion, Last())}") for one in scene.sprites]
    words = random.choice(("", "", "Do what the marks say.", "Image 1 is the first frame of the video."))
    return Drawing(pixels, words, _told(plan), " ".join(["Use Image 1 as the first frame.", *prompt]))


def _canvas(random: Random, scene: Scene) -> Drawing | None:
    """The scene's sprites before white; its own background, if it has another one, is asked for in words."""
    try:
        white = check(replace(scene, background="white", style=Style()))
    except Unfit:
        return None
    pixels = marked(draw(first_frame(white), SIZE)[0], scene.sprites)
    if pixels is None:
        return None
    plan = [f"{article(described(one))} stands {at(one)}, {SAYS[one.motion.kind]}" for one in scene.sprites]
    prompt = [sentence(f"make a video {ground(scene)}")]
    for one in scene.sprites:
        told = f"the {label(one)} from Image 1 is {one.size} and stands {at(one)}"
        prompt += [sentence(told), sentence(f"it {moves(one.motion, Last())}")]
    words = sentence(f"make it {ground(scene)}") if scene.background != "white" or random.random() < 0.3 else ""
    return Drawing(pixels, words, _told(plan), " ".join(prompt))


def _told(parts: list[str]) -> str:
    return " ".join(map(sentence, parts))


_KINDS = {"annotated": _annotated, "canvas": _canvas}
