"""Making latents beforehand, piece by piece: what is interrupted goes on, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ...errors import InputError
from ...media.output import check_folder, write_aside, write_text
from ...systems import get_system
from ...vae import VAE
from ..config import Data, RunConfig
from ..dropout import Dropped
from ..prepare import Prepared, prepare
from .latents import (
    INDEX,
    cache_folder,
    cache_root,
    cache_settings,
    piece_length,
    read_index,
    span_stamp,
    stamps,
)
from .opening import stored_source
from .stored import StoredSource, sizing

_BATCH_PIXELS = 1 << 18
_THREADS = 4

Entry = dict[str, Any]
"""What the index says of a piece: its `file`, the `stamp` of what it was made of, and what was `skipped`."""


@dataclass(frozen=True)
class Job:
    """The latents of one task's examples. `held_out`: those of `data.tasks.T.validation`."""

    run: RunConfig
    task: str
    held_out: bool = False

    @property
    def path(self) -> str:
        task = self.run.data.tasks[self.task]
        return (task.validation if self.held_out else task.path) or ""

    def source(self) -> StoredSource:
        return stored_source(self.run, self.task, self.path)

    def settings(self) -> dict[str, Any]:
        return cache_settings(self.run, self.task)

    def data(self) -> Data:
        """What sizes the examples. A limit on their pictures is the run's alone, and may change: none is left out."""
        data = self.run.data
        return replace(data, tasks={**data.tasks, self.task: replace(data.tasks[self.task], images=None)})

    def folder(self) -> Path:
        return cache_folder(cache_root(self.run, self.task, self.path, self.held_out), self.settings())


@dataclass(frozen=True)
class Outcome:
    """What became of a job: where the latents are, of how many examples, why which were left out, pieces made now."""

    folder: Path
    examples: int
    skipped: dict[int, str]
    made: int


def jobs(run: RunConfig) -> list[Job]:
    """Every set of examples that lies on a disk and that the run draws or validates on. Raises InputError when there is
    none."""
    found = []
    for name, task in run.data.tasks.items():
        if task.source != "toy":
            found += [Job(run, name)] if task.weight else []
            found += [Job(run, name, held_out=True)] if task.validation else []
    if not found:
        raise InputError("data.tasks: none has a source folder or shards, so there is nothing to encode.")
    return found


Engine = Callable[[Job, Sequence[int]], Iterable[tuple[int, Entry]]]
"""(job, numbers of pieces) -> (number, entry) of each, in any order; the files exist when their entry arrives."""


def encode(job: Job, engine: Engine, progress: Callable[[int, int], None] = lambda done, total: None) -> Outcome:
    """Make what is missing of a job's cache, then its index. `progress` is called with examples done and in all.

    Raises InputError when the data, the VAE or the disk cannot be used; pieces made until then stay, and an older index
    is valid until the new one replaces it.
    """
    source, folder, settings = job.source(), job.folder(), job.settings()
    if len(source) == 0:
        raise InputError(f"data.tasks.{job.task}: {source.place} has no examples. Check it with `vino data check`.")
    check_folder(folder)
    length = piece_length(settings)
    count = -(-len(source) // length)
    entries: dict[int, Entry] = {}
    made = 0
    for number, entry in engine(job, range(count)):
        entries[number] = {name: value for name, value in entry.items() if name != "made"}
        made += bool(entry["made"])
        progress(min(len(entries) * length, len(source)), len(source))
    skipped: dict[int, str] = {}
    for _, entry in sorted(entries.items()):
        skipped.update({int(number): reason for number, reason in entry["skipped"].items()})
    index = {
        "settings": settings,
        "examples": len(source),
        "piece_length": length,
        "pieces": [{name: entries[n][name] for name in ("file", "stamp")} for n in range(count)],
        "skipped": {str(number): reason for number, reason in sorted(skipped.items())},
        **({"made_of": source.made_of} if source.made_of else {}),
    }
    if read_index(folder) != index:
        write_text(folder / INDEX, json.dumps(index, indent=1))
    used = {entry["file"] for entry in entries.values()}
    for file in folder.glob("*.safetensors"):  # of data that has changed since
        if file.name not in used:
            file.unlink()
    return Outcome(folder, len(source), skipped, made)


def single(device: str) -> Engine:
    """This process makes one piece after the other."""

    def engine(job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Entry]]:
        encoder = PieceEncoder(job, device)
        for number in numbers:
            yield number, encoder.encode(number)

    return engine


