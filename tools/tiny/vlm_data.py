"""Toy scenes with their pixels, drawn beforehand, and the lessons that are made of them: prompt, references, answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vino_core.media.references import prepare_video
from vino_core.systems.base import Thinking
from vino_core.toyworld.captions import GROUNDS, article, short_caption
from vino_core.toyworld.draw import draw
from vino_core.toyworld.sampling import Draw, Unfit, belongs, check, label, portrait, scene, sprite
from vino_core.toyworld.tasks import ToySource
from vino_core.toyworld.world import Scene

from .vlm_drawings import SIZE, Drawing, drawing_of
from .vlm_questions import ask, caption, detailed

Bytes = NDArray[np.uint8]
FRAMES = 9
COUNTS = {"picture": 4000, "clip": 800, "ti2i": 1000, "ti2i_baseimg": 250, "ti2v": 250, "i2v": 200, "tv2v": 250,
          "tiv2v": 250, "tiv2v_clone": 150, "tiv2v_camclone": 120}  # fmt: skip
"""Items of one pool. "picture" and "clip" are lone scenes, the others are tasks of the toy world."""
THINKING_SHARE = 0.08
"""Lessons about drawings, for a system with thinking mode."""


class Item(NamedTuple):
    """A task's prompt and result, or a lone scene, and the pixels of its references: pictures [1, 1, H, W, 3] and
    clips [4, 2, H, W, 3]: groups of frames, as the vision tower takes them."""

    prompt: str
    target: Scene
    is_clip: bool
    images: tuple[Bytes, ...] = ()
    clips: tuple[Bytes, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """`understanding` chooses the system sentence. `weight` scales the loss of the answer."""

    text: str
    answer: str
    images: tuple[Bytes, ...] = ()
    clips: tuple[Bytes, ...] = ()
    understanding: bool = False
    weight: float = 1.0


Pool = dict[str, list[Item]]


def make_pool(split: str, number: int, scale: float = 1.0, only: Collection[str] = tuple(COUNTS)) -> Pool:
    """The items of pool `number` of a split, of all kinds or of those in `only`; `scale` multiplies their counts. The
    same for the same arguments, whatever `only` is."""
    pool: Pool = {}
    for index, (kind, count) in enumerate(COUNTS.items()):
        if kind not in only:
            continue
        count = max(1, int(count * scale))
        if kind in ("picture", "clip"):
            pool[kind] = [_lone(split, kind == "clip", number, index, item) for item in range(count)]
        else:
            source = ToySource(kind, seed=1000 + number, size=SIZE, frames=FRAMES, split=split)
            pool[kind] = [_task(source, item) for item in range(count)]
    return pool


def _lone(split: str, is_clip: bool, *key: int) -> Item:
    random = Draw(split, 77, *key)
    while True:
        try:
            shown = _any_clip(random) if is_clip else _any_picture(random)
        except Unfit:
            continue
        if belongs(split, [shown]):
            break
    if is_clip:
        return Item("", shown, True, clips=(_clip(shown),))
    return Item("", shown, False, images=(_picture(shown),))


def _any_picture(random: Draw) -> Scene:
    if random.chance(0.1):
        return portrait(random, sprite(random, patterned=0.5))
    shown = scene(random, random.pick((1, 1, 2, 2, 2, 3, 4)), patterned=0.15)
    return check(replace(shown, style=random.style(duotone=0.1))) if random.chance(0.12) else shown


def _any_clip(random: Draw) -> Scene:
    camera = random.chance(0.35)
    free = 0.1 if random.chance(0.5) else 0.0
    return scene(random, random.pick((1, 2)), patterned=0.15, motion=not camera, camera=camera, free=free)


def _task(source: ToySource, index: int) -> Item:
    plan = source.plan(index)
    return Item(
        plan.prompt,
        plan.target,
        plan.is_clip,
        tuple(_picture(shown) for shown in plan.images),
        tuple(_clip(shown) for shown in plan.videos),
    )


def _picture(shown: Scene) -> Bytes:
    return draw(shown, SIZE)[None]


def _clip(shown: Scene) -> Bytes:
    frames = prepare_video(torch.from_numpy(draw(shown, SIZE, FRAMES)), FRAMES, 24.0, area=SIZE * SIZE).vlm_frames
    return frames.numpy().reshape(4, 2, SIZE, SIZE, 3)


def lesson(random: Random, pool: Pool, thinking: Mapping[str, Thinking] | None = None) -> Lesson:
    """The next lesson of the mixture, to which a system's thinking mode adds its own."""
    kinds, weights = zip(*_MIXTURE.items(), strict=True)
    made = None
    while made is None:
        if thinking is not None and random.random() < THINKING_SHARE:
            made = _think(random, pool, thinking)
        else:
            made = random.choices(kinds, weights)[0](random, pool)
    return replace(made, text=_reworded(random, made.text))


def _look(random: Random, pool: Pool) -> Lesson | None:
    item = random.choice(pool["picture"])
    made = ask(random, item.target, False)
    return made and Lesson(made.text, made.answer, item.images)


def _describe(random: Random, pool: Pool) -> Lesson:
    item = random.choice(pool["picture"])
    text = random.choice(("Describe the picture.", "Describe Image 1.", "Describe the image.", ""))
    return Lesson(text, caption(item.target), item.images, understanding=random.random() < 0.3)


def _describe_in_detail(random: Random, pool: Pool) -> Lesson:
    item = random.choice(pool["picture"])
    text = random.choice(("Describe the picture in detail.", "Describe Image 1 in detail."))
    return Lesson(text, detailed(item.target, False), item.images, weight=0.5)


