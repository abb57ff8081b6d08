"""Thinking mode: the VLM reads what is drawn in a picture and writes the prompt (VOGUE paper sections 2.3 and 3.3.2).

An annotated picture (arrows, circles, scribbled words) goes on as a video that begins with it; a canvas (reference
pictures and a story plan) as a video of what it shows. The prompt's own tokens then condition the MMDiT, as any other's
do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..systems import get_thinking
from ..systems.base import System
from .encode import EncodedVisual
from .engine import Sampling, VLMEngine
from .prompt import check_text
from .understand import rewrite_prompt, usual_sampling


@dataclass(frozen=True)
class Thought:
    """The plan, in the VLM's own words, and the prompt to generate from."""

    plan: str
    prompt: str


def think(
    engine: VLMEngine,
    system: System,
    kind: str,
    text: str,
    visuals: Sequence[EncodedVisual],
    sampling: Sampling | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Thought:
    """Write a plan of what the drawing means, then, from it, the prompt: two texts about the same encoded visuals.

    `kind` is one of the system's kinds of drawn pictures, such as "annotated" and "canvas"; `text` what the user adds,
    which may be empty. `sampling` None is `usual_sampling`, and holds for each text. `on_token` is called before each
    token with a number that rises to twice the longest text, and may raise to stop.

    Raises InputError for a system without thinking mode, references that the kind's task cannot take, a text or plan
    that is too long for the second request, and when the VLM answers nothing.
    """
    check_text(text)
    thinking = get_thinking(system, kind)
    kinds = [visual.item.kind for visual in visuals]
    system.arrange(thinking.task, kinds.count("image"), kinds.count("video"))
    sampling = sampling or usual_sampling(system)

    def write(name: str, request: str, before: int) -> str:
        _check_length(engine, system, name, request)
        report = on_token and (lambda count: on_token(before + count))
        nothing = (
            f"thinking: the text encoder wrote nothing where the {name} should be. Say in the prompt what the drawing "
            "means, try another seed with a temperature above 0, or write the prompt yourself and generate without "
            "thinking."
        )
        return rewrite_prompt(engine, system, request, visuals, sampling, report, nothing)

    plan = write("plan", thinking.request_for_plan(text), 0)
    return Thought(plan, write("prompt", thinking.request_for_prompt(text, plan), sampling.max_new_tokens))


def _check_length(engine: VLMEngine, system: System, name: str, request: str) -> None:
    """Raise InputError for a request of which the system would not read the end."""
    limit, count = system.prompt.max_text_tokens, len(engine.tokenize(request))
    if limit is not None and count > limit:
        raise InputError(
            f"thinking: the request for the {name} has {count} tokens with what you wrote and the plan so far; "
            f"{system.name} reads {limit}. Shorten the prompt, or allow fewer new tokens."
        )
