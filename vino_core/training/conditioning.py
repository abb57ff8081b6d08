"""The frozen half of a training step: samples of one layout through VLM and VAE together, without gradients.

The learnable tokens come later, as a continuation on the cache that is made here, with gradients. Attention is causal,
so this equals a full pass (a test compares the gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoder.encode import EncodedPrompt, embed_prompt, encode_visuals
from ..encoder.engine import VisualInjection, VLMEngine
from ..encoder.prompt import build_prompt
from ..systems.base import System
from ..vae import VAE
from .prepare import Prepared


@dataclass(frozen=True, eq=False)
class Group:
    """Samples of one layout: `members` are their numbers in the local batch.

    Either `prompt` (states [B, n, width] and cache) or, in stage 0, the token `ids` [B, n]. `references` and `target`
    are scaled latents [B, 16, t, h, w].
    """

    members: tuple[int, ...]
    target: Tensor
    references: tuple[Tensor, ...] = ()
    prompt: EncodedPrompt | None = None
    ids: Tensor | None = None

    @property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """Rows of the references' boundary tokens; none when no reference is packed."""
        return self.prompt.plan.boundaries if self.prompt is not None and self.references else ()


@torch.no_grad()
def encode_samples(
    engine: VLMEngine, vae: VAE, system: System, samples: Sequence[Prepared], device: torch.device | str
) -> list[Group]:
    """Encode samples, those of one layout together."""
    entries: dict[tuple, list[tuple[int, Prepared, object, tuple]]] = {}
    for number, sample in enumerate(samples):
        visuals = encode_visuals(engine, sample.references, system.vision)
        plan = build_prompt(system, engine, sample.text, [visual.item for visual in visuals])
        grids = tuple(visual.item for visual in visuals)
        shapes = tuple(tuple(pixels.shape) for pixels in sample.pixels)
        key = (len(plan.ids), grids, shapes, tuple(sample.target.shape))
        entries.setdefault(key, []).append((number, sample, plan, visuals))
    groups = []
    for members in entries.values():
        embedded = [embed_prompt(engine, plan, visuals) for _, _, plan, visuals in members]
        x = torch.cat([states for states, _ in embedded])
        plan = members[0][2]
        states, cache = engine.decode(x, plan.positions, _together([injection for _, injection in embedded]))
        chosen = [sample for _, sample, _, _ in members]
        groups.append(
            Group(
                members=tuple(number for number, _, _, _ in members),
                target=_latents(vae, [sample.target for sample in chosen], device),
                references=tuple(
                    _latents(vae, list(pixels), device)
                    for pixels in zip(*(sample.pixels for sample in chosen), strict=True)
                ),
                prompt=EncodedPrompt(plan, states, cache),
            )
        )
    return groups


@torch.no_grad()
def encode_plain(engine: VLMEngine, vae: VAE, samples: Sequence[Prepared], device: torch.device | str) -> list[Group]:
    """The samples of stage 0: token ids and target, no VLM."""
    members: dict[tuple, list[tuple[int, Prepared, list[int]]]] = {}
    for number, sample in enumerate(samples):
        ids = list(engine.tokenize(sample.text)) or [0]
        members.setdefault((len(ids), tuple(sample.target.shape)), []).append((number, sample, ids))
    return [
        Group(
            members=tuple(number for number, _, _ in group),
            target=_latents(vae, [sample.target for _, sample, _ in group], device),
            ids=torch.tensor([ids for _, _, ids in group], device=device),
        )
        for group in members.values()
    ]


def _together(injections: Sequence[VisualInjection | None]) -> VisualInjection | None:
    first = injections[0]
    if first is None:
        return None
    levels = zip(*(injection.deepstack for injection in injections if injection is not None), strict=True)
    return VisualInjection(first.mask, tuple(torch.cat(level) for level in levels))


def _latents(vae: VAE, clips: Sequence[Tensor], device: torch.device | str) -> Tensor:
    return torch.cat([vae.encode(clip) for clip in clips]).to(device)
