"""Writing files of `torch.save` of which only a part of one tensor is in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .header import TensorInfo
from .sources import Checkpoint, PickleFile
from .writing import reported, written_aside


class Stored(NamedTuple):
    """`rows` rows, from `start` on, of a tensor that lies in a file."""

    checkpoint: Checkpoint
    name: str
    start: int
    rows: int

    @classmethod
    def whole(cls, checkpoint: Checkpoint, name: str) -> Stored:
        return cls(checkpoint, name, 0, (*checkpoint.shapes[name], 1)[0])


class Stack:
    """A tensor to be written: pieces of one dtype and width, below one another. Two names may have the same one."""

    def __init__(self, *pieces: Stored | Tensor) -> None:
        self.pieces = pieces
        infos = [
            piece.checkpoint.tensors[piece.name] if isinstance(piece, Stored) else TensorInfo(piece.dtype, piece.shape)
            for piece in pieces
        ]
        rows = [piece.rows if isinstance(piece, Stored) else len(piece) for piece in pieces] if infos[0].shape else []
        self.info = TensorInfo(infos[0].dtype, (*([sum(rows)] if rows else []), *infos[0].shape[1:]))

    def parts(self) -> Iterator[Tensor]:
        """The rows in order, a few at a time. Hold a part only until the next one."""
        for piece in self.pieces:
            yield from [piece] if isinstance(piece, Tensor) else piece.checkpoint.parts(*piece[1:])


class PicklePlan(NamedTuple):
    """A file to be, with its tensors."""

    path: Path
    tensors: Mapping[str, Stack]

    @property
    def stacks(self) -> list[Stack]:
        """Each once, whatever it is called."""
        return list({id(stack): stack for stack in self.tensors.values()}.values())

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(stack.info.size for stack in self.stacks)


def _write_empty(plan: PicklePlan, path: Path) -> None:
    """The file with room for the weights, which takes no space on the disk before they are filled in."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    skip_data = getattr(torch.serialization, "skip_data", None)
    if skip_data is None:
        raise InputError(f"torch {torch.__version__} cannot write a checkpoint piece by piece. Use torch 2.7.")
    with FakeTensorMode():
        made = {id(stack): torch.empty(stack.info.shape, dtype=stack.info.dtype) for stack in plan.stacks}
    with skip_data(materialize_fake_tensors=True), path.open("wb") as file:
        torch.save({name: made[id(stack)] for name, stack in plan.tensors.items()}, file)


def _fill(plan: PicklePlan, path: Path, progress: Callable[[int, int], None], total: int) -> None:
    starts = PickleFile(path).starts
    names = {id(stack): name for name, stack in plan.tensors.items()}
    with path.open("r+b") as file:
        for stack in plan.stacks:
            name, written = names[id(stack)], 0
            file.seek(starts[name])
            for part in stack.parts():
                data = part.contiguous().reshape(-1).view(torch.uint8).numpy()
                file.write(data.data)
                written += data.nbytes
                progress(data.nbytes, total)
            if written != stack.info.size:
                raise RuntimeError(f"{plan.path}: {written} bytes of {name} where {stack.info.size} were announced.")
        file.flush()
        os.fsync(file.fileno())


def write_pickles(
    plans: Sequence[PicklePlan], overwrite: bool = False, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write files that `torch.load` reads: all of them, or none. `progress` gets bytes just written, and all bytes.

    The files carry no checksums, which `torch.load` does not ask for: they are put where nothing is known yet of the
    weights. Raises InputError when a file exists already (unless `overwrite`), the disk is full, or the folder is not
    writable.
    """
    sizes = [plan.size for plan in plans]
    with written_aside([plan.path for plan in plans], sizes, overwrite) as temporary:
        for plan, part in zip(plans, temporary, strict=True):
            with reported(plan.path):
                _write_empty(plan, part)
                _fill(plan, part, progress, sum(sizes))
