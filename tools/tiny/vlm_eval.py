"""What the miniature's text encoder knows of scenes that it has never seen: exact answers by kind of question.

    python -m tools.tiny.vlm_eval [models/vino-tiny/text_encoder.safetensors] [--count 200]

An answer is exact when every one of its tokens is the most likely one behind the prompt and the tokens before, which is
when greedy decoding writes it word by word.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vino_core.checkpoints.files import read_metadata
from vino_core.encoder.engine import IMAGE_PAD, VIDEO_PAD
from vino_core.encoder.transformers_engine import TransformersEngine, load_engine
from vino_core.systems import system_of
from vino_core.systems.base import System, Thinking
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.toyworld.statistics import Estimate, rate

from .vlm_batch import Words, collate, make_row
from .vlm_data import Lesson, Pool, compare, make_pool, thinking_lessons
from .vlm_drawings import drawing_of
from .vlm_model import states
from .vlm_questions import CLIP_KINDS, PICTURE_KINDS, caption, question_of

EDITS = ("ti2i", "ti2i_baseimg", "tv2v", "tiv2v", "i2v", "ti2v", "tiv2v_clone", "tiv2v_camclone")


def heldout_lessons(count: int, seed: int = 0) -> Iterator[tuple[str, Lesson]]:
    """About `count` lessons of each kind on held-out scenes, with the kind's name."""
    pool = make_pool("heldout", seed, scale=count / 1000)
    random = Random(seed)
    for kind in PICTURE_KINDS:
        yield from _questions(random, pool, "picture", kind, count)
    for kind in CLIP_KINDS:
        yield from _questions(random, pool, "clip", kind, count)
    for item in pool["picture"][:count]:
        sprites = min(3, len(item.target.sprites))
        name = "caption, " + ("one shape", "two shapes", "three shapes or more")[sprites - 1]
        yield (
            name,
            Lesson("Describe the picture.", caption(item.target), item.images),
        )
    for item in pool["clip"][:count]:
        yield "caption of a clip", Lesson("Describe the video.", caption(item.target), (), item.clips)
    compared = 0
    while compared < count:
        made = compare(random, pool)
        if made is not None:
            compared += 1
            yield "which image" if made.text.startswith("Which") else "one of several images", made
    for task in EDITS:
        for item in pool[task][:count]:
            yield f"result of {task}", Lesson(item.prompt, caption(item.target), item.images, item.clips, True)


def heldout_thinking(thinking: Mapping[str, Thinking], count: int, seed: int = 0) -> Iterator[tuple[str, Lesson]]:
    """Plans and prompts of `count` drawings of each kind on held-out scenes."""
    pool = make_pool("heldout", seed, scale=count / 100, only=("clip", "i2v"))
    random = Random(seed)
    for kind, how in thinking.items():
        made = (drawing_of(random, kind, item.target) for item in pool["clip"] + pool["i2v"])
        for drawing in islice((one for one in made if one is not None), count):
            for name, lesson in zip(("plan", "prompt"), thinking_lessons(drawing, how), strict=True):
                yield f"{name} of {kind}", lesson


def _questions(random: Random, pool: Pool, items: str, kind: str, count: int) -> Iterator[tuple[str, Lesson]]:
    asked = 0
    while asked < count:
        item = random.choice(pool[items])
        made = question_of(random, kind, item.target) if item.target.sprites else None
        if made is not None:
            asked += 1
            yield kind, Lesson(made.text, made.answer, item.images, item.clips)


@torch.no_grad()
def exact(
    engine: TransformersEngine, lessons: list[Lesson], system: System = VINO_TINY
) -> list[tuple[bool, Tensor, Tensor]]:
    """Whether each answer is exact, the tokens of the right answer, and those that were most likely in their places."""
    words = Words(Tokenizer.from_str(engine.tokenizer.backend_tokenizer.to_str()))
    pads = (words.token_id(IMAGE_PAD), words.token_id(VIDEO_PAD))
    outcomes = []
    for start in range(0, len(lessons), 50):
        rows = [make_row(words, lesson, system) for lesson in lessons[start : start + 50]]
        batch = collate(words, rows)
        found = states(engine.model, batch.ids, batch.positions, batch.pictures, pads, system.vision)
        for row, state in zip(rows, found, strict=True):
            likely = engine.model.lm_head(state[row.answer - 1 : len(row.ids) - 1]).argmax(-1)
            wanted = row.ids[row.answer :]
            outcomes.append((bool((likely == wanted).all()), wanted, likely))
    return outcomes


def accuracies(
    engine: TransformersEngine, count: int, seed: int = 0, only: Collection[str] = (), system: System = VINO_TINY
) -> dict[str, Estimate]:
    """Share of exact answers on held-out scenes by kind of question, of all kinds or of those in `only`."""
    kinds: dict[str, list[Lesson]] = {}
    lessons = heldout_lessons(count, seed)
    if system.thinking is not None:
        lessons = chain(lessons, heldout_thinking(system.thinking, count, seed))
    for kind, lesson in lessons:
        if not only or kind in only:
            kinds.setdefault(kind, []).append(lesson)
    return {kind: rate([one[0] for one in exact(engine, lessons, system)]) for kind, lessons in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("models/vino-tiny/text_encoder.safetensors"))
    parser.add_argument("--count", type=int, default=200, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    engine = load_engine(arguments.file, torch.float32)
    system = system_of(read_metadata(arguments.file), arguments.file)
    for kind, estimate in accuracies(engine, arguments.count, arguments.seed, system=system).items():
        print(f"{kind:24} {100 * estimate.value:5.1f}%  ({estimate.count})")


if __name__ == "__main__":
    main()
