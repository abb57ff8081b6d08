"""Edits of a scene, with the instruction that asks for them.

`where` names what is edited ("Image 1", "the video"). Every function draws one edit and raises Unfit when the draw
cannot be done to this scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from .backgrounds import BACKGROUNDS
from .captions import GROUNDS, STYLES, article, at, described, moving, the
from .sampling import Draw, Unfit, check, moved, sprite
from .world import COLOURS, PLACES, STILL, Scene, Sprite

_DIRECTIONS = "left", "right", "top", "bottom"


class Edit(NamedTuple):
    """An edited scene and the instruction that leads to it."""

    target: Scene
    prompt: str


def recolour(draw: Draw, scene: Scene, where: str) -> Edit:
    old = _chosen(draw, scene, needs_colour=True)
    new = replace(old, colour=draw.pick([colour for colour in COLOURS if colour != old.colour]))
    prompt = draw.pick(
        (
            f"Change the colour of {the(old)} in {where} to {new.colour}.",
            f"Make {the(old)} in {where} {new.colour}.",
            f"Recolour {the(old)} in {where}: it should be {new.colour}.",
        )
    )
    return Edit(check(_swapped(scene, old, new)), prompt)


def replace_sprite(draw: Draw, scene: Scene, where: str) -> Edit:
    """Another sprite of the same size, at the same place, with the same motion."""
    old = _chosen(draw, scene)
    new = replace(sprite(draw), size=old.size, place=old.place, motion=old.motion)
    if new.shape == old.shape:
        raise Unfit
    name = article(described(new, with_size=False))
    prompt = draw.pick(
        (
            f"Replace {the(old)} in {where} with {name}.",
            f"Turn {the(old)} in {where} into {name}.",
            f"In {where}, exchange {the(old)} for {name}.",
        )
    )
    return Edit(check(_swapped(scene, old, new)), prompt)


def add(draw: Draw, scene: Scene, where: str) -> Edit:
    """A further sprite; in a clip it may move."""
    new = sprite(draw)
    if any(one.motion.kind != STILL for one in scene.sprites) and draw.chance(0.5):
        new = moved(draw, new)
    name = article(described(new))
    tail = "" if new.motion.kind == STILL else f", {moving(new.motion)}"
    prompt = draw.pick(
        (
            f"Add {name} {at(new)} of {where}{tail}.",
            f"Put {name} {at(new)} of {where}{tail}.",
            f"There should also be {name} {at(new)} of {where}{tail}.",
        )
    )
    return Edit(check(replace(scene, sprites=(*scene.sprites, new))), prompt)


def remove(draw: Draw, scene: Scene, where: str) -> Edit:
    old = _chosen(draw, scene)
    prompt = draw.pick(
        (f"Remove {the(old)} from {where}.", f"Delete {the(old)} in {where}.", f"Take {the(old)} out of {where}.")
    )
    return Edit(replace(scene, sprites=tuple(one for one in scene.sprites if one != old)), prompt)


def move(draw: Draw, scene: Scene, where: str) -> Edit:
    old = _chosen(draw, scene)
    new = replace(old, place=draw.pick([place for place in PLACES.values() if place != old.place]))
    prompts = (
        f"Move {the(old)} in {where} to the {new.place_name}.",
        f"Shift {the(old)} in {where} to the {new.place_name}.",
        f"In {where}, put {the(old)} {at(new)} instead.",
    )
    prompt = draw.pick(prompts)
    # "To the right" would be a direction: what is at the top right goes straight down to be at the right.
    prompt = prompts[2] if new.place_name in _DIRECTIONS else prompt
    return Edit(check(_swapped(scene, old, new)), prompt)


def change_background(draw: Draw, scene: Scene, where: str) -> Edit:
    background = draw.pick([name for name in BACKGROUNDS if name != scene.background])
    words = GROUNDS[background]
    prompt = draw.pick(
        (
            f"Change the background of {where} to {words}.",
            f"Replace the background of {where} with {words}.",
            f"Keep the shapes of {where} and change what is behind them to {words}.",
        )
    )
    return Edit(check(replace(scene, background=background)), prompt)


def restyle(draw: Draw, scene: Scene, where: str) -> Edit:
    style = draw.style()
    words = STYLES[style.kind]
    prompt = draw.pick(
        (f"Show {where} {words}.", f"Convert {where}: show it {words}.", f"Change the style of {where}: {words}.")
    )
    return Edit(check(replace(scene, style=style)), prompt)


def insert_subject(draw: Draw, scene: Scene, where: str, subject: Sprite, name: str) -> Edit:
    """Put the subject of a reference, called `name`, into the scene."""
    new = replace(subject, size=draw.pick(("small", "large")), place=draw.pick(tuple(PLACES.values())))
    prompt = draw.pick(
        (
            f"Put a {new.size} copy of {name} {at(new)} of {where}.",
            f"Add {name} to {where}, {new.size}, {at(new)}.",
            f"Place {name} {at(new)} of {where} as a {new.size} shape.",
        )
    )
    return Edit(check(replace(scene, sprites=(*scene.sprites, new))), prompt)


def swap_subject(draw: Draw, scene: Scene, where: str, subject: Sprite, name: str) -> Edit:
    """The subject takes the size, place and motion of a sprite of the scene."""
    old = _chosen(draw, scene)
    new = replace(subject, size=old.size, place=old.place, motion=old.motion)
    prompt = draw.pick(
        (
            f"Replace {the(old)} in {where} with {name}.",
            f"Change {the(old)} in {where} to {name}.",
            f"In {where}, exchange {the(old)} for {name}.",
        )
    )
    return Edit(check(_swapped(scene, old, new)), prompt)


def give_surface(draw: Draw, scene: Scene, where: str, subject: Sprite, name: str) -> Edit:
    """A sprite of the scene takes the pattern of the subject and keeps its shape."""
    old = _chosen(draw, scene, needs_colour=True)
    if old.shape == "moon":
        raise Unfit
    new = replace(old, colour=None, texture=subject.texture)
    prompt = draw.pick(
        (
            f"Give {the(old)} in {where} the surface of {name}.",
            f"Cover {the(old)} in {where} with the pattern of {name}.",
            f"Paint {the(old)} in {where} like {name}.",
        )
    )
    return Edit(check(_swapped(scene, old, new)), prompt)


EDITS: dict[str, Callable[[Draw, Scene, str], Edit]] = {
    "recolour": recolour,
    "replace": replace_sprite,
    "add": add,
    "remove": remove,
    "move": move,
    "background": change_background,
    "style": restyle,
}
SUBJECT_EDITS: dict[str, Callable[[Draw, Scene, str, Sprite, str], Edit]] = {
    "insert": insert_subject,
    "swap": swap_subject,
    "surface": give_surface,
}


def _chosen(draw: Draw, scene: Scene, needs_colour: bool = False) -> Sprite:
    options = [one for one in scene.sprites if one.colour or not needs_colour]
    if not options:
        raise Unfit
    return draw.pick(options)


def _swapped(scene: Scene, old: Sprite, new: Sprite) -> Scene:
    return replace(scene, sprites=tuple(new if one == old else one for one in scene.sprites))
