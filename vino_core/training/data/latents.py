"""PreparedLatents made beforehand: where they lie, how they are read, and how a stale cache is told from a good one.

A cache is a folder `ROOT/TASK/KEY`, where KEY stands for the settings that decide what the VAE is given and which VAE
it is: runs that need other sizes or another VAE have caches of their own beside it. It holds pieces (safetensors, each
for a span of examples, named after what it was made of) and, once complete, `index.json`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...errors import InputError
from ...systems import get_system
from ..config import RunConfig
from ..example import Example, PreparedLatents
from .stored import StoredSource

FORMAT = 1
INDEX = "index.json"
_PIECE_BYTES = 1 << 26
_THREADS = 8
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
_WORDS = {
    "vae": "VAE", "dtype": "parallel.dtype", "area": "data.area", "unit": "data.unit", "frames": "frames",
    "max_tokens": "data.max_tokens", "system": "system", "format": "format of the cache",
}  # fmt: skip


def cache_settings(run: RunConfig, task: str) -> dict[str, Any]:
    """Everything but the data that latents depend on."""
    data = run.data
    return {
        "format": FORMAT,
        "system": run.system,
        "vae": vae_fingerprint(Path(run.files.vae)),
        "dtype": run.parallel.dtype,
        "area": data.area,
        "unit": data.unit,
        "frames": data.tasks[task].frames or data.frames,
        "max_tokens": data.max_tokens,
    }


def cache_root(run: RunConfig, task: str, path: str, held_out: bool) -> Path:
    """The folder above the caches of a task: `latents` beside the data, with a folder in it for data named by a single
    file, unless the config names another, in which each data set has a folder of its own, called by its path."""
    chosen, place = run.data.tasks[task].latents, Path(path)
    if isinstance(chosen, str):
        own = "--".join(part for part in place.parts if part != place.anchor)
        return Path(chosen) / (f"{task}_validation" if held_out else task) / own
    beside = place / "latents" if place.is_dir() else place.parent / "latents" / place.name
    return beside / task


def cache_folder(root: Path, settings: Mapping[str, Any]) -> Path:
    return root / _hash(settings)[:12]


def piece_length(settings: Mapping[str, Any]) -> int:
    """Examples per piece, so that a piece is some 64 MB at most: what an interrupted run loses, and what is in memory.

    Numbers of samples have to be a function of the settings, or restarting would cut the data differently.
    """
    system = get_system(settings["system"])
    time, rows, columns = system.vae_stride
    frames = (settings["frames"] - 1) // time + 1
    size = 4 * system.latent_channels * frames * settings["area"] // (rows * columns)
    return max(1, min(2048, _PIECE_BYTES // size))


@lru_cache(maxsize=8)
def vae_fingerprint(path: Path) -> str:
    """A hash of the VAE's files. Raises InputError when there are none."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    hashed = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 22):
                    hashed.update(block)
        except OSError as error:
            raise InputError(f"files.vae: {file} cannot be read ({error.strerror or error}).") from error
    if not files:
        raise InputError(f"files.vae: {path} is empty.")
    return hashed.hexdigest()


def stamps(source: StoredSource, numbers: Sequence[int]) -> list[str]:
    """What the media of each of these examples are, by name and mark; for one that cannot be used, why."""

    def stamp(index: int) -> str:
        try:
            return source.stamp(index)
        except InputError as error:
            return f"unusable: {error}"

    with ThreadPoolExecutor(_THREADS, "stamps") as pool:
        return list(pool.map(stamp, numbers))


def span_stamp(stamps: Sequence[str]) -> str:
    return _hash(list(stamps))


