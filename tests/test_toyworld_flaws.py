"""The toy world's scorers see flaws that no single attribute shows.

Remains, ghosts, specks, holes and missing parts, wrong frames between a clip's key frames, and edits that did nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from test_toyworld_scorers import autoencoded, one_more, other_colour, other_shape, toys
from torch import Tensor

from vino_core.toyworld.draw import coverage, draw
from vino_core.toyworld.flaws import flaws_of
from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.reading import box_mean, read
from vino_core.toyworld.scorers import score
from vino_core.toyworld.styles import apply_style
from vino_core.toyworld.tasks import ToySource
from vino_core.toyworld.world import COLOURS, Appearance, Scene, Sprite, Style, View, appearance, times

Pixels = np.ndarray
BETWEEN = [1, 2, 3, 5, 6, 7]
"""Frames whose attributes are not read one by one."""


def result(pixels: Pixels) -> Tensor:
    return torch.from_numpy((pixels + 0.5).astype(np.uint8))


def share_passed(results: list[tuple[Tensor, ToyExample]], least: int) -> float:
    assert len(results) >= least
    return sum(score(pixels, toy).passed for pixels, toy in results) / len(results)


@lru_cache(maxsize=1)
def vanishing() -> list[ToyExample]:
    """Edits after which a sprite is gone from its place."""
    return [toy for toy in toys("ti2i", 160, split="train") if toy.truth.kind in ("remove", "move")]


def gone(toy: ToyExample) -> Pixels:
    """How much the sprite that is gone covered of each pixel that no sprite covers now."""
    source, target = toy.truth.source, toy.truth.target
    covers = {one: coverage(one.shape, appearance(one, View(), 0.0), 64) for one in (*source.sprites, *target.sprites)}
    now = sum((covers[one] for one in target.sprites), np.zeros((64, 64)))
    (old,) = set(source.sprites) - set(target.sprites)
    return covers[old] * (now <= 0)


def outline_left(left: Pixels) -> Pixels:
    solid = left > 0.5
    return solid & (box_mean(solid.astype(np.float32), 2) < 0.999)


def top_left(left: Pixels) -> Pixels:
    first = np.flatnonzero(left.any(1))[0]
    return (left > 0) & (np.arange(64) < first + 5)[:, None]


def ghost(left: Pixels) -> Pixels:
    return 0.25 * left


@pytest.mark.parametrize("remains", [outline_left, top_left, ghost])
def test_remains_of_what_should_be_gone_are_seen(remains: Callable[[Pixels], Pixels]) -> None:
    results = []
    for toy in vanishing():
        before, after = toy.example.images[0].numpy().astype(np.float32), toy.example.target[0].numpy()
        share = remains(gone(toy))[..., None]
        results.append((result(after + share * (before - after))[None], toy))
    assert share_passed(results, 20) <= 0.1


def specks(frame: Tensor, sprite: Sprite, seen: Appearance) -> None:
    for row, column in np.random.default_rng(5).integers(0, 60, (25, 2)):
        frame[row : row + 3, column : column + 3] = torch.tensor([255, 0, 255], dtype=torch.uint8)


def pole(frame: Tensor, sprite: Sprite, seen: Appearance) -> None:
    frame[:, 2:6] = 0


def line(frame: Tensor, sprite: Sprite, seen: Appearance) -> None:
    frame[:, 31] = 0


def hole(frame: Tensor, sprite: Sprite, seen: Appearance) -> None:
    """In the middle of what is well inside the sprite."""
    inside = box_mean(coverage(sprite.shape, seen, 64), 2)
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    frame[max(0, row - 2) : row + 2, max(0, column - 2) : column + 2] = 0


Spoil = Callable[[Tensor, Sprite, Appearance], None]


def spoiled(toy: ToyExample, spoil: Spoil, only: int | None = None) -> tuple[Tensor, ToyExample]:
    """The truth, spoiled in every frame or in `only` one."""
    scene, pixels = toy.truth.target, toy.example.target.clone()
    for number, (frame, time) in enumerate(zip(pixels, times(len(pixels)), strict=True)):
        if only in (None, number):
            spoil(frame, scene.sprites[0], appearance(scene.sprites[0], scene.camera.view(time), time))
    return pixels, toy


def unstyled(task: str, count: int) -> list[ToyExample]:
    """Examples that show a sprite that words describe, in its own colours."""
    found = [toy.truth.target for toy in toys(task, count, captions="long")]
    chosen = [scene.style.kind == "none" and bool(scene.sprites) and bool(scene.sprites[0].colour) for scene in found]
    return [toy for toy, wanted in zip(toys(task, count, captions="long"), chosen, strict=True) if wanted]


PICTURES_AND_CLIPS = [("t2i", 40, spoil) for spoil in (specks, pole, line, hole)] + [
    ("t2v", 12, line),
    ("t2v", 12, hole),
    ("tv2v", 16, pole),
    ("tv2v", 16, hole),
]


@pytest.mark.parametrize(("task", "count", "spoil"), PICTURES_AND_CLIPS)
def test_specks_poles_and_holes_are_seen(spoil: Spoil, task: str, count: int) -> None:
    results = [spoiled(toy, spoil) for toy in unstyled(task, count)]
    assert share_passed(results, count // 2) <= 0.05


@pytest.mark.parametrize("task", ["t2v", "tv2v"])
@pytest.mark.parametrize("spoil", [specks, pole, line, hole])
def test_a_flaw_of_a_single_frame_is_seen(spoil: Spoil, task: str) -> None:
    results = [spoiled(toy, spoil, only=BETWEEN[number % 6]) for number, toy in enumerate(unstyled(task, 16))]
    assert share_passed(results, 8) <= (0.25 if spoil is hole else 0.05)  # stripes hide a hole


def nearest_colour(scene: Scene) -> Scene:
    """The first sprite in the colour that is hardest to tell from its own."""
    own = scene.sprites[0]
    near = min(set(COLOURS) - {own.colour}, key=lambda colour: math.dist(COLOURS[colour], COLOURS[own.colour]))
    return replace(scene, sprites=(replace(own, colour=near), *scene.sprites[1:]))


def test_a_colour_of_a_single_frame_is_seen() -> None:
    results = []
    for toy in unstyled("t2v", 24):
        pixels = toy.example.target.clone()
        pixels[2] = torch.from_numpy(draw(nearest_colour(toy.truth.target), 64, 9))[2]
        results.append((pixels, toy))
    assert share_passed(results, 12) <= 0.05


def test_another_reference_in_a_single_frame_is_seen() -> None:
    results = []
    for toy in toys("ti2v", 24):
        first, *others = toy.truth.target.sprites
        if others and first.texture.is_pattern and others[0].texture.is_pattern:
            pixels = toy.example.target.clone()
            scene = replace(toy.truth.target, sprites=(replace(first, texture=others[0].texture), *others))
            pixels[2] = torch.from_numpy(draw(scene, 64, 9))[2]
            results.append((pixels, toy))
    assert len(results) >= 8
    assert not any(score(pixels, toy).identity for pixels, toy in results)


def test_a_clip_begins_with_its_picture_although_the_camera_moves() -> None:
    """Then nothing can be compared from frame to frame."""
    clips = [toy for toy in toys("i2v", 60) if toy.truth.target.camera != toy.truth.source.camera]
    assert len(clips) >= 8
    shifted = []
    for toy in clips:
        pixels = toy.example.target.clone()
        assert score(pixels, toy).kept
        pixels[0] = pixels[0].roll((8, 8), (0, 1))
        shifted.append(score(pixels, toy))
    assert all(one.kept == (one.first_frame >= 22.0) for one in shifted)
    assert sum(not one.kept for one in shifted) >= len(shifted) // 2


def test_a_sprite_that_lacks_a_quarter_is_seen() -> None:
    """A small one still covers most of what it should."""
    results = []
    for toy in (*unstyled("t2v", 20), *unstyled("tv2v", 20)):
        scene = toy.truth.target
        behind = torch.from_numpy(draw(replace(scene, sprites=scene.sprites[1:]), 64, 9))
        frames = iter(behind)

        def bare_quarter(frame: Tensor, sprite: Sprite, seen: Appearance, frames: Iterator[Tensor] = frames) -> None:
            quarter = slice(0, max(0, round(64 * seen.y))), slice(0, max(0, round(64 * seen.x)))
            frame[quarter] = next(frames)[quarter]

        results.append(spoiled(toy, bare_quarter))
    assert share_passed(results, 20) <= 0.05


@pytest.mark.filterwarnings("error")
def test_a_sprite_that_left_the_picture_has_no_flaws() -> None:
    toy = unstyled("t2v", 8)[0]
    frame = read(toy.example.target[0].numpy().astype(np.float32), toy.truth.target, 0.0)
    frame.found[0] = replace(frame.found[0], seen=frame.found[0].seen._replace(x=3.0))
    assert flaws_of(frame)[2:] == (0.0, 0.0)


@pytest.mark.parametrize("task", ["t2v", "ti2v", "tv2v"])
@pytest.mark.parametrize("spoil", [other_colour, other_shape, one_more])
def test_every_frame_of_a_clip_counts(task: str, spoil: Callable[[Scene], Scene]) -> None:
    results = []
    for toy in toys(task, 16, captions="long"):
        if toy.truth.target.sprites and toy.truth.target.style.kind == "none":
            pixels = toy.example.target.clone()
            pixels[BETWEEN] = torch.from_numpy(draw(spoil(toy.truth.target), 64, 9))[BETWEEN]
            results.append((pixels, toy))
    assert share_passed(results, 8) <= 0.1


def test_frames_in_another_style_are_seen() -> None:
    results = []
    for toy in toys("t2v", 16, captions="long"):
        if toy.truth.target.style.kind == "none":
            pixels = toy.example.target.clone()
            grey = apply_style(Style("greyscale"), pixels.numpy().astype(np.float32))
            pixels[BETWEEN] = result(grey)[BETWEEN]
            results.append((pixels, toy))
    assert share_passed(results, 8) == 0


def test_a_style_that_only_the_first_frame_has_is_not_shown() -> None:
    edits = [toy for toy in toys("tv2v", 40) if toy.truth.kind == "style"]
    assert len(edits) >= 5
    for toy in edits:
        pixels = toy.example.videos[0].clone()
        pixels[0] = toy.example.target[0]
        assert not score(pixels, toy).checks["style"], toy.truth


@pytest.mark.parametrize("task", ["ti2i", "ti2i_baseimg", "tv2v", "tiv2v"])
def test_doing_nothing_follows_no_instruction(task: str) -> None:
    edits = [toy for toy in toys(task, 40 if task.startswith("ti2i") else 20) if toy.truth.source is not None]
    assert len(edits) >= 15
    for number, toy in enumerate(edits):
        before = toy.example.videos[0] if toy.example.videos else toy.example.images[-1][None]
        assert not score(before, toy).followed, toy.truth
        assert not score(autoencoded(before, number), toy).followed, toy.truth
        assert score(toy.example.target, toy).checks["changed"]
        assert score(autoencoded(toy.example.target, number), toy).checks["changed"]


def test_only_edits_are_asked_for_a_change() -> None:
    for task in ("t2i", "i2v", "ti2v", "tiv2v_clone", "select_image"):
        toy = ToySource(task).toy(0)
        assert "changed" not in score(toy.example.target, toy).checks
