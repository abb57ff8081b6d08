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
    """`vlm_frames` uint8 [F, H, W, 3] as many as generation shows to the VLM, `frames` all of them."""

    frames: Tensor
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
    """A prompt after the VLM: `states` [1, n, hidden_size] as the engine gives them, and their cache.

    In training also several prompts [B, n, hidden_size] with references of the same sizes. Where their texts differ in
    length, `plan` is the longest one's and `padding` bool [B, n] is True behind each shorter one.
    """

    plan: PromptPlan
    states: Tensor
    cache: KVCache
    padding: Tensor | None = None


def patches_of(
    references: PreparedReferences, limits: VisionLimits, understanding: bool = False
) -> list[tuple[VisualItem, Tensor]]:
    """What the vision tower takes, [t*h*w, values of a patch] for each reference that is shown, images first."""
    if not (limits.shown or understanding):
        return []
    whole = understanding and limits.whole_clips
    clips = [video.frames if whole else video.vlm_frames for video in references.videos]
    prepared = [("image", *image_patches(image.pixels, limits)) for image in references.images]
    prepared += [("video", *video_patches(clip, limits)) for clip in clips]
    return [(VisualItem(kind, grid), patches) for kind, patches, grid in prepared]


def encode_visuals(
    engine: VLMEngine, references: PreparedReferences, limits: VisionLimits, understanding: bool = False
) -> tuple[EncodedVisual, ...]:
    """Run the vision tower once for each reference, images first. `understanding`: for text, see `VisionLimits`."""
    return tuple(
        EncodedVisual(item, engine.vision(patches, item.grid))
        for item, patches in patches_of(references, limits, understanding)
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
    engine: VLMEngine,
    system: System,
    branches: Sequence[BranchPrompt],
    visuals: Sequence[EncodedVisual],
    tags: bool = False,
) -> list[EncodedPrompt]:
    """Encode the prompts of a request, the visual prefix once per distinct list of references.

    The numbers of a branch do not depend on which other branches are encoded with it. `tags` switches the system's tags
    on, see `build_prompt`. Raises InputError for text that cannot be used.
    """
    prefixes: dict[tuple[int, ...], tuple[Tensor, KVCache]] = {}
    encoded = []
    for branch in branches:
        chosen = [visuals[index] for index in branch.references] if system.vision.shown else []
        plan = build_prompt(system, engine, branch.text, [visual.item for visual in chosen], tags=tags)
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


def append_tokens(engine: VLMEngine, encoded: EncodedPrompt, tokens: Tensor | None) -> Tensor:
    """What the MMDiT gets of a prompt and `tokens` [q, hidden_size] behind it: states [B, m, hidden_size], those of the
    tokens last. Which ones is the system's choice, see `TokenPlan`. Gradients flow to `tokens`; None is none of them.

    With more prompts than one the engine must be a `BatchEngine`. The tokens see nothing of the padding, and continue
    each prompt's own positions.

    Raises InputError when the tokens have another width than the text encoder, or when there are none but their marks.
    """
    plan = encoded.plan.tokens
    kept = encoded.states[:, plan.kept_from :] if plan.kept_from else encoded.states
    if tokens is None or tokens.shape[0] == 0:
        return kept
    if tokens.ndim != 2 or tokens.shape[1] != engine.hidden_size or tokens.shape[0] <= 2 * plan.marks:
        least = f"more than {2 * plan.marks}" if plan.marks else "any number"
        raise InputError(
            f"The learnable tokens have the shape {tuple(tokens.shape)}; the text encoder takes [{least}, "
            f"{engine.hidden_size}]. Load the tokens and the text encoder of the same model."
        )
    batch = encoded.states.shape[0]
    x = tokens.to(encoded.states).expand(batch, -1, -1)
    if plan.closing:
        x = torch.cat([x, engine.embed(plan.closing).to(x).expand(batch, -1, -1)], dim=1)
    count, padding = x.shape[1], encoded.padding
    if padding is None:
        places = appended_positions(encoded.plan.positions, count, plan.first)
        states, _ = engine.decode(x, places, past=encoded.cache)
    else:
        shared = encoded.plan.positions.to(padding.device)
        lengths = (~padding).sum(dim=1).tolist()
        own = [appended_positions(shared[:, :length], count, plan.first) for length in lengths]
        present = torch.nn.functional.pad(~padding, (0, count), value=True)
        states, _ = engine.decode(x, torch.stack(own, dim=1), past=encoded.cache, present=present)
    length = tokens.shape[0]
    return torch.cat([kept, states[:, length:], states[:, plan.marks : length - plan.marks]], dim=1)


def appended_padding(encoded: EncodedPrompt, tokens: Tensor | None) -> Tensor | None:
    """The padding of what `append_tokens` makes, bool [B, m]."""
    if encoded.padding is None:
        return None
    plan = encoded.plan.tokens
    count = 0 if tokens is None else tokens.shape[0]
    appended = count - 2 * plan.marks + len(plan.closing) if count else 0
    return torch.nn.functional.pad(encoded.padding[:, plan.kept_from :], (0, appended), value=False)
