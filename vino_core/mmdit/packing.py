"""Where everything lies in the packed visual sequence, and at which rotary position.

A layout is pure data: the segments of one sample in order. Systems differ in the layouts they make, nothing else
(VINO paper section 2.2: boundary tokens and one timeline).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Grid = tuple[int, int, int]
Kind = Literal["boundary", "reference", "target"]


@dataclass(frozen=True)
class Segment:
    """A run of tokens: a grid of (frames, rows, columns) patches whose first frame stands at time `start`."""

    kind: Kind
    start: int
    grid: Grid

    @property
    def tokens(self) -> int:
        frames, rows, columns = self.grid
        return frames * rows * columns


@dataclass(frozen=True)
class Layout:
    """The segments of one sample's visual sequence, in order; exactly one of them is the target."""

    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)

    @property
    def target(self) -> slice:
        """The target's tokens within the sequence."""
        before = 0
        for segment in self.segments:
            if segment.kind == "target":
                return slice(before, before + segment.tokens)
            before += segment.tokens
        raise ValueError("layout without a target")


def bounded_layout(references: Sequence[Grid], target: Grid, after: Sequence[Grid] = ()) -> Layout:
    """References enclosed in boundary tokens, one timeline, target last (VINO paper section 2.2).

    Grids are in patches. Time runs through start token, latent frames, end token of each reference and goes on in the
    next; rows and columns restart at 0 for each segment. Raises ValueError when something is to stand `after` it.
    """
    if after:
        raise ValueError("packing: this layout has no place behind the target")
    segments: list[Segment] = []
    time = 0
    for grid in references:
        segments.append(Segment("boundary", time, (1, 1, 1)))
        segments.append(Segment("reference", time + 1, grid))
        time += 1 + grid[0]
        segments.append(Segment("boundary", time, (1, 1, 1)))
        time += 1
    segments.append(Segment("target", time, target))
    return Layout(tuple(segments))


def sequential_layout(before: Sequence[Grid], target: Grid, after: Sequence[Grid] = ()) -> Layout:
    """All frames behind one another on one time axis, nothing in between (VOGUE paper section 2.2). In patches."""
    segments: list[Segment] = []
    time = 0
    for kind, grids in (("reference", before), ("target", (target,)), ("reference", after)):
        for grid in grids:
            segments.append(Segment(kind, time, grid))
            time += grid[0]
    return Layout(tuple(segments))


def pack(layout: Layout, target: Tensor, references: Sequence[Tensor] = (), boundaries: Tensor | None = None) -> Tensor:
    """Concatenate tokens in the layout's order.

    `target` [B, n, C], `references` one [B, n_k, C] each (those behind the target last), `boundaries` [B, 2K, C] (start
    and end of each reference in turn). Returns [B, N, C]. Raises ValueError when the tokens do not fill the layout.
    """
    remaining = {
        "boundary": iter(boundaries.split(1, dim=1) if boundaries is not None else ()),
        "reference": iter(references),
        "target": iter((target,)),
    }
    parts = [next(remaining[segment.kind], None) for segment in layout.segments]
    for segment, part in zip(layout.segments, parts, strict=True):
        if part is None or part.shape[1] != segment.tokens:
            found = "nothing" if part is None else f"{part.shape[1]} tokens"
            raise ValueError(f"packing: a {segment.kind} segment takes {segment.tokens} tokens, got {found}")
    if any(next(rest, None) is not None for rest in remaining.values()):
        raise ValueError("packing: more tokens given than the layout has segments")
    return torch.cat(parts, dim=1) if len(parts) > 1 else target


def positions(layout: Layout, device: torch.device | str = "cpu") -> Tensor:
    """Positions (time, row, column) of every token, float32 [N, 3]: bfloat16 would merge neighbours."""
    parts = []
    for segment in layout.segments:
        axes = [torch.arange(size, dtype=torch.float32, device=device) for size in segment.grid]
        axes[0] = axes[0] + segment.start
        parts.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2))
    return torch.cat(parts)


_SMALL = 4096
"""Tokens of a layout whose table is small: 2 MB at most for heads of width 128."""


def rotary_table(layout: Layout, text: int, axes: Grid, theta: float, device: torch.device) -> Tensor:
    """Rotary factors `cos + i sin` of `text` text tokens, which do not rotate, and the layout's N tokens.

    Complex64 [text + N, D/2] for head width D = sum(axes).
    """
    cached = small_tables if layout.tokens <= _SMALL else large_tables
    table = cached(layout, axes, theta, device)
    return torch.cat((table.new_ones(text, table.shape[1]), table))


def _layout_table(layout: Layout, axes: Grid, theta: float, device: torch.device) -> Tensor:
    # A table made in inference mode would stay in the cache, and a training run that meets it could not use it.
    with torch.inference_mode(False):
        position = positions(layout, device)
        angles = []
        for axis, width in enumerate(axes):
            exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
            angles.append(torch.outer(position[:, axis], 1.0 / theta**exponents))
        table = torch.cat(angles, dim=1)
        return torch.complex(table.cos(), table.sin())


# Every step of a sampling asks for the same few layouts, one per guidance branch. Training mixes dozens of small ones.
small_tables = lru_cache(maxsize=64)(_layout_table)
large_tables = lru_cache(maxsize=4)(_layout_table)
