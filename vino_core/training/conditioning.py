"""The frozen half of a training step: samples of one layout through VLM and VAE together, without gradients.

Samples that differ in the length of their texts run as one padded batch, whose padding nothing sees. The learnable
tokens come later, as a continuation on the cache that is made here, with gradients. Attention is causal, so this equals
a full pass (a test compares the gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..encoder.encode import EncodedPrompt, EncodedVisual, PreparedReferences, embed_prompts, patches_of
from ..encoder.engine import BatchEngine, VLMEngine
from ..encoder.prompt import PromptPlan, VisualItem, build_prompt
from ..mmdit.batch import by_length, padding_of
from ..systems.base import System, VisionLimits
from ..vae import VAE
from .prepare import Prepared

_Any = TypeVar("_Any")


@dataclass(frozen=True, eq=False)
class Group:
    """Samples of one layout: `members` are their numbers in the local batch.

    Either `prompt` (states [B, n, width] and cache) or, in stage 0, the token `ids` [B, n]. `lengths`: each sample's
    tokens before the padding, `padding` bool [B, n] is True behind them, or None when there is none. `target` are the
    scaled latents [B, 16, t, h, w] that are learned, `references` those before them and `conditions` those behind.
    """

    members: tuple[int, ...]
    lengths: tuple[int, ...]
    target: Tensor
    references: tuple[Tensor, ...] = ()
    conditions: tuple[Tensor, ...] = ()
    prompt: EncodedPrompt | None = None
    ids: Tensor | None = None
    padding: Tensor | None = None

    @property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """Rows of the references' boundary tokens; none when no reference is packed."""
        return self.prompt.plan.boundaries if self.prompt is not None and self.references else ()


@dataclass(frozen=True, eq=False)
class _Member:
    number: int
    sample: Prepared
    plan: PromptPlan
    visuals: tuple[EncodedVisual, ...]


@torch.no_grad()
def encode_samples(
    engine: BatchEngine, vae: VAE, system: System, samples: Sequence[Prepared], device: torch.device | str
) -> list[Group]:
    """Encode samples, those of one layout together."""
    layouts: dict[tuple, list[_Member]] = {}
    seen = _visuals(engine, [sample.references for sample in samples], system.vision)
    for number, (sample, visuals) in enumerate(zip(samples, seen, strict=True)):
        items = tuple(visual.item for visual in visuals)
        shapes = tuple(tuple(pixels.shape) for pixels in sample.pixels)
        member = _Member(number, sample, build_prompt(system, engine, sample.text, items), visuals)
        layout = items, shapes, tuple(sample.target.shape), sample.arrangement, sample.given
        layouts.setdefault(layout, []).append(member)
    groups = []
    for members in _batches(layouts, lambda member: len(member.plan.ids)):
        lengths = tuple(len(member.plan.ids) for member in members)
        longest = members[lengths.index(max(lengths))].plan
        x, injection = embed_prompts(
            engine, [member.plan for member in members], [member.visuals for member in members]
        )
        # Padding stands behind every token of a sample, so causal attention hides it without a mask.
        states, cache = engine.decode(x, longest.positions, injection)
        padding = padding_of(lengths, states.device)
        chosen = [member.sample for member in members]
        packed, places = _references(vae, chosen, device), chosen[0].arrangement
        groups.append(
            Group(
                members=tuple(member.number for member in members),
                lengths=lengths,
                target=_targets(vae, chosen, device)[:, :, chosen[0].given :],
                references=tuple(packed[index] for index in places.leading),
                conditions=tuple(packed[index] for index in places.after),
                prompt=EncodedPrompt(longest, states, cache, padding),
                padding=padding,
            )
        )
    return groups


@torch.no_grad()
def encode_plain(engine: VLMEngine, vae: VAE, samples: Sequence[Prepared], device: torch.device | str) -> list[Group]:
    """The samples of stage 0: token ids and target, no VLM."""
    layouts: dict[tuple, list[tuple[int, Prepared, list[int]]]] = {}
    for number, sample in enumerate(samples):
        ids = list(engine.tokenize(sample.text)) or [0]
        layouts.setdefault(tuple(sample.target.shape), []).append((number, sample, ids))
    groups = []
    for members in _batches(layouts, lambda member: len(member[2])):
        lengths = tuple(len(ids) for _, _, ids in members)
        rows = [ids + [0] * (max(lengths) - len(ids)) for _, _, ids in members]
        groups.append(
            Group(
                members=tuple(number for number, _, _ in members),
                lengths=lengths,
                target=_targets(vae, [sample for _, sample, _ in members], device),
                ids=torch.tensor(rows, device=device),
                padding=padding_of(lengths, device),
            )
        )
    return groups


def _batches(layouts: Mapping[Any, Sequence[_Any]], length: Callable[[_Any], int]) -> Iterator[list[_Any]]:
    """The samples of each layout, those together whose texts are about as long."""
    for members in layouts.values():
        for batch in by_length([length(member) for member in members]):
            yield [members[number] for number in batch]


def _visuals(
    engine: BatchEngine, references: Sequence[PreparedReferences], limits: VisionLimits
) -> list[tuple[EncodedVisual, ...]]:
    """Each sample's references after the vision tower, those of one size through it together."""
    prepared = [patches_of(each, limits) for each in references]
    sizes: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for number, sample in enumerate(prepared):
        for place, (item, _) in enumerate(sample):
            sizes.setdefault(item.grid, []).append((number, place))
    encoded: list[list[EncodedVisual]] = [[None] * len(sample) for sample in prepared]
    for grid, places in sizes.items():
        patches = torch.stack([prepared[number][place][1] for number, place in places])
        for (number, place), features in zip(places, engine.visions(patches, grid), strict=True):
            item: VisualItem = prepared[number][place][0]
            encoded[number][place] = EncodedVisual(item, features)
    return [tuple(sample) for sample in encoded]


def _targets(vae: VAE, samples: Sequence[Prepared], device: torch.device | str) -> Tensor:
    ready = [sample.latents and sample.latents.target for sample in samples]
    return _latents(vae, [sample.target for sample in samples], ready, device)


def _references(vae: VAE, samples: Sequence[Prepared], device: torch.device | str) -> tuple[Tensor, ...]:
    """Packed references by their place in the prompt."""
    clips = [sample.pixels for sample in samples]
    return tuple(
        _latents(
            vae,
            [pixels[place] for pixels in clips],
            [sample.latents and sample.latents.references[place] for sample in samples],
            device,
        )
        for place in range(len(clips[0]))
    )


def _latents(vae: VAE, clips: Sequence[Tensor], ready: Sequence[Tensor | None], device: torch.device | str) -> Tensor:
    """Scaled latents [B, 16, t, h, w] of clips of one size, made here where they are not `ready`."""
    missing = [clip for clip, latents in zip(clips, ready, strict=True) if latents is None]
    made = iter(vae.encode_batch(torch.stack(missing))) if missing else iter(())
    found = [next(made) if latents is None else latents for latents in ready]
    return torch.stack([latents.to(device, torch.float32) for latents in found])
