"""Drawings that teach a miniature to think: marks say what happens, requests are those of thinking mode."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from tools.tiny.vlm_data import Item, Lesson, lesson, make_pool, thinking_lessons
from tools.tiny.vlm_drawings import SAYS, drawing_of, marked
from vino_core.encoder.prompt import VisualItem
from vino_core.encoder.think import think
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.draw import draw
from vino_core.toyworld.world import COLOURS, STILL, Camera, Motion, Scene, Sprite, Texture

KINDS = tuple(VOGUE_TINY.thinking)


def sprite(motion: str = STILL, colour: str = "red", place: tuple[float, float] = (0.5, 0.5)) -> Sprite:
    return Sprite("circle", colour, Texture(), "small", place, Motion(motion))


@pytest.fixture(scope="module")
def pool() -> dict[str, list[Item]]:
    return make_pool("train", 0, scale=0.02)


def test_the_words_are_those_of_the_motions() -> None:
    scene = Scene((sprite("right", "blue", (0.5, 0.79)), sprite("up")), "grass")
    annotated, canvas = (drawing_of(Random(0), kind, scene) for kind in KINDS)
    assert annotated.plan == "At the red circle an arrow points up. At the blue circle an arrow points to the right."
    assert annotated.prompt == (
        "Use Image 1 as the first frame. The red circle rises. The blue circle glides to the right."
    )
    assert canvas.plan == (
        "A small red circle stands in the centre, an arrow points up. "
        "A small blue circle stands at the bottom, an arrow points to the right."
    )
    assert canvas.prompt == (
        "Make a video on grass. The red circle from Image 1 is small and stands in the centre. It rises. "
        "The blue circle from Image 1 is small and stands at the bottom. It glides to the right."
    )
    assert canvas.words == "Make it on grass."
    # The canvas is white where the annotated picture has its grass.
    assert (canvas.pixels[0, 0] > 230).all() and not (annotated.pixels[0, 0] > 230).any()


@pytest.mark.parametrize(
    ("motion", "columns", "rows"),
    [("left", (0, 32), (0, 64)), ("right", (32, 64), (0, 64)), ("up", (0, 64), (0, 32)), ("down", (0, 64), (32, 64))],
)
def test_an_arrow_lies_where_the_sprite_goes(motion: str, columns: tuple[int, int], rows: tuple[int, int]) -> None:
    scene = Scene((sprite(motion),), "grass")
    before = draw(scene)[0]
    changed = (marked(before, scene.sprites) != before).any(-1)
    assert 30 < changed.sum() < 300
    there = np.zeros_like(changed)
    there[slice(*rows), slice(*columns)] = True
    assert not changed[~there].any()
    red = np.abs(before.astype(int) - COLOURS["red"]).sum(-1) < 30
    assert red.any() and not (changed & red).any(), "the mark hides what it stands at"


def test_each_mark_looks_different() -> None:
    pictures = [marked(draw(Scene((sprite(),), "sand"))[0], (sprite(motion),)).tobytes() for motion in SAYS]
    assert len(set(pictures)) == len(SAYS)


@pytest.mark.parametrize(
    "scene",
    [
        Scene((sprite("left", place=(0.21, 0.5)),), "grass"),
        Scene((sprite("grow"),), "grass"),
        Scene((sprite("left"),), "grass", camera=Camera("in")),
        Scene((), "grass"),
    ],
    ids=["no room", "no mark for it", "camera", "nothing"],
)
def test_what_no_mark_can_say_is_not_drawn(scene: Scene) -> None:
    assert [drawing_of(Random(0), kind, scene) for kind in KINDS] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_lessons_ask_what_thinking_asks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = drawing_of(Random(3), kind, Scene((sprite("right"),), "sea"))
    lessons = thinking_lessons(drawing, VOGUE_TINY.thinking[kind])
    answers = {each.text: each.answer for each in lessons}
    asked: list[str] = []

    def answer(engine: object, system: object, request: str, *rest: object) -> str:
        asked.append(request)
        return answers[request]

    monkeypatch.setattr("vino_core.encoder.think.rewrite_prompt", answer)
    engine = SimpleNamespace(tokenize=str.split)
    visuals = [SimpleNamespace(item=VisualItem("image", (1, 4, 4)))]
    thought = think(engine, VOGUE_TINY, kind, drawing.words, visuals)
    assert (thought.plan, thought.prompt) == (drawing.plan, drawing.prompt)
    assert asked == list(answers)
    assert all(each.understanding and each.images[0].shape == (1, 1, 64, 64, 3) for each in lessons)


def test_only_a_system_that_thinks_has_lessons_about_drawings(pool: dict[str, list[Item]]) -> None:
    def drawn(made: Lesson) -> bool:
        return any(word in made.text.lower() for word in ("marks in image 1", "canvas in image 1"))

    random = Random(0)
    lessons = [lesson(random, pool, VOGUE_TINY.thinking) for _ in range(400)]
    assert 12 <= sum(map(drawn, lessons)) <= 60
    plain = [lesson(Random(seed), pool) for seed in range(100)]
    assert not any(map(drawn, plain))


def test_a_pool_of_some_kinds_holds_the_same_items() -> None:
    some, every = (make_pool("heldout", 1, 0.005, **kinds) for kinds in ({"only": ("clip",)}, {}))
    assert list(some) == ["clip"]
    assert [item.target for item in some["clip"]] == [item.target for item in every["clip"]]
