"""Tensors that lie in a file: read by the system when they are touched, and given back when they are dropped."""

from __future__ import annotations

import mmap
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .layouts import Shape

# Python names this flag only from 3.13 on. Without it Linux refuses to map a file larger than its memory, even though
# no page of it is ever written.
_LINUX_NO_RESERVE = 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", _LINUX_NO_RESERVE) if sys.platform == "linux" else 0


class Span(NamedTuple):
    """Where a tensor's storage lies in a file, and how the tensor lies in its storage (both in elements)."""

    dtype: torch.dtype
    shape: Shape
    start: int
    """Byte at which the storage begins."""
    elements: int
    strides: tuple[int, ...]
    offset: int


class MappedFile:
    """A file's bytes as tensors. They may be written to: the file never changes, the change stays in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes: Any = None

    def tensor(self, span: Span) -> Tensor:
        """The tensor at `span`. It keeps the file mapped as long as it lives."""
        if span.elements == 0:
            return torch.empty(span.shape, dtype=span.dtype)
        if self._bytes is None:
            with self.path.open("rb") as file:
                if sys.platform == "win32":
                    self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                else:
                    flags = mmap.MAP_PRIVATE | _NO_RESERVE
                    self._bytes = mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        flat = torch.frombuffer(self._bytes, dtype=span.dtype, count=span.elements, offset=span.start)
        return flat.as_strided(span.shape, span.strides, span.offset)

    def release(self) -> None:
        """Unmap the file, as soon as the last tensor of it is gone."""
        self._bytes = None
