"""WebDataset shards, read by number: an index of where each member lies replaces streaming through the archive.

A sample is `KEY.json` with `prompt`, or `caption_long` and `caption_short`, or all three (and, as needed, `fps`,
`base_image`, `id`), `KEY.target.png` or another picture or clip, and references `KEY.image1.png`, `KEY.image2.png`,
..., `KEY.video1.mkv`, ... Pairs of `KEY.jpg` and `KEY.txt`, as many text-to-image collections have them, are read too.
"""

from __future__ import annotations

import json
import re
import tarfile
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...media.encoded import Encoded
from ...media.output import write_text
from .stored import CLIPS, PICTURES, Row, StoredSource, check_fps, check_row, suffix

_INDEX = ".index.json"
_FORMAT = 3
"""Of the index. Earlier ones were written of shards that were cut off, or in which a sample had replaced another."""
_BLOCK = 512
"""Bytes that a tar file counts in."""
_REFERENCE = re.compile(r"(image|video)(\d+)\.\w+$")

Members = dict[str, tuple[int, int]]
"""Extension -> (offset, bytes) in the shard."""


class ShardSource(StoredSource):
    """Samples of every `*.tar` at `path`, a folder or one shard, in the order of their names.

    Raises InputError when there is no shard, or when one is compressed or damaged or has the same member twice.
    """

    def __init__(self, path: str | Path, name: str, frames: int | None = None, captions: str = "both") -> None:
        super().__init__(name, Path(path), frames, captions)
        self._shards = [_Shard(file) for file in find_shards(self.place)]
        self._ends = list(accumulate(len(shard.samples) for shard in self._shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def made_of(self) -> dict[str, Any]:
        return {shard.path.name: shard.made_of for shard in self._shards}

    def files(self, index: int) -> Row:
        _, key, members = self._sample(index)
        try:
            return check_row(_row(key, members, self._settings(index)), self.name)
        except InputError as error:
            raise InputError(f"{self.where(index)}: {error}") from error

    def captions(self, index: int) -> Mapping[str, str]:
        shard, _, members = self._sample(index)
        settings = self._settings(index)
        found = {"plain": settings.get("prompt") or settings.get("caption")}
        found |= {kind: settings.get(f"caption_{kind}") for kind in ("long", "short")}
        for caption in found.values():
            if not isinstance(caption, (str, type(None))):
                raise InputError(f"{self.where(index)}: a caption is {caption!r}; it must be text.")
        captions = {kind: caption.strip() for kind, caption in found.items() if caption and caption.strip()}
        if not captions and "txt" in members:
            caption = shard.read(*members["txt"]).decode("utf-8-sig", "replace").strip()
            captions = {"plain": caption} if caption else {}
        return captions

    def where(self, index: int) -> str:
        shard, key, _ = self._sample(index)
        return f"{shard.path.name}, {key}"

    def names(self, index: int) -> list[str]:
        """Extensions of the sample's members."""
        return list(self._sample(index)[2])

    def media(self, index: int, name: str) -> Encoded:
        shard, key, members = self._sample(index)
        return Encoded(f"{shard.path}, {key}.{name}", shard.read(*members[name]))

    def mark(self, index: int, name: str) -> str:
        return str(self._sample(index)[2][name][1])

    def _sample(self, index: int) -> tuple[_Shard, str, Members]:
        number = bisect_right(self._ends, index)
        shard = self._shards[number]
        return shard, *shard.samples[index - (self._ends[number - 1] if number else 0)]

    def _settings(self, index: int) -> Mapping[str, Any]:
        shard, key, members = self._sample(index)
        if "json" not in members:
            return {}
        try:
            settings = json.loads(shard.read(*members["json"]))
        except ValueError as error:
            raise InputError(f"{key}.json is not JSON ({error}).") from error
        if not isinstance(settings, Mapping):
            raise InputError(f"{key}.json must hold an object with a prompt.")
        return settings


def find_shards(path: Path) -> list[Path]:
    """The shards at `path`. Raises InputError when there is none."""
    if not path.exists():
        raise InputError(f"{path}: there is no such folder or file. Check data.tasks.*.path.")
    found = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not found:
        raise InputError(f"{path}: there are no shards (*.tar). Check data.tasks.*.path, or write some: vino data toy.")
    return found


class _Shard:
    """One archive with the places of its members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stat = path.stat()
        self.made_of = [stat.st_size, stat.st_mtime_ns]
        self.samples = _samples(path, self.made_of)

    def read(self, offset: int, size: int) -> bytes:
        # Opened for each member: a data set may have more shards than a process may hold open.
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise InputError(f"{self.path}: the shard ends early. Copy it again and remove {self.path.name}{_INDEX}.")
        return data


def _samples(path: Path, made_of: list[int]) -> list[tuple[str, Members]]:
    """From the index beside the shard, which is made anew when the shard has changed."""
    beside = path.with_name(path.name + _INDEX)
    try:
        known = json.loads(beside.read_text(encoding="utf-8"))
        if known["format"] == _FORMAT and known["made_of"] == made_of:
            return [(key, members) for key, members in known["samples"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or of an interrupted or other version: it is only a shortcut
    samples = _scan(path)
    index = {"format": _FORMAT, "made_of": made_of, "samples": samples}
    try:
        write_text(beside, json.dumps(index, separators=(",", ":")))
    except InputError:
        pass  # a folder that cannot be written to is scanned each time
    return samples


def _scan(path: Path) -> list[tuple[str, Members]]:
    samples: dict[str, Members] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, extension = name.partition(".")
                    key = f"{folder}/{key}" if folder else key
                    members = samples.setdefault(key, {})
                    if extension.lower() in members:
                        raise InputError(
                            f"{path}: {key}.{extension} is in it more than once. Write the shard again, with a key of "
                            "its own for each sample."
                        )
                    members[extension.lower()] = (member.offset_data, member.size)
            _check_end(path, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a whole, uncompressed tar archive ({error}). Write or copy it again.") from error
    return list(samples.items())


def _check_end(path: Path, end: int) -> None:
    """Raise InputError unless nothing but zeros, one block of 512 at least, follow the last member at byte `end`.

    Readers of tar files stop there without a word: where a copy broke off between two members, and where another shard
    was appended.
    """
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(_BLOCK)
        if len(rest) < _BLOCK:
            raise InputError(f"{path}: the shard has no end mark, so it was cut off. Write or copy it again.")
        while rest:
            if any(rest):
                raise InputError(
                    f"{path}: something follows the shard's end mark. Shards cannot be joined with cat: keep both."
                )
            rest = file.read(1 << 20)


def _row(key: str, members: Members, settings: Mapping[str, Any]) -> Row:
    media = PICTURES | CLIPS
    targets = [name for name in members if name.startswith("target.")]
    targets = targets or [name for name in members if suffix(name) in media and not _REFERENCE.match(name)]
    if len(targets) != 1:
        raise InputError(f"{len(targets)} targets; each sample has one, such as {key}.target.png.")
    references: dict[str, dict[int, str]] = {"image": {}, "video": {}}
    for name in members:
        if match := _REFERENCE.match(name):
            references[match[1]][int(match[2])] = name
    for kind, found in references.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            raise InputError(f"references {kind}{', '.join(map(str, sorted(found)))}; they must count 1, 2, 3, ...")
    base_image = settings.get("base_image", False)
    if not isinstance(base_image, bool):
        raise InputError(f"base_image is {base_image!r}; it must be true or false.")
    return Row(
        id=str(settings.get("id", key)),
        target=targets[0],
        images=tuple(name for _, name in sorted(references["image"].items())),
        videos=tuple(name for _, name in sorted(references["video"].items())),
        fps=check_fps(settings.get("fps")),
        base_image=base_image,
    )