class LatentSource:
    """A stored source whose targets and references come with latents (an ExampleSource). `skipped`: number -> reason.

    Raises InputError when there is no cache for these settings, or one that is incomplete, damaged or older than the
    data. RuntimeError of `example` says that a piece has been lost since: many examples are in it, not one.
    """

    def __init__(self, source: StoredSource, root: Path, settings: Mapping[str, Any]) -> None:
        self.source, self.folder = source, cache_folder(root, settings)
        index = read_index(self.folder)
        if index is None:
            raise InputError(_explain(root, self.folder, settings, source.name))
        self._pieces = [_Piece(self.folder / piece["file"]) for piece in index["pieces"]]
        self._length = index["piece_length"]
        self.skipped = {int(number): reason for number, reason in index["skipped"].items()}
        _check_age(source, index, self.folder)
        self._check_pieces()

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    @property
    def count(self) -> int:
        """How many examples there are, those without latents included."""
        return len(self)

    def example(self, index: int) -> Example:
        """Example number `index`; its target is not read. Raises InputError when it could not be encoded."""
        if index in self.skipped:
            raise InputError(self.skipped[index])
        shape, latents = self._pieces[index // self._length].read(index)
        return replace(self.source.conditions(index, shape), latents=latents)

    def _check_pieces(self) -> None:
        with ThreadPoolExecutor(_THREADS, "pieces") as pool:
            wrong = [reason for reason in pool.map(_Piece.check, self._pieces) if reason]
        if wrong:
            raise InputError(
                f"{self.folder}: {len(wrong)} of {len(self._pieces)} files of latents cannot be read: {wrong[0]}. "
                "Remove what is damaged and run vino data encode again; it makes only what is missing."
            )


class _Piece:
    """One file of latents, opened when first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._examples: dict[str, tuple[list[int], int]] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> tuple[tuple[int, ...], PreparedLatents]:
        """The shape of the target's pixels [T, H, W, 3] before they were fitted, and float32 latents."""
        if self._file is None:
            with self._lock:
                if self._file is None:
                    self._open()
        shape, references = self._examples[str(index)]
        target, *others = (
            self._file.get_tensor(f"{index}.{number}").to(torch.float32) for number in range(references + 1)
        )
        return tuple(shape), PreparedLatents(target, tuple(others))

    def check(self) -> str:
        """What is wrong with the file; empty for nothing. It is closed again: there may be more than can be open."""
        try:
            self._header()
        except _UNREADABLE as error:
            return f"{self._path.name} ({error})"
        return ""

    def _open(self) -> None:
        try:
            file, self._examples = self._header()
            self._file = file
        except _UNREADABLE as error:
            # It was whole when the run began, so this is no example that cannot be used.
            raise RuntimeError(f"{self._path}: latents cannot be read any more ({error}).") from error

    def _header(self) -> tuple[Any, dict[str, tuple[list[int], int]]]:
        file = safe_open(str(self._path), "pt")
        return file, json.loads(file.metadata()["vino"])["examples"]


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a complete cache; None where there is none."""
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / INDEX}: cannot be read ({error}). Remove it and run vino data encode.") from error


def _check_age(source: StoredSource, index: Mapping[str, Any], folder: Path) -> None:
    advice = f"The latents in {folder} are older than the data: run vino data encode again; it does only what changed."
    # Caches of earlier versions do not say which shards they were made of.
    changed = [name for name, made_of in index.get("made_of", {}).items() if source.made_of.get(name) != made_of]
    if changed:
        raise InputError(f"{source.place}: {', '.join(changed)} changed since. {advice}")
    if len(source) != index["examples"]:
        raise InputError(f"{source.place}: {len(source)} examples; latents are of {index['examples']}. {advice}")
    found = iter(stamps(source, range(len(source))))
    for number, piece in enumerate(index["pieces"]):
        if span_stamp(list(islice(found, index["piece_length"]))) != piece["stamp"]:
            first = number * index["piece_length"]
            last = min(first + index["piece_length"], len(source)) - 1
            raise InputError(f"{source.place}: files of the examples {first} to {last} have changed. {advice}")


def _explain(root: Path, folder: Path, settings: Mapping[str, Any], task: str) -> str:
    """Why there is no cache."""
    command = "Run vino data encode with this config."
    if folder.is_dir():
        return f"data.tasks.{task}: the latents in {folder} are not complete. {command}"
    others = [(path.parent, read_index(path.parent)) for path in sorted(root.glob(f"*/{INDEX}"))]
    if not others:
        return f"data.tasks.{task}: there are no latents under {root}. {command}"
    told = []
    for other, index in others:
        theirs = index["settings"] if index else {}
        told.append(
            f"{other.name} was made with "
            + ", ".join(
                f"another {_WORDS[name]}" if name == "vae" else f"{_WORDS[name]} {theirs.get(name)} (not {value})"
                for name, value in settings.items()
                if theirs.get(name) != value
            )
        )
    return f"data.tasks.{task}: no latents under {root} fit this config: {'; '.join(told)}. {command}"


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
