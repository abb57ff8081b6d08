"""Text from the VLM itself: rewriting a prompt before generation ("understand, then generate"), and plain questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import InputError
from ..systems.base import System
from .encode import EncodedVisual, embed_prompt
from .engine import Sampling, VLMEngine
from .prompt import build_prompt

NO_PROMPT = (
    "rewritten prompt: the text encoder wrote nothing. Ask in other words, or generate from your own prompt, without "
    "--understand. In VINO Prompt Rewriter, try another seed with a temperature above 0."
)
NO_ANSWER = (
    "answer: the text encoder wrote nothing. Show it what the question is about (VINO References, or --image and "
    "--video), ask in other words, or, in VINO Ask, try another seed with a temperature above 0."
)


def check_question(question: str) -> None:
    """Raise InputError for a question without words."""
    if not question.strip():
        raise InputError("question: it is empty. Write what you want to know (at VINO Ask, or with --prompt).")


def rewrite_prompt(
    engine: VLMEngine,
    system: System,
    text: str,
    visuals: Sequence[EncodedVisual] = (),
    sampling: Sampling | None = None,
    on_token: Callable[[int], None] | None = None,
    nothing: str = NO_PROMPT,
) -> str:
    """The caption that the VLM writes for the request `text` on its references, to be used as the prompt.

    `sampling` None is `usual_sampling`. Raises InputError, saying `nothing`, when it writes none.
    """
    return _answer(engine, system, text, visuals, True, sampling, on_token, nothing)


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
    return _answer(engine, system, question, visuals, False, sampling, on_token, NO_ANSWER)


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
    nothing: str,
) -> str:
    plan = build_prompt(system, engine, text, [visual.item for visual in visuals], understanding, answering=True)
    x, injection = embed_prompt(engine, plan, visuals)
    sampling = sampling or usual_sampling(system)
    answer = engine.generate(x, plan.positions, injection, sampling, on_token, plan.ids)
    if not answer.strip():
        raise InputError(nothing)
    return answer
