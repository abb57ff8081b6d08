"""Reading weights of any accepted file format, memory-mapped, a few rows at a time."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .header import TensorInfo, read_header, require_file
from .layouts import Shape
from .mapping import MappedFile, Span

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "module", "model")
_REMAP = 256 * 2**20
"""After so many bytes read the mapping is renewed, so that pages already used do not count as ours any more."""
PART = 64 * 2**20
"""Bytes of a tensor that are in memory at a time."""


class SafetensorsFile:
    """One safetensors file."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self.path = path
        self.tensors, self.metadata = header.tensors, header.metadata
        self._starts = header.starts
        self._mapped = MappedFile(path)

    def read(self, name: str) -> Tensor:
        dtype, shape = self.tensors[name]
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return self._mapped.tensor(Span(dtype, shape, self._starts[name], prod(shape), strides, 0))

    def release(self) -> None:
        self._mapped.release()


class PickleFile:
    """One file written by `torch.save`: a mapping of names to tensors, possibly inside another mapping.

    Only tensors and plain containers are unpickled; nothing in the file is executed. torch reads the names and where
    each tensor lies, and the weights are mapped here: torch's own mapping is refused for a file larger than memory.
    """

    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path = require_file(path)
        self._check_format()
        self._spans = {name: self._span(name, tensor) for name, tensor in self._unwrap(self._load()).items()}
        self.tensors = {name: TensorInfo(span.dtype, span.shape) for name, span in self._spans.items()}
        self._mapped = MappedFile(path)

    @property
    def starts(self) -> dict[str, int]:
        """The byte at which each tensor's storage begins."""
        return {name: span.start for name, span in self._spans.items()}

    def read(self, name: str) -> Tensor:
        return self._mapped.tensor(self._spans[name])

    def release(self) -> None:
        self._mapped.release()

    def _check_format(self) -> None:
        with self.path.open("rb") as file:
            start = file.read(32)
        if start.startswith(b"PK\x03\x04"):
            return
        if start.startswith(b"version https://git-lfs"):
            raise InputError(f"{self.path}: a git-lfs pointer, not the weights. Run `git lfs pull` or download it.")
        if start.startswith(b"\x80"):
            raise InputError(
                f"{self.path}: torch's old pickle format, which cannot be memory-mapped. "
                "Load and save it once with a current torch, or use the published file."
            )
        raise InputError(f"{self.path}: not a checkpoint: it starts with {start[:12]!r}. Download the file again.")

    def _load(self) -> Any:
        # Imported here because it takes half a second, which a start of ComfyUI should not pay.
        from torch._subclasses.fake_tensor import FakeTensorMode

        try:
            with FakeTensorMode():
                return torch.load(self.path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{self.path}: holds Python objects besides tensors and is not loaded, because loading them would "
                "run code from the file. Save its state_dict alone."
            ) from error
        except (RuntimeError, EOFError, OSError) as error:
            raise InputError(
                f"{self.path}: truncated or damaged ({self.path.stat().st_size:,} bytes; "
                f"{str(error).splitlines()[0]}). Download or copy it again."
            ) from error

    def _span(self, name: str, tensor: Tensor) -> Span:
        storage = tensor.untyped_storage()
        start = getattr(storage, "_checkpoint_offset", None)
        if start is None:
            raise InputError(f"torch {torch.__version__} cannot tell where {name} lies in {self.path}. Use torch 2.7.")
        if start + storage.nbytes() > self.path.stat().st_size:
            raise InputError(f"{self.path}: {name} lies beyond the end of the file. Download or copy it again.")
        elements = storage.nbytes() // tensor.element_size()
        return Span(tensor.dtype, tuple(tensor.shape), start, elements, tensor.stride(), int(tensor.storage_offset()))

    def _unwrap(self, state: Any) -> Mapping[str, Tensor]:
        while isinstance(state, Mapping):
            inner = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
            if inner is None:
                break
            state = state[inner]
        if not isinstance(state, Mapping) or not state:
            raise InputError(
                f"{self.path}: holds {type(state).__name__}, not a mapping of names to tensors. "
                "Name a checkpoint (a saved state_dict)."
            )
        other = sorted(str(name) for name, value in state.items() if not isinstance(value, Tensor))
        if other:
            raise InputError(
                f"{self.path}: {len(other)} entries are not tensors: {', '.join(other[:10])}. "
                "Save the model's state_dict alone."
            )
        return {str(name): tensor for name, tensor in state.items()}


