"""Text from the VLM itself: rewriting a prompt before generation ("understand, then generate"), and plain questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import InputError
from ..systems.base import System
from .encode import EncodedVisual, embed_prompt
from .engine import Sampling, VLMEngine
from .prompt import build_prompt


def rewrite_prompt(
    engine: VLMEngine,
    system: System,
    text: str,
    visuals: Sequence[EncodedVisual] = (),
    sampling: Sampling | None = None,
    on_token: Callable[[int], None] | None = None,
) -> str:
    """The caption that the VLM writes for the request `text` on its references, to be used as the prompt.

    `sampling` None is `usual_sampling`.
    """
    return _answer(engine, system, text, visuals, True, sampling, on_token)


def ask(
    engine: VLMEngine,
    system: System,
    question: str,
    visuals: Sequence[EncodedVisual] = (),
    sampling: Sampling | None = None,
    on_token: Callable[[int], None] | None = None,
) -> str:
    """The VLM's answer to a question, with the system sentence used for generation.

    `sampling` None is `usual_sampling`. Raises InputError when the answer is empty.
    """
    answer = _answer(engine, system, question, visuals, False, sampling, on_token)
    if not answer.strip():
        raise InputError(
            "answer: the text encoder wrote nothing. Show it what the question is about (VINO References, or --image "
            "and --video), ask in other words, or, in VINO Ask, try another seed with a temperature above 0."
        )
    return answer


def usual_sampling(system: System) -> Sampling:
    """The most likely text, as long as the system's answers may be and with its repetition penalty."""
    template = system.prompt
    return Sampling(max_new_tokens=template.answer_tokens, repetition_penalty=template.repetition_penalty)


def _answer(
    engine: VLMEngine,
    system: System,
    text: str,
    visuals: Sequence[EncodedVisual],
    understanding: bool,
    sampling: Sampling | None,
    on_token: Callable[[int], None] | None,
) -> str:
    plan = build_prompt(system, engine, text, [visual.item for visual in visuals], understanding, answering=True)
    x, injection = embed_prompt(engine, plan, visuals)
    return engine.generate(x, plan.positions, injection, sampling or usual_sampling(system), on_token, plan.ids)
