"""A clip of which only the frames that somebody looks at are in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sizing import vlm_frame_indices


class Excerpt:
    """Stands for the frames uint8 [T, H, W, 3] of a whole clip: its length, its shape, and frames by slice or list.

    `indices` are the frames that there are, ascending, `kept` [len(indices), H, W, 3] their pixels, `count` is T.
    Raises IndexError when another frame is asked for.
    """

    def __init__(self, count: int, indices: Sequence[int], kept: Tensor) -> None:
        self.count, self.kept = count, kept
        self._places = {index: place for place, index in enumerate(indices)}

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.count, *self.kept.shape[1:]))

    def __getitem__(self, wanted: slice | Sequence[int]) -> Tensor:
        """Frames [t, H, W, 3], as indexing the whole clip's tensor would give them."""
        indices = range(self.count)[wanted] if isinstance(wanted, slice) else wanted
        if absent := [index for index in indices if index not in self._places]:
            raise IndexError(f"frame {absent[0]} of {self.count} was not kept")
        return self.kept[[self._places[index] for index in indices]]


def excerpt_indices(count: int, first: int, spread: int) -> list[int]:
    """Of a clip of `count` frames the `first` ones and the `spread` ones that the VLM sees, ascending."""
    return sorted({*range(min(first, count)), *vlm_frame_indices(count, spread)})
