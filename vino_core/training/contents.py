"""What a run works with, in short: a resume notices that a file was exchanged for another of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import torch
from torch import Tensor, nn

from ..errors import InputError
from .config import Files
from .data.latents import LatentSource
from .data.stored import StoredSource
from .example import ExampleSource
from .parts import Parts

_CHUNK = 1 << 22
_ROWS = 256
_READ = 16
"""Rows of a source that are looked at, and those of them whose media are read: few enough to ask in every start."""


def contents(files: Files, parts: Parts, network: nn.Module, sources: Mapping[str, ExampleSource]) -> dict[str, str]:
    """A hash for each setting of the config that names something outside: frozen networks and data.

    Weights are looked at as they were loaded, all of them. Trained weights do not count: a checkpoint has its own.
    """
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    found = {}
    if parts.engine is not None:
        found["files.text_encoder"] = weights_digest(parts.engine.model.state_dict().values())
    if parts.vae is not None:
        found["files.vae"] = weights_digest(parts.vae.module.state_dict().values())
    if frozen and (files.model or files.base):
        found["files.model" if files.model else "files.base"] = weights_digest(frozen)
    return {**found, **{f"data.tasks.{name}": data_digest(source) for name, source in sources.items()}}


def weights_digest(tensors: Iterable[Tensor]) -> str:
    """A hash of all values, whatever the tensors are called and in which order they come."""
    return _hash(*sorted({_tensor_digest(tensor.detach()) for tensor in tensors}))


def data_digest(source: ExampleSource) -> str:
    """A hash of how many examples there are and, of stored ones, what some of them are: captions, names, and media.

    Dates do not count, so that a copy is as good as what it was made of.
    """
    if isinstance(source, LatentSource):
        source = source.source
    told = [str(source.count)]
    if isinstance(source, StoredSource):
        told += [_or_unusable(lambda index: repr(source.row(index)), index) for index in _spread(source.count, _ROWS)]
        told += [_or_unusable(source.digest, index) for index in _spread(source.count, _READ)]
    return _hash(*told)


def _tensor_digest(tensor: Tensor) -> str:
    """Sums are those of integers, so that every device and number of threads gets the same."""
    flat = tensor.contiguous().flatten()
    bits = flat.view(torch.uint8 if flat.element_size() == 1 else torch.int16)
    place = torch.arange(1, min(len(bits), _CHUNK) + 1, device=bits.device)
    sums = [(chunk.long() * place[: len(chunk)]).sum() for chunk in bits.split(_CHUNK)]
    return _hash(str(tensor.dtype), str(tuple(tensor.shape)), *map(str, torch.stack(sums).tolist()))


def _spread(count: int, most: int) -> list[int]:
    return sorted({count * number // most for number in range(most)}) if count else []


def _or_unusable(ask: Callable[[int], str], index: int) -> str:
    try:
        return ask(index)
    except InputError:
        return "unusable"


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
