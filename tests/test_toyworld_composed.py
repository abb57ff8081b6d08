"""Two edits in one instruction: the toy world draws the truth of both, and half of it does not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vino_core.toyworld.edits import Edit, recolour, remove, restyle
from vino_core.toyworld.plans import Plan, ToyExample, drawn
from vino_core.toyworld.sampling import Draw, Unfit, scene
from vino_core.toyworld.scorers import score
from vino_core.toyworld.world import Scene

SECOND = {"recolour and style": restyle, "recolour and remove": remove}


def _composed(draw: Draw, kind: str) -> tuple[Plan, Scene, Scene]:
    """The plan of both edits of one picture, and the scenes of either alone. Raises Unfit."""
    before = scene(draw, 2, patterned=0.2)
    first = recolour(draw, before, "Image 1")
    second: Edit = SECOND[kind](draw, before, "Image 1")
    if kind == "recolour and style":
        both = replace(first.target, style=second.target.style)
        if both.style.kind in ("greyscale", "sepia"):  # in which some colours are nearly the same
            raise Unfit
    else:
        both = replace(first.target, sprites=tuple(
            new for new, old in zip(first.target.sprites, before.sprites, strict=True) if old in second.target.sprites
        ))  # fmt: skip
        if both.sprites == second.target.sprites:  # what was recoloured is gone
            raise Unfit
    prompt = f"{first.prompt[:-1]}, and {second.prompt[0].lower()}{second.prompt[1:]}"
    plan = Plan("ti2i", kind, prompt, both, False, images=(before,), source=before)
    return plan, first.target, second.target


def composed(kind: str, index: int) -> tuple[ToyExample, list[ToyExample]]:
    """Example `index` of two edits in one instruction, and what each edit alone would draw."""
    draw = Draw("heldout", 5, len(kind), index)
    for _ in range(10_000):
        try:
            plan, *halves = _composed(draw, kind)
        except Unfit:
            continue
        name = f"composed-{kind}-{index}"
        return drawn(plan, name, 64, 9), [drawn(replace(plan, target=half), name, 64, 9) for half in halves]
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", SECOND)
def test_only_both_edits_together_pass(kind: str) -> None:
    for index in range(16):
        toy, halves = composed(kind, index)
        assert toy.example.prompt.count("Image 1") == 2
        assert score(toy.example.target, toy).passed, toy.truth
        for half in (*halves, replace(toy, example=replace(toy.example, target=toy.example.images[0][None]))):
            assert not score(half.example.target, toy).passed, (toy.truth, half.truth.target)
