"""Drawings of the toy world for thinking mode, and whether what the text encoder writes about one is what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from toy_runs import ToyRun

from tools.tiny.vlm_drawings import SAYS, Drawing, drawing_of
from tools.tiny.vlm_questions import Last
from vino_core.toyworld.captions import moves
from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.sampling import label
from vino_core.toyworld.world import Sprite

WORKFLOWS = {"annotated": "vogue_think_annotated", "canvas": "vogue_think_canvas"}


class Drawn(NamedTuple):
    """An example whose picture is a drawing of one subject, the drawing itself, and the subject."""

    toy: ToyExample
    drawing: Drawing
    subject: Sprite

    def in_plan(self, plan: str) -> bool:
        """Whether the plan names the subject's colour and shape, and what is drawn at it."""
        name = label(self.subject).split()
        return all(word in plan.replace(",", " ").split() for word in name) and SAYS[self.subject.motion.kind] in plan

    def in_prompt(self, prompt: str) -> bool:
        """Whether the prompt names the subject, and the motion that the mark stands for."""
        return f"the {label(self.subject)}" in prompt.lower() and moves(self.subject.motion, Last()) in prompt


def workflow_of(kind: str) -> ToyRun:
    """The shipped workflow for drawings of one subject."""
    return ToyRun(WORKFLOWS[kind], "t2v", "one sprite")


def drawn(kind: str, count: int) -> list[Drawn]:
    """The first drawings of a kind, of scenes that training never shows."""
    return list(islice(_drawn(kind), count))


def _drawn(kind: str) -> Iterator[Drawn]:
    for toy in workflow_of(kind).examples():
        drawing = drawing_of(Random(toy.example.id), kind, toy.truth.target)
        assert drawing is not None and drawing.words == toy.example.prompt
        (subject,) = toy.truth.target.sprites
        yield Drawn(toy, drawing, subject)
