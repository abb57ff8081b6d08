"""A request's prompts through the VLM, with every shared part computed once.

The vision tower runs once per reference. Attention is causal, so what stands before a text does not depend on it:
prompts with the same references continue one cached prefix, and the learnable tokens continue the prompt's cache. Both
give the numbers of a single full pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..systems.base import System, VisionLimits
from .engine import KVCache, VisionFeatures, VisualInjection, VLMEngine
from .positions import appended_positions
from .prompt import PromptPlan, VisualItem, build_prompt
from .visual import image_patches, video_patches


class PreparedImage(Protocol):
    """`pixels` uint8 [H, W, 3]."""

    pixels: Tensor


class PreparedVideo(Protocol):
    """`vlm_frames` uint8 [8, H, W, 3]."""

    vlm_frames: Tensor


class PreparedReferences(Protocol):
    """Images and videos in prompt order."""

    images: Sequence[PreparedImage]
    videos: Sequence[PreparedVideo]


@dataclass(frozen=True, eq=False)
class EncodedVisual:
    """One reference after the vision tower."""

    item: VisualItem
    features: VisionFeatures


@dataclass(frozen=True)
class BranchPrompt:
    """One prompt of a request: its text and the references it sees, by their index in the request."""

    text: str
    references: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt after the VLM: `states` [1, n, hidden_size] entering the last decoder layer, and their cache."""

    plan: PromptPlan
    states: Tensor
    cache: KVCache


def encode_visuals(
    engine: VLMEngine, references: PreparedReferences, limits: VisionLimits
) -> tuple[EncodedVisual, ...]:
    """Run the vision tower once for each reference, images first."""

    def encode(kind: str, prepared: tuple[Tensor, tuple[int, int, int]]) -> EncodedVisual:
        patches, grid = prepared
        return EncodedVisual(VisualItem(kind, grid), engine.vision(patches, grid))

    return (
        *(encode("image", image_patches(image.pixels, limits)) for image in references.images),
        *(encode("video", video_patches(video.vlm_frames, limits)) for video in references.videos),
    )


def embed_prompt(
    engine: VLMEngine, plan: PromptPlan, visuals: Iterable[EncodedVisual]
) -> tuple[Tensor, VisualInjection | None]:
    """Token embeddings [1, n, hidden_size] with the visuals' in place of their pads, and their deepstack features."""
    x = engine.embed(plan.ids)
    features = [visual.features for visual in visuals]
    if not features:
        return x, None
    mask = torch.zeros(len(plan.ids), dtype=torch.bool, device=x.device)
    for start, end in plan.visual_spans:
        mask[start:end] = True
    x = x.clone()
    x[0, mask] = torch.cat([feature.embeds for feature in features]).to(x)
    deepstack = zip(*(feature.deepstack for feature in features), strict=True)
    return x, VisualInjection(mask, tuple(torch.cat(level).to(x) for level in deepstack))


def encode_branches(
    engine: VLMEngine, system: System, branches: Sequence[BranchPrompt], visuals: Sequence[EncodedVisual]
) -> list[EncodedPrompt]:
    """Encode the prompts of a request, the visual prefix once per distinct list of references.

    The numbers of a branch do not depend on which other branches are encoded with it. Raises InputError for text that
    cannot be used.
    """
    prefixes: dict[tuple[int, ...], tuple[Tensor, KVCache]] = {}
    encoded = []
    for branch in branches:
        chosen = [visuals[index] for index in branch.references]
        plan = build_prompt(system, engine, branch.text, [visual.item for visual in chosen])
        x, injection = embed_prompt(engine, plan, chosen)
        if injection is None:
            states, cache = engine.decode(x, plan.positions)
        else:
            length = plan.prefix_length
            if branch.references not in prefixes:
                visible = VisualInjection(injection.mask[:length], injection.deepstack)
                prefixes[branch.references] = engine.decode(x[:, :length], plan.positions[:, :length], visible)
            before, past = prefixes[branch.references]
            behind, cache = engine.decode(x[:, length:], plan.positions[:, length:], past=past)
            states = torch.cat([before, behind], dim=1)
        encoded.append(EncodedPrompt(plan, states, cache))
    return encoded


def append_tokens(engine: VLMEngine, encoded: EncodedPrompt, tokens: Tensor) -> Tensor:
    """States [B, n + q, hidden_size] of a prompt and `tokens` [q, hidden_size] behind it. Gradients flow to `tokens`.

    B is 1, or the number of prompts of one layout that were decoded together.

    Raises InputError when the tokens have another width than the text encoder.
    """
    if tokens.ndim != 2 or tokens.shape[1] != engine.hidden_size:
        raise InputError(
            f"The learnable tokens have the shape {tuple(tokens.shape)}; the text encoder takes [any number, "
            f"{engine.hidden_size}]. Load the tokens and the text encoder of the same model."
        )
    if tokens.shape[0] == 0:
        return encoded.states
    x = tokens.to(encoded.states).expand(encoded.states.shape[0], -1, -1)
    positions = appended_positions(encoded.plan.positions, tokens.shape[0])
    states, _ = engine.decode(x, positions, past=encoded.cache)
    return torch.cat([encoded.states, states], dim=1)
