"""The learnable tokens behind each prompt."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..vino_core.encoder.encode import append_tokens
from ..vino_core.sampling.guidance import Branch
from .comfy.conditioning import ABSENT, BOUNDARIES, REFERENCES, SAME_AS_NEGATIVE, SYSTEM
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
                TokensType.Input("tokens", tooltip="From VINO Tokens Loader."),
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
    def execute(cls, clip: io.Clip.Type, context: Context, tokens: LearnableTokens) -> io.NodeOutput:
        system = clip_system(clip)
        expect_same("context", context.system, system, "the text encoder")
        expect_same("tokens", tokens.system, system, "the text encoder")
        learnable = tokens.values
        longest = max(branch.prompt.states.shape[1] for branch in context.branches.values())
        with open_engine(clip, longest + learnable.shape[0], len(context.branches)) as engine:
            made = {
                branch: _conditioning(append_tokens(engine, encoded.prompt, learnable), encoded, system.name)
                for branch, encoded in context.branches.items()
            }
        positive, negative = made[Branch.POSITIVE], made[Branch.NEGATIVE]
        if Branch.NEGATIVE_IMAGE in made:
            third = made[Branch.NEGATIVE_IMAGE]
        elif context.repeats_negative:
            third = [[negative[0][0], {**negative[0][1], SAME_AS_NEGATIVE: True}]]
        else:
            third = [[torch.zeros(1, 0, learnable.shape[1]), {ABSENT: _NOT_ENCODED, SYSTEM: system.name}]]
        return io.NodeOutput(positive, negative, third)


_NOT_ENCODED = (
    "negative_image: it was not encoded, but image guidance is on. Set image_scale of VINO Interleaved Encoder above "
    "1, or image guidance at the sampler to 1."
)


def _conditioning(states: Tensor, branch: EncodedBranch, system: str) -> Conditioning:
    values = {SYSTEM: system, BOUNDARIES: branch.prompt.plan.boundaries, REFERENCES: branch.references}
    return [[states.to(comfy.model_management.intermediate_device()), values]]
