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
    """A prompt after the VLM: `states` [1, n, hidden_size] entering the last decoder layer, and their cache.

    In training also several prompts [B, n, hidden_size] with references of the same sizes. Where their texts differ in
    length, `plan` is the longest one's and `padding` bool [B, n] is True behind each shorter one.
    """

    plan: PromptPlan
    states: Tensor
    cache: KVCache
    padding: Tensor | None = None


def patches_of(references: PreparedReferences, limits: VisionLimits) -> list[tuple[VisualItem, Tensor]]:
    """What the vision tower takes, [t*h*w, 1536] for each reference, images first."""
    prepared = [("image", *image_patches(image.pixels, limits)) for image in references.images]
    prepared += [("video", *video_patches(video.vlm_frames, limits)) for video in references.videos]
    return [(VisualItem(kind, grid), patches) for kind, patches, grid in prepared]


def encode_visuals(
    engine: VLMEngine, references: PreparedReferences, limits: VisionLimits
) -> tuple[EncodedVisual, ...]:
    """Run the vision tower once for each reference, images first."""
    return tuple(
        EncodedVisual(item, engine.vision(patches, item.grid)) for item, patches in patches_of(references, limits)
    )


def embed_prompt(
    engine: VLMEngine, plan: PromptPlan, visuals: Iterable[EncodedVisual]
) -> tuple[Tensor, VisualInjection | None]:
    """Token embeddings [1, n, hidden_size] with the visuals' in place of their pads, and their deepstack features."""
    return embed_prompts(engine, [plan], [tuple(visuals)])


def embed_prompts(
    engine: VLMEngine, plans: Sequence[PromptPlan], visuals: Sequence[Sequence[EncodedVisual]]
) -> tuple[Tensor, VisualInjection | None]:
    """As `embed_prompt` for prompts whose references have the same sizes: [B, n, hidden_size], n the longest's tokens.

    The ids behind a shorter one are of no meaning.
    """
    longest = max(plans, key=lambda plan: len(plan.ids))
    length = len(longest.ids)
    x = engine.embed([token for plan in plans for token in (*plan.ids, *[0] * (length - len(plan.ids)))])
    x = x.view(len(plans), length, -1)
    features = [visual.features for sample in visuals for visual in sample]
    if not features:
        return x, None
    mask = torch.zeros(length, dtype=torch.bool, device=x.device)
    for start, end in longest.visual_spans:
        mask[start:end] = True
    x = x.clone()
    x[mask.expand(len(plans), -1)] = torch.cat([feature.embeds for feature in features]).to(x)
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

    With more prompts than one the engine must be a `BatchEngine`. The tokens see nothing of the padding, and continue
    each prompt's own positions.

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
    count, padding = tokens.shape[0], encoded.padding
    if padding is None:
        states, _ = engine.decode(x, appended_positions(encoded.plan.positions, count), past=encoded.cache)
    else:
        places = encoded.plan.positions.to(padding.device)
        own = [appended_positions(places[:, :length], count) for length in (~padding).sum(dim=1).tolist()]
        present = torch.nn.functional.pad(~padding, (0, count), value=True)
        states, _ = engine.decode(x, torch.stack(own, dim=1), past=encoded.cache, present=present)
    return torch.cat([encoded.states, states], dim=1)
