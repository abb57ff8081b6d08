"""The learnable tokens behind each prompt."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..vino_core.encoder.encode import append_tokens
from ..vino_core.errors import InputError
from ..vino_core.sampling.guidance import Branch
from ..vino_core.systems.base import System
from .comfy.conditioning import ABSENT, BOUNDARIES, LEARNABLE, REFERENCES, SAME_AS_NEGATIVE, SYSTEM
from .comfy.systems import clip_system, expect_same
from .comfy.vlm import open_engine
from .types import Context, ContextType, EncodedBranch, LearnableTokens, TokensType

Conditioning = list[list[Any]]


class VINOLearnableTokens(io.ComfyNode):
    """Continues every branch with the learnable tokens and hands out CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOLearnableTokens",
            display_name="VINO Learnable Tokens",
            category="VINO/conditioning",
            description="Runs the model's learnable tokens behind each encoded prompt, on the text encoder's cache.",
            search_aliases=["metaquery", "query tokens", "embedding", "vino"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that made the context."),
                ContextType.Input("context", tooltip="From VINO Interleaved Encoder."),
                TokensType.Input(
                    "tokens",
                    optional=True,
                    tooltip="From VINO Tokens Loader. With nothing connected those that VINO Interleaved Encoder got. "
                    "Leave out both for a model without learnable tokens (VOGUE 'hidden').",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with all references."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with all references."),
                io.Conditioning.Output(
                    display_name="negative_image",
                    tooltip="The negative prompt without the images. Can only be used when image_scale was above 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, context: Context, tokens: LearnableTokens | None = None) -> io.NodeOutput:
        system = context.system
        expect_same("context", system, clip_system(clip), "the text encoder")
        tokens = context.tokens if tokens is None else tokens
        if tokens is not None:
            expect_same("tokens", tokens.system, system, "the text encoder")
        learnable = _expected(system, tokens)
        longest = max(branch.prompt.states.shape[1] for branch in context.branches.values())
        count = 0 if learnable is None else learnable.shape[0]
        with open_engine(clip, longest + count, len(context.branches) if count else 0) as engine:
            made = {
                branch: _conditioning(append_tokens(engine, encoded.prompt, learnable), encoded, system.name, count)
                for branch, encoded in context.branches.items()
            }
        positive, negative = made[Branch.POSITIVE], made[Branch.NEGATIVE]
        if Branch.NEGATIVE_IMAGE in made:
            third = made[Branch.NEGATIVE_IMAGE]
        elif context.repeats_negative:
            third = [[negative[0][0], {**negative[0][1], SAME_AS_NEGATIVE: True}]]
        else:
            third = [[torch.zeros_like(positive[0][0][:, :0]), {**_made_for(positive), ABSENT: _NOT_ENCODED}]]
        return io.NodeOutput(positive, negative, third)


_NOT_ENCODED = (
    "negative_image: it was not encoded, but image guidance is on. Set image_scale of VINO Interleaved Encoder above "
    "1, or image guidance at the sampler to 1."
)


def _expected(system: System, tokens: LearnableTokens | None) -> Tensor | None:
    """The learnable tokens. Raises InputError when there are some and the prompt was not laid out for any, or the other
    way round."""
    if tokens is None and system.learnable_tokens:
        raise InputError(
            f"tokens: nothing is connected, but {system.name} has learnable tokens. Load them with VINO Tokens Loader."
        )
    if tokens is not None and not system.learnable_tokens:
        raise InputError(
            "tokens: the prompt was encoded for a model without learnable tokens. Connect the tokens to VINO "
            "Interleaved Encoder too, or to neither of the two for a model that has none."
        )
    return None if tokens is None else tokens.values


def _conditioning(states: Tensor, branch: EncodedBranch, system: str, tokens: int) -> Conditioning:
    plan = branch.prompt.plan
    values = {
        SYSTEM: system,
        LEARNABLE: max(0, tokens - 2 * plan.tokens.marks),
        BOUNDARIES: plan.boundaries,
        REFERENCES: branch.references,
    }
    return [[states.to(comfy.model_management.intermediate_device()), values]]


def _made_for(conditioning: Conditioning) -> dict[str, Any]:
    return {name: conditioning[0][1][name] for name in (SYSTEM, LEARNABLE)}
