"""The header of a safetensors file, read and checked without touching the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import InputError
from .layouts import Shape

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

_LONGEST = 100 * 2**20
"""No header is longer; a greater length means that the file is something else."""


class TensorInfo(NamedTuple):
    """What is known of a stored tensor before it is read."""

    dtype: torch.dtype
    shape: Shape

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return prod(self.shape) * self.dtype.itemsize


class Header(NamedTuple):
    """Tensors by name, the file's metadata, and the byte at which each tensor begins."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    starts: dict[str, int]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: info.shape for name, info in self.tensors.items()}


def short_name(dtype: torch.dtype) -> str:
    """ "bf16" for torch.bfloat16, and so on."""
    return SHORT.get(dtype, str(dtype).removeprefix("torch."))


def main_dtype(tensors: Mapping[str, TensorInfo]) -> torch.dtype:
    """The dtype that holds most of the bytes."""
    sizes: dict[torch.dtype, int] = {}
    for info in tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def require_file(path: Path) -> Path:
    """`path` itself. Raises InputError when it is missing, a folder, or empty."""
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the path.")
    if not path.is_file():
        raise InputError(f"{path}: a folder, not a file. Name the file in it.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Download or copy it again.")
    return path


def read_header(path: str | Path) -> Header:
    """Names, dtypes, shapes and metadata of a safetensors file.

    Raises InputError when the file is missing, empty, of another format, or shorter than its header says.
    """
    path = require_file(Path(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, size, _LONGEST))
    if text.startswith(b"{") and 8 + length > size and length <= _LONGEST:
        raise _truncated(path, size, 8 + length)
    if not text.startswith(b"{") or len(text) != length:
        raise InputError(
            f"{path}: not a safetensors file, or damaged from its first bytes on. "
            "Download it again, or convert an official checkpoint with `vino convert`."
        )
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _info(path, name, entry) for name, entry in entries.items()}
        starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its safetensors header is damaged ({error!r}). Download the file again.") from error
    if size < 8 + length + end:
        raise _truncated(path, size, 8 + length + end)
    return Header(tensors, dict(metadata), starts)


def _truncated(path: Path, size: int, wanted: int) -> InputError:
    return InputError(
        f"{path}: truncated: {size:,} bytes of at least {wanted:,}. The download or copy stopped early; repeat it."
    )


def _info(path: Path, name: str, entry: dict) -> TensorInfo:
    if entry["dtype"] not in DTYPES:
        raise InputError(
            f"{path}: {name} is stored as {entry['dtype']}, which is not supported. Use a bf16, fp16 or fp32 file."
        )
    info = TensorInfo(DTYPES[entry["dtype"]], tuple(entry["shape"]))
    start, end = entry["data_offsets"]
    if end - start != info.size:
        raise InputError(f"{path}: its header contradicts itself about {name}. Download the file again.")
    return info