def _watch(random: Random, pool: Pool) -> Lesson | None:
    item = random.choice(pool["clip"])
    if random.random() < 0.4:
        text = random.choice(("Describe the video.", "Describe Video 1.", ""))
        return Lesson(text, caption(item.target), (), item.clips)
    if random.random() < 0.1:
        return Lesson("Describe the video in detail.", detailed(item.target, True), (), item.clips, weight=0.5)
    made = ask(random, item.target, True)
    return made and Lesson(made.text, made.answer, (), item.clips)


def compare(random: Random, pool: Pool) -> Lesson | None:
    """Several pictures: about one of them, or which one shows something."""
    items = [random.choice(pool["picture"]) for _ in range(random.choice((2, 2, 3, 4)))]
    images = tuple(item.images[0] for item in items)
    number = random.randrange(len(items))
    shown = items[number].target
    choice = random.random()
    if choice < 0.3:
        text = random.choice((f"Show Image {number + 1} again.", f"Reconstruct Image {number + 1}.",
                              f"Describe Image {number + 1}."))  # fmt: skip
        return Lesson(text, caption(shown), images)
    if choice < 0.65:
        made = ask(random, shown, False, f" in Image {number + 1}")
        return made and Lesson(made.text, made.answer, images)
    return _which(random, [item.target for item in items], number, images)


def _which(random: Random, scenes: list[Scene], number: int, images: tuple[Bytes, ...]) -> Lesson | None:
    """Only one of the pictures may fit the question."""
    facts: tuple[Callable[[Scene], set[str]], ...] = (
        lambda one: {article(label(sprite)) for sprite in one.sprites if one.style.kind in ("none", "mosaic")},
        lambda one: {article(sprite.shape) for sprite in one.sprites},
        lambda one: {GROUNDS[one.background]},
    )
    fact = random.choice(facts)
    others = set().union(*(fact(one) for index, one in enumerate(scenes) if index != number))
    alone = sorted(fact(scenes[number]) - others)
    if not alone:
        return None
    return Lesson(f"Which image shows {random.choice(alone)}?", f"Image {number + 1}", images)


def _instruct(random: Random, pool: Pool) -> Lesson:
    """An instruction on references is answered by the caption of its result."""
    kind = random.choices(("ti2i", "ti2i_baseimg", "ti2v", "i2v", "tv2v", "tiv2v", "tiv2v_clone", "tiv2v_camclone"),
                          (8, 2, 2, 1.5, 2, 1.5, 1, 0.7))[0]  # fmt: skip
    item = random.choice(pool[kind])
    understanding = random.random() < 0.5
    if item.is_clip and item.target.sprites and random.random() < 0.1:
        return Lesson(item.prompt, detailed(item.target, True), item.images, item.clips, True, weight=0.5)
    return Lesson(item.prompt, caption(item.target), item.images, item.clips, understanding)


def _think(random: Random, pool: Pool, thinking: Mapping[str, Thinking]) -> Lesson | None:
    """A plan of what is drawn in a picture, or the prompt behind the plan."""
    kind = random.choice(tuple(thinking))
    for _ in range(20):
        drawing = drawing_of(random, kind, random.choice(pool[random.choice(("clip", "i2v"))]).target)
        if drawing is not None:
            return random.choice(thinking_lessons(drawing, thinking[kind]))
    return None


def thinking_lessons(drawing: Drawing, thinking: Thinking) -> tuple[Lesson, Lesson]:
    """What the VLM is asked about a drawing, word for word, and what it should write: the plan, then the prompt."""
    images, words = (drawing.pixels[None, None],), drawing.words
    return (
        Lesson(thinking.request_for_plan(words), drawing.plan, images, understanding=True),
        Lesson(thinking.request_for_prompt(words, drawing.plan), drawing.prompt, images, understanding=True),
    )


def _read(random: Random, pool: Pool) -> Lesson | None:
    """Text alone: a caption leads to another caption of the same scene, or answers a question."""
    item = random.choice(pool[random.choice(("picture", "clip", "ti2i", "tv2v"))])
    scene = item.target
    if not scene.sprites:
        return None
    shuffled = replace(scene, sprites=tuple(random.sample(scene.sprites, len(scene.sprites))))
    brief = short_caption(shuffled, Draw("train", random.getrandbits(30)))
    choice = random.random()
    if choice < 0.35:
        made = ask(random, scene, item.is_clip)
        return made and Lesson(f"{brief.rstrip('.')}. {made.text}", made.answer)
    if choice < 0.6:
        return Lesson(brief, detailed(scene, item.is_clip), understanding=random.random() < 0.5, weight=0.5)
    if choice < 0.8:
        return Lesson(detailed(scene, item.is_clip), caption(scene), understanding=random.random() < 0.5)
    return Lesson(brief, caption(scene), understanding=random.random() < 0.5)


_MIXTURE: dict[Callable[[Random, Pool], Lesson | None], float] = {
    _look: 0.28,
    _describe: 0.22,
    _describe_in_detail: 0.03,
    _watch: 0.12,
    compare: 0.1,
    _instruct: 0.18,
    _read: 0.07,
}


def _reworded(random: Random, text: str) -> str:
    """Now and then another spelling, or a text that begins or ends carelessly."""
    if random.random() < 0.05:
        for word, other in (("colour", "color"), ("centre", "center"), ("grey", "gray")):
            text = text.replace(word, other)
    if random.random() < 0.05:
        text = text.removeprefix("a ").removeprefix("A ")
    if text and random.random() < 0.08:
        text = text[0].swapcase() + text[1:]
    if random.random() < 0.08:
        text = text.rstrip(".")
    return text
