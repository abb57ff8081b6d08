"""Positions of a Qwen-VL sequence on its three axes: time, height, width (see docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """The tokens of a picture or clip: its size after merging, and what its time grows by from frame to frame."""

    height: int
    width: int
    frames: int = 1
    step: int = 0


def sequence_positions(runs: Sequence[int | tuple[int, int] | Block]) -> Tensor:
    """Positions of consecutive runs of tokens, int64 [3, n].

    A run is a number of text tokens, which advance together on all axes, or a block (height, width) or Block. Within a
    block rows and columns count from its start and time moves with the frames; what follows starts behind the largest
    position on any axis.
    """
    parts: list[Tensor] = []
    start = 0
    for run in runs:
        if isinstance(run, int):
            parts.append(torch.arange(start, start + run).expand(3, run))
            start += run
        else:
            height, width, frames, step = Block(*run)
            axes = (torch.arange(frames) * step, torch.arange(height), torch.arange(width))
            block = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + start
            parts.append(block)
            start = int(block.max()) + 1
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.int64)


def appended_positions(positions: Tensor, count: int, step: int = 0) -> Tensor:
    """Positions of `count` learnable tokens behind a sequence, int64 [3, count].

    `step` is how far the first one stands from the sequence's last token: VINO's checkpoint was trained with 0, both
    sharing a position.
    """
    return positions[:, -1:] + step + torch.arange(count, device=positions.device)
