"""Questions about toy scenes with answers that the scene decides, and the captions that the miniature learns to write.

`random` decides everything that is left open, so that a seed gives the same lesson.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import NamedTuple

from vino_core.toyworld.captions import (
    GROUNDS,
    STYLES,
    article,
    described,
    filmed,
    ground,
    long_caption,
    moving,
    sentence,
    short_caption,
)
from vino_core.toyworld.sampling import Draw, label
from vino_core.toyworld.world import COLOURS, PLACES, SHAPES, Scene, Sprite

_NUMBERS = ("no", "one", "two", "three", "four", "five")
_TRUE_COLOURS = ("none", "mosaic")
"""Styles that leave a sprite's colour as its name says."""


class Question(NamedTuple):
    kind: str
    text: str
    answer: str


def in_order(scene: Scene) -> Scene:
    """The scene with its sprites in reading order, the order in which a caption names what it sees."""
    rows = sorted(scene.sprites, key=lambda sprite: (round(sprite.place[1], 1), sprite.place[0]))
    return replace(scene, sprites=tuple(rows))


class Last(Draw):
    """Takes the last of several wordings, which is a full sentence."""

    def __init__(self) -> None:
        super().__init__("train", 0)

    def pick(self, options):  # type: ignore[no-untyped-def]
        return options[-1]


def caption(scene: Scene) -> str:
    """The caption of a scene, which may be empty, in one wording: its sprites in reading order, a full sentence."""
    if not scene.sprites:
        return sentence(f"nothing {ground(scene)}")
    return short_caption(in_order(scene), Last())


def detailed(scene: Scene, is_clip: bool) -> str:
    """The long caption of a scene in one wording, its sprites in reading order."""
    return long_caption(in_order(scene), Last(), is_clip)


def ask(random: Random, scene: Scene, is_clip: bool, where: str = "") -> Question | None:
    """A question about a scene, or None when the kind drawn does not fit. `where` is " in Image 2" or empty."""
    if not scene.sprites:
        return None
    kinds = (*_CLIP, "place", "colour", "background") if is_clip else tuple(_PICTURE)
    return question_of(random, random.choice(kinds), scene, where)


def question_of(random: Random, kind: str, scene: Scene, where: str = "") -> Question | None:
    """A question of one kind (see PICTURE_KINDS and CLIP_KINDS), or None when the scene does not allow it."""
    made = {**_PICTURE, **_CLIP}[kind](random, scene, where)
    return None if made is None else Question(kind, *made)


Made = tuple[str, str] | None


def _alone(random: Random, scene: Scene, key: Callable[[Sprite], object]) -> Sprite | None:
    """A sprite that no other shares `key` with."""
    keys = [key(sprite) for sprite in scene.sprites]
    options = [sprite for sprite in scene.sprites if keys.count(key(sprite)) == 1]
    return random.choice(options) if options else None


def _name(random: Random, scene: Scene, sprite: Sprite) -> str:
    """ "the star" where one stands alone, "the red star" otherwise or by chance."""
    alone = [one.shape for one in scene.sprites].count(sprite.shape) == 1
    return f"the {sprite.shape if alone and random.random() < 0.5 else label(sprite)}"


def _colour(random: Random, scene: Scene, where: str) -> Made:
    sprite = _alone(random, scene, lambda one: one.shape)
    if sprite is None or scene.style.kind not in _TRUE_COLOURS:
        return None
    return f"What colour is the {sprite.shape}{where}?", sprite.colour or "patterned"


def _shape(random: Random, scene: Scene, where: str) -> Made:
    sprite = _alone(random, scene, lambda one: one.colour)
    if sprite is None or scene.style.kind not in _TRUE_COLOURS:
        return None
    return f"What shape is {sprite.colour or 'patterned'}{where}?", sprite.shape


def _place(random: Random, scene: Scene, where: str) -> Made:
    sprite = random.choice(scene.sprites)
    return f"Where is {_name(random, scene, sprite)}{where}?", sprite.place_name


def _what_stands(random: Random, scene: Scene, where: str) -> Made:
    place = random.choice(scene.sprites).place_name if random.random() < 0.8 else random.choice(tuple(PLACES))
    found = [sprite for sprite in scene.sprites if sprite.place_name == place]
    preposition = "in" if place == "centre" else "at"
    answer = article(described(found[0])) if found else "nothing"
    return f"What stands {preposition} the {place}{where}?", answer


def _count(random: Random, scene: Scene, where: str) -> Made:
    return f"How many shapes are there{where}?", _NUMBERS[len(scene.sprites)]


def _background(random: Random, scene: Scene, where: str) -> Made:
    return f"What is the background{where}?", GROUNDS[scene.background]


def _texture(random: Random, scene: Scene, where: str) -> Made:
    sprite = random.choice(scene.sprites)
    return f"What texture has {_name(random, scene, sprite)}{where}?", (
        "patterned" if sprite.texture.is_pattern else sprite.texture.kind
    )


def _size(random: Random, scene: Scene, where: str) -> Made:
    sprite = random.choice(scene.sprites)
    return f"How large is {_name(random, scene, sprite)}{where}?", sprite.size


def _style(random: Random, scene: Scene, where: str) -> Made:
    if scene.style.kind == "duotone":
        return None
    return f"What style has the picture{where}?", STYLES.get(scene.style.kind, "plain")


def _exists(random: Random, scene: Scene, where: str) -> Made:
    if scene.style.kind not in _TRUE_COLOURS:
        return None
    sprite = random.choice(scene.sprites)
    colour, shape = sprite.colour or "patterned", sprite.shape
    if random.random() < 0.5:
        # One word off is the hardest thing to deny.
        if random.random() < 0.5:
            colour = random.choice(tuple(COLOURS))
        else:
            shape = random.choice(SHAPES)
    there = any(label(one) == f"{colour} {shape}" for one in scene.sprites)
    return f"Is there {article(f'{colour} {shape}')}{where}?", "yes" if there else "no"


def _motion(random: Random, scene: Scene, where: str) -> Made:
    sprite = random.choice(scene.sprites)
    return f"How does {_name(random, scene, sprite)}{where} move?", moving(sprite.motion)


def _camera(random: Random, scene: Scene, where: str) -> Made:
    return f"What does the camera do{where}?", filmed(scene.camera).removeprefix("the camera ")


_PICTURE = {
    "colour": _colour,
    "shape": _shape,
    "place": _place,
    "what stands": _what_stands,
    "count": _count,
    "background": _background,
    "texture": _texture,
    "size": _size,
    "style": _style,
    "exists": _exists,
}
_CLIP = {"motion": _motion, "camera": _camera}
PICTURE_KINDS, CLIP_KINDS = tuple(_PICTURE), tuple(_CLIP)