class PieceEncoder:
    """Makes pieces of one job. The VAE is loaded when a piece is not there yet."""

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.device = job, device
        self.source, self.folder, self.settings = job.source(), job.folder(), job.settings()
        self.data = job.data()
        self.system = get_system(job.run.system)
        self.length = piece_length(self.settings)
        self._vae: VAE | None = None

    def encode(self, number: int) -> Entry:
        """Make piece `number` unless it is there. The same data and VAE give the same bytes."""
        first = number * self.length
        numbers = range(first, min(first + self.length, len(self.source)))
        with ThreadPoolExecutor(_THREADS, "digests") as pool:
            digests = list(pool.map(self._digest, numbers))
        stamp = span_stamp(stamps(self.source, numbers))
        made_of = hashlib.blake2b("\n".join(digests).encode(), digest_size=6).hexdigest()
        path = self.folder / f"{number:05d}-{made_of}.safetensors"
        made = not path.exists()
        if made:
            self._make(path, numbers)
        return {"file": path.name, "stamp": stamp, "skipped": _skipped(path), "made": made}

    def latents_of(self, index: int) -> list[Tensor]:
        """Latents [16, t, h, w] of one example's target and references. Raises InputError when it cannot be used."""
        found = self._read(index)
        if isinstance(found, str):
            raise InputError(found)
        return [self._latents(clip[None])[0] for clip in (found[1].target, *found[1].pixels)]

    def _digest(self, index: int) -> str:
        try:
            return "".join([self.source.digest(index), *sizing(self.source.files(index))])
        except InputError as error:
            return f"unusable: {error}"

    def _make(self, path: Path, numbers: Sequence[int]) -> None:
        with ThreadPoolExecutor(_THREADS, "examples") as pool:
            read = list(pool.map(self._read, numbers))
        skipped = {number: reason for number, reason in zip(numbers, read, strict=True) if isinstance(reason, str)}
        tensors: dict[str, Tensor] = {}
        examples: dict[str, tuple[list[int], int]] = {}
        clips: list[tuple[str, Tensor]] = []
        for number, found in zip(numbers, read, strict=True):
            if not isinstance(found, str):
                shape, sample = found
                pixels = [sample.target, *sample.pixels]
                clips += [(f"{number}.{place}", clip) for place, clip in enumerate(pixels)]
                examples[str(number)] = (shape, len(pixels) - 1)
        for names, batch in _batches(clips):
            for name, latents in zip(names, self._latents(batch), strict=True):
                tensors[name] = latents.contiguous()  # the VAE may leave the channels innermost
        # One entry: several would be written in an order that changes from run to run.
        metadata = {"vino": json.dumps({"examples": examples, "skipped": skipped})}
        with write_aside(path) as file:
            file.write(save(dict(sorted(tensors.items())), metadata))

    def _read(self, index: int) -> tuple[list[int], Prepared] | str:
        """The shape of the target's pixels and the sample as training would size it, or why it cannot be used."""
        try:
            example = self.source.example(index, captioned=False)
            return list(example.target.shape), prepare(example, Dropped(), self.data, self.system)
        except InputError as error:
            return str(error)
        except Exception as error:
            raise RuntimeError(f"{self.source.place}, example {index}: {type(error).__name__}: {error}") from error

    def _latents(self, clips: Tensor) -> Tensor:
        if self._vae is None:
            dtype = getattr(torch, self.settings["dtype"])
            self._vae = VAE.load(self.job.run.files.vae, dtype, self.device)
        return self._vae.encode_batch(clips).to("cpu", getattr(torch, self.settings["dtype"]))


def _batches(clips: Sequence[tuple[str, Tensor]]) -> Iterator[tuple[list[str], Tensor]]:
    """Clips of one shape and type together, as many as fit into a batch, in an order that the clips alone decide."""
    shapes: dict[tuple[tuple[int, ...], torch.dtype], list[tuple[str, Tensor]]] = {}
    for name, clip in clips:
        shapes.setdefault((tuple(clip.shape), clip.dtype), []).append((name, clip))
    for ((time, height, width, _), _), members in shapes.items():
        size = max(1, _BATCH_PIXELS // (time * height * width))
        for first in range(0, len(members), size):
            names, pixels = zip(*members[first : first + size], strict=True)
            yield list(names), torch.stack(pixels)


def _skipped(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        return json.loads(safe_open(str(path), "pt").metadata()["vino"])["skipped"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Remove it and run vino data encode again.") from error
