"""Positions of a Qwen3-VL sequence on its three axes: time, height, width (see docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sequence_positions(runs: Sequence[int | tuple[int, int]]) -> Tensor:
    """Positions of consecutive runs of tokens, int64 [3, n].

    A run is a number of text tokens, which advance together on all axes, or the (height, width) of a picture's tokens
    after merging. A picture's time stands still, rows and columns count from its start, and what follows starts after
    the longer side. A video is one picture per temporal patch, because time stamps (text) stand between them.
    """
    parts: list[Tensor] = []
    start = 0
    for run in runs:
        if isinstance(run, int):
            parts.append(torch.arange(start, start + run).expand(3, run))
            start += run
        else:
            height, width = run
            rows = torch.arange(height).repeat_interleave(width)
            columns = torch.arange(width).repeat(height)
            parts.append(torch.stack([torch.zeros_like(rows), rows, columns]) + start)
            start += max(height, width)
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.int64)


def appended_positions(positions: Tensor, count: int) -> Tensor:
    """Positions of `count` learnable tokens behind a sequence, int64 [3, count].

    The first one shares the position of the sequence's last token: VINO's checkpoint was trained this way.
    """
    return positions[:, -1:] + torch.arange(count, device=positions.device)