File = SafetensorsFile | PickleFile


def find_files(path: Path) -> list[Path]:
    """The files that make up one checkpoint: a file, an index of shards, or a folder with either."""
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors.index.json"))
        single = sorted(path.glob("*.safetensors")) or sorted(p for p in path.iterdir() if p.suffix in PICKLES)
        if len(indices) == 1:
            path = indices[0]
        elif len(single) == 1 and not indices:
            path = single[0]
        else:
            raise InputError(
                f"{path}: a folder with {len(single)} weight files and {len(indices)} indices; one was expected. "
                "Name the file."
            )
    if not path.name.endswith(".index.json"):
        return [path]
    try:
        names = json.loads(require_file(path).read_text(encoding="utf-8"))["weight_map"].values()
        return [path.parent / Path(name).name for name in sorted(set(names))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not an index of shards (no weight_map: {error!r}). Name the weights.") from error


def open_file(path: Path) -> File:
    """Open one file by its suffix. Raises InputError for a file that is missing, and for a format that is not read."""
    require_file(path)
    if path.suffix in PICKLES:
        return PickleFile(path)
    if path.suffix in (".safetensors", ".sft"):
        return SafetensorsFile(path)
    if path.suffix == ".gguf":
        raise InputError(f"{path}: GGUF files load in ComfyUI only. Use a safetensors file here.")
    raise InputError(
        f"{path}: unknown kind of file. Checkpoints end in .safetensors, {', '.join(PICKLES)}, or .index.json."
    )


class Checkpoint:
    """All tensors of one or several files under their names, memory-mapped.

    `strip`: prefixes that are cut off when every name of a file has them.
    Raises InputError when files are unreadable or two of them hold the same name.
    """

    def __init__(self, paths: Sequence[str | Path], strip: Sequence[str] = ("module.",)) -> None:
        self.paths = [file for path in paths for file in find_files(Path(path))]
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._where: dict[str, tuple[File, str]] = {}
        self._files: list[File] = []
        self._read = 0
        for path in self.paths:
            file = open_file(path)
            self._files.append(file)
            self.metadata.update(file.metadata)
            prefix = next((p for p in strip if all(name.startswith(p) for name in file.tensors)), "")
            for stored, info in file.tensors.items():
                name = stored.removeprefix(prefix)
                if name in self._where:
                    raise InputError(f"{path}: {name} is also in {self._where[name][0].path}. Name each file once.")
                self._where[name] = (file, stored)
                self.tensors[name] = info

    @property
    def label(self) -> str:
        """The files' names for messages."""
        return ", ".join(str(path) for path in self.paths)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: info.shape for name, info in self.tensors.items()}

    def rename(self, name_of: Callable[[str], str]) -> None:
        """Call every tensor `name_of` its name. Raises InputError when two would be called the same."""
        where: dict[str, tuple[File, str]] = {}
        for name, place in self._where.items():
            renamed = name_of(name)
            if renamed in where:
                other = where[renamed]
                raise InputError(
                    f"{place[0].path}: {place[1]} is the same as {other[1]} in {other[0].path}. Name each weight once."
                )
            where[renamed] = place
        self._where = where
        self.tensors = {name: file.tensors[stored] for name, (file, stored) in where.items()}

    def read(self, name: str) -> Tensor:
        """A mapped tensor. It keeps its file mapped as long as it lives."""
        file, stored = self._where[name]
        return file.read(stored)

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """`count` rows from `start` on, contiguous. Hold it only until the next call."""
        if self._read > _REMAP:
            self._read = 0
            self.release()
        info = self.tensors[name]
        self._read += info.size * count // max(1, info.shape[0]) if info.shape else info.size
        tensor = self.read(name)
        return (tensor[start : start + count] if info.shape else tensor).contiguous()

    def parts(self, name: str, start: int, count: int) -> Iterator[Tensor]:
        """`count` rows from `start` on, as many at a time as `PART` allows. Hold each only until the next."""
        info = self.tensors[name]
        step = max(1, PART // max(1, prod(info.shape[1:]) * info.dtype.itemsize))
        for first in range(start, start + count, step):
            yield self.rows(name, first, min(step, start + count - first))

    def release(self) -> None:
        """Unmap the files; the next read maps them again."""
        for file in self._files:
            file.release()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)
