"""Batches whose samples differ in references or text length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .model import Conditioning, MMDiT


def _kind(conditioning: Conditioning) -> tuple:
    """Samples of equal kind can be computed as one batch."""
    shapes = tuple(
        tuple(tuple(reference.shape[1:]) for reference in references)
        for references in (conditioning.references, conditioning.conditions)
    )
    return shapes, None if conditioning.mask is None else conditioning.text.shape[1]


_PER_CALL = 256
"""What a call of its own costs, in tokens that padding may waste instead."""


def by_length(lengths: Sequence[int], per_call: int = _PER_CALL) -> list[list[int]]:
    """Split samples into batches, each padded to its longest, with the least padding and the fewest calls.

    Returns the samples' numbers, shorter texts first. Minimises the tokens of all batches, padding included, plus
    `per_call` for each batch.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    costs, starts = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cost, start = min((costs[start] + (end - start) * longest + per_call, start) for start in range(end))
        costs.append(cost)
        starts.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(sorted(order[starts[end] : end]))
        end = starts[end]
    return batches[::-1]


def padding_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor | None:
    """True behind each sample's own length, bool [B, longest]; None when all are equally long."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths), device=device) >= torch.tensor(lengths, device=device)[:, None]


def stack(samples: Sequence[Conditioning]) -> Conditioning:
    """One batched conditioning from samples [1, ...] of the same kind; shorter texts are padded."""
    first = samples[0]
    if len(samples) == 1:
        return first

    def joined(each: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(group) for group in zip(*each, strict=True))

    return Conditioning(
        text=pad_sequence([sample.text[0] for sample in samples], batch_first=True),
        boundaries=None if first.boundaries is None else torch.cat([sample.boundaries for sample in samples]),
        references=joined(sample.references for sample in samples),
        conditions=joined(sample.conditions for sample in samples),
        mask=None if first.mask is None else torch.cat([sample.mask for sample in samples]),
        padding=padding_of([sample.text.shape[1] for sample in samples], first.text.device),
    )


def mixed_velocity(
    model: MMDiT,
    latents: Tensor,
    timestep: Tensor,
    conditionings: Sequence[Conditioning],
    guidance: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Velocity [B, 16, T, H, W] of a batch with one conditioning [1, ...] per sample, of any kinds.

    Samples with references of the same sizes run together, their texts padded where they differ a little in length;
    others run after one another. `options` go to `MMDiT.forward`.
    """
    groups: dict[tuple, list[int]] = {}
    for index, conditioning in enumerate(conditionings):
        groups.setdefault(_kind(conditioning), []).append(index)
    velocity = torch.empty_like(latents)
    for group in groups.values():
        for batch in by_length([conditionings[index].text.shape[1] for index in group]):
            members = [group[number] for number in batch]
            conditioning = stack([conditionings[index] for index in members])
            velocity[members] = model(latents[members], timestep[members], conditioning, guidance, **options)
    return velocity
