"""Text from the VLM itself: rewriting a prompt before generation ("understand, then generate"), and plain questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..systems.base import System
from .encode import EncodedVisual, embed_prompt
from .engine import GREEDY, Sampling, VLMEngine
from .prompt import build_prompt


def rewrite_prompt(
    engine: VLMEngine,
    system: System,
    text: str,
    visuals: Sequence[EncodedVisual] = (),
    sampling: Sampling = GREEDY,
    on_token: Callable[[int], None] | None = None,
) -> str:
    """The caption that the VLM writes for the request `text` on its references, to be used as the prompt."""
    return _answer(engine, system, text, visuals, True, sampling, on_token)


def ask(
    engine: VLMEngine,
    system: System,
    question: str,
    visuals: Sequence[EncodedVisual] = (),
    sampling: Sampling = GREEDY,
    on_token: Callable[[int], None] | None = None,
) -> str:
    """The VLM's answer to a question, with the system sentence used for generation."""
    return _answer(engine, system, question, visuals, False, sampling, on_token)


def _answer(
    engine: VLMEngine,
    system: System,
    text: str,
    visuals: Sequence[EncodedVisual],
    understanding: bool,
    sampling: Sampling,
    on_token: Callable[[int], None] | None,
) -> str:
    plan = build_prompt(system, engine, text, [visual.item for visual in visuals], understanding)
    x, injection = embed_prompt(engine, plan, visuals)
    return engine.generate(x, plan.positions, injection, sampling, on_token)
