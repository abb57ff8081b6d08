"""Text from the text encoder itself: rewriting a prompt, answering a question, thinking about a drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.utils
from comfy_api.latest import io

from ..vino_core.encoder.encode import encode_visuals
from ..vino_core.encoder.engine import Sampling
from ..vino_core.encoder.think import think
from ..vino_core.encoder.understand import ask, check_question, rewrite_prompt
from ..vino_core.systems import THINKING, check_thinking
from .comfy.systems import clip_system
from .comfy.vlm import open_engine
from .encode import expected_tokens
from .types import PreparedReferences, ReferencesType

Answer = TypeVar("Answer")


def _inputs(name: str, tooltip: str, *before: io.Input, longest: int = 256) -> list[io.Input]:
    """The inputs of a node that writes: `name` is its text, `before` what stands in front of that."""
    return [
        io.Clip.Input(
            "clip",
            tooltip="Qwen3-VL-4B-Instruct (VINO) or another system's text encoder. Of Qwen2.5-VL-7B-Instruct (VOGUE) a "
            "file with lm_head.weight, the layer that writes text.",
        ),
        ReferencesType.Input("references", tooltip="What the text talks about, from VINO References."),
        *before,
        io.String.Input(name, multiline=True, dynamic_prompts=True, tooltip=tooltip),
        io.Int.Input("max_new_tokens", default=longest, min=1, max=4096, tooltip="Longest answer, in tokens."),
        io.Float.Input(
            "temperature",
            default=0.0,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="0 always gives the most likely answer; more gives more varied ones.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 1,
            control_after_generate=True,
            tooltip="Fixes the answer when temperature is above 0.",
        ),
    ]


def _write(
    write: Callable[..., Answer],
    clip: io.Clip.Type,
    references: PreparedReferences,
    text: str,
    tokens: int,
    temperature: float,
    seed: int,
    texts: int = 1,
) -> Answer:
    """What `write` gives for `text` and the references, which is so many `texts` of at most `tokens` tokens."""
    system = clip_system(clip)
    prepared = references.for_system(system)
    progress = comfy.utils.ProgressBar(texts * tokens)
    visuals = len(prepared.images) + len(prepared.videos)
    expected = expected_tokens(system, prepared, understanding=True) + texts * tokens
    with open_engine(clip, expected, visuals=visuals) as engine:
        seen = encode_visuals(engine, prepared, system.vision, understanding=True)
        penalty = system.prompt.repetition_penalty
        sampling = Sampling(tokens, temperature, seed=seed, repetition_penalty=penalty)
        return write(engine, system, text, seen, sampling, progress.update_absolute)


class VINOPromptRewriter(io.ComfyNode):
    """Understand, then generate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOPromptRewriter",
            display_name="VINO Prompt Rewriter",
            category="VINO/understanding",
            description="Lets the text encoder write the caption of what your instruction asks for, from the "
            "references. Use its output as the prompt.",
            search_aliases=["prompt enhance", "prompt upsample", "caption", "understand then generate"],
            inputs=_inputs("prompt", "The instruction, as you would give it to VINO Interleaved Encoder."),
            outputs=[io.String.Output(display_name="prompt", tooltip="The caption.")],
        )

    @classmethod
    def execute(
        cls,
        clip: io.Clip.Type,
        references: PreparedReferences,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> io.NodeOutput:
        return io.NodeOutput(_write(rewrite_prompt, clip, references, prompt, max_new_tokens, temperature, seed))


class VINOAsk(io.ComfyNode):
    """Questions about pictures and videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOAsk",
            display_name="VINO Ask",
            category="VINO/understanding",
            description="Answers a question about the references with the text encoder.",
            search_aliases=["vqa", "describe image", "describe video", "caption", "qwen vl"],
            inputs=_inputs("question", "What you want to know."),
            outputs=[io.String.Output(display_name="answer", tooltip="The answer.")],
        )

    @classmethod
    def execute(
        cls,
        clip: io.Clip.Type,
        references: PreparedReferences,
        question: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> io.NodeOutput:
        check_question(question)
        return io.NodeOutput(_write(ask, clip, references, question, max_new_tokens, temperature, seed))


class VINOThink(io.ComfyNode):
    """Thinking mode: from what is drawn in a picture to a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        kind = io.Combo.Input(
            "kind",
            options=list(THINKING),
            tooltip="annotated: a picture on which arrows, circles or words are drawn; it becomes the first frame, "
            "with task i2v in VINO References. canvas: reference pictures and a story plan drawn on a canvas, with "
            "task multiid there.",
        )
        return io.Schema(
            node_id="VINOThink",
            display_name="VINO Think",
            category="VINO/understanding",
            description="Lets the text encoder read what is drawn in a picture: it writes a plan, and from it the "
            "prompt of the video. VOGUE only.",
            search_aliases=["thinking mode", "visual prompt", "annotation", "storyboard", "canvas", "plan"],
            inputs=_inputs("prompt", "What you want to add to the drawing in words; may be empty.", kind, longest=1000),
            outputs=[
                io.String.Output(display_name="plan", tooltip="What the text encoder takes the drawing to mean."),
                io.String.Output(display_name="prompt", tooltip="For VINO Interleaved Encoder."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: io.Clip.Type,
        references: PreparedReferences,
        kind: str,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> io.NodeOutput:
        system = clip_system(clip)
        check_thinking(system, kind, references.task_for(system), "Choose the task {} in VINO References.")
        thought = _write(
            lambda engine, system, *rest: think(engine, system, kind, *rest),
            clip,
            references,
            prompt,
            max_new_tokens,
            temperature,
            seed,
            texts=2,
        )
        return io.NodeOutput(thought.plan, thought.prompt)
