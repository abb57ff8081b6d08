"""Writing weights one tensor at a time, under another name until everything is on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..asides import held_asides
from ..errors import InputError
from .header import CODES, TensorInfo

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


class Plan(NamedTuple):
    """A safetensors file to be: its tensors, and for each name the parts that make up its rows, in order."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    parts: Callable[[str], Iterable[Tensor]]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size for info in self.tensors.values())


def _ignore(count: int) -> None:
    pass


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.errno in (ENOSPC, EDQUOT):
            raise InputError(f"{path}: the disk is full. Free some space or choose another folder.") from error
        raise InputError(f"{path}: cannot be written ({cause.strerror or cause}). Choose another folder.") from error


@contextmanager
def written_aside(paths: Sequence[Path], sizes: Sequence[int], overwrite: bool = False) -> Iterator[list[Path]]:
    """Temporary names beside `paths`; all become the real ones when the block ends, none when it fails.

    `sizes` are the bytes that will be needed. Raises InputError when a file exists and `overwrite` is false, when
    the disk has no room, or the folder cannot be written.
    """
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise InputError(
            f"{', '.join(map(str, existing))}: exists already and is left as it is. "
            "Choose another folder or name, or overwrite it (--overwrite)."
        )
    with ExitStack() as held:
        with reported(paths[0]):
            temporary = held.enter_context(held_asides(paths))
            free = shutil.disk_usage(paths[0].parent).free
        if free < sum(sizes):
            raise InputError(
                f"{paths[0].parent}: {sum(sizes) / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free. "
                "Free some space or choose another folder."
            )
        yield temporary
        for part, path in zip(temporary, paths, strict=True):
            with reported(path):
                os.replace(part, path)


def header(plan: Plan) -> tuple[bytes, list[str]]:
    """The file's first bytes, and the order of its tensors: wide dtypes first keeps every tensor aligned."""
    order = sorted(plan.tensors, key=lambda name: -plan.tensors[name].dtype.itemsize)
    entries: dict[str, object] = {"__metadata__": dict(plan.metadata)}
    offset = 0
    for name in order:
        info = plan.tensors[name]
        entries[name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.size],
        }
        offset += info.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _write_plan(plan: Plan, file: BinaryIO, progress: Progress) -> None:
    start, order = header(plan)
    file.write(start)
    for name in order:
        info, written = plan.tensors[name], 0
        for part in plan.parts(name):
            data = part.to(info.dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(data.data)
            written += data.nbytes
            progress(data.nbytes)
        if written != info.size:
            raise RuntimeError(f"{plan.path}: {written} bytes of {name} where {info.size} were announced.")
    file.flush()
    os.fsync(file.fileno())


def write_safetensors(plans: Sequence[Plan], overwrite: bool = False, progress: Progress = _ignore) -> None:
    """Write files of which only one tensor's part is in memory at a time: all of them, or none.

    Raises InputError when a file exists already (unless `overwrite`), the disk is full, or the folder not writable.
    """
    with written_aside([plan.path for plan in plans], [plan.size for plan in plans], overwrite) as temporary:
        for plan, part in zip(plans, temporary, strict=True):
            with reported(plan.path), part.open("wb") as file:
                _write_plan(plan, file, progress)
