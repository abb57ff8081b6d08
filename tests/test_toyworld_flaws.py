"""The toy world's scorers see flaws that no single attribute shows.

Remains, ghosts, specks and holes in pictures, wrong frames between a clip's key frames, and edits that did nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from test_toyworld_scorers import autoencoded, one_more, other_colour, other_shape, toys
from torch import Tensor

from vino_core.toyworld.draw import coverage, draw
from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.reading import box_mean
from vino_core.toyworld.scorers import score
from vino_core.toyworld.styles import apply_style
from vino_core.toyworld.tasks import ToySource
from vino_core.toyworld.world import Scene, Style, View, appearance

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


def specks(pixels: Tensor, toy: ToyExample) -> None:
    for row, column in np.random.default_rng(5).integers(0, 60, (25, 2)):
        pixels[row : row + 3, column : column + 3] = torch.tensor([255, 0, 255], dtype=torch.uint8)


def pole(pixels: Tensor, toy: ToyExample) -> None:
    pixels[:, 2:6] = 0


def hole(pixels: Tensor, toy: ToyExample) -> None:
    """In the middle of what is well inside the first sprite."""
    sprite = toy.truth.target.sprites[0]
    inside = coverage(sprite.shape, appearance(sprite, View(), 0.0), 64)
    row, column = np.unravel_index(box_mean(inside, 2).argmax(), inside.shape)
    pixels[row - 2 : row + 2, column - 2 : column + 2] = 0


@pytest.mark.parametrize("spoil", [specks, pole, hole])
def test_specks_poles_and_holes_are_seen(spoil: Callable[[Tensor, ToyExample], None]) -> None:
    results = []
    for toy in toys("t2i", 40, captions="long"):
        if toy.truth.target.style.kind == "none":
            pixels = toy.example.target.clone()
            spoil(pixels[0], toy)
            results.append((pixels, toy))
    assert share_passed(results, 20) <= 0.05


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
