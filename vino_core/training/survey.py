"""What a folder holds to train on, looked through before a run: examples by task, and what is wrong with the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..interruption import may_go_on
from .data.captioned import TASKS as CAPTIONED
from .data.captioned import CaptionedSource, left_out
from .data.check import open_row
from .data.folder import FolderSource
from .data.manifest import NAME
from .data.stored import MEDIA, StoredSource
from .example import TASKS, Example

Size = tuple[int, int]


def folder_sources(folder: Path, frames: int | None = None, seen: int | None = None) -> dict[str, StoredSource]:
    """The examples of a folder by task: those of its manifest or, without one, pictures and clips with captions.

    Of clips the first `frames` frames are read, of reference clips `seen` more over the whole; None reads all. Raises
    InputError when there are no examples.
    """
    listed = (folder / NAME).is_file()
    sources: dict[str, StoredSource] = {}
    for task in TASKS if listed else CAPTIONED:
        source = FolderSource(folder, task, frames) if listed else CaptionedSource(folder, task, frames)
        source.seen = seen
        if len(source):
            sources[task] = source
    if not sources:
        where = f"its {NAME} has no rows" if listed else "there are no pictures or clips in it"
        raise InputError(
            f"{folder}: {where}. Put pictures or clips into it, each {MEDIA} with its caption in a text file of the "
            "same name."
        )
    return sources


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the examples of a source (an ExampleSource)."""

    source: StoredSource
    indices: Sequence[int]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def count(self) -> int:
        return len(self.indices)

    def example(self, index: int) -> Example:
        return self.source.example(self.indices[index])


@dataclass(frozen=True, eq=False)
class Survey:
    """`rows`: usable examples by task, by their index in its source. `problems`: why others are not, each naming its
    file; files that only look like examples are among them. `sizes`: (width, height) of every target. `stamp` changes
    with every file that was looked at."""

    rows: Mapping[str, tuple[int, ...]]
    problems: tuple[str, ...]
    sizes: tuple[Size, ...]
    stamp: str

    @property
    def count(self) -> int:
        return len(self.sizes)

    def summary(self) -> str:
        """In words, a few lines."""
        lines = [f"{self.count} examples: " + ", ".join(f"{len(rows)} {task}" for task, rows in self.rows.items())]
        ordered = [f"{width}x{height}" for width, height in sorted(self.sizes, key=lambda size: size[0] * size[1])]
        lines.append(f"from {ordered[0]} to {ordered[-1]} pixels")
        if self.problems:
            lines += [f"left out: {len(self.problems)}", *self.problems]
        return "\n".join(lines)


def survey(folder: Path) -> Survey:
    """Look at every example of `folder`: its caption, and whether its files can be read.

    Raises InputError when there is nothing to look at.
    """
    rows: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    sizes: list[Size] = []
    digest = hashlib.sha256()
    found = folder_sources(folder)
    for task, source in found.items():
        usable = []
        for index in range(len(source)):
            may_go_on()
            try:
                row = source.row(index)
                _, height, width = open_row(source, index, row)[0]
                sizes.append((width, height))
                digest.update(f"{task} {row.prompt}\n{source.stamp(index)}\n".encode())
                usable.append(index)
            except InputError as error:
                problems.append(str(error))
        if usable:
            rows[task] = tuple(usable)
    if any(isinstance(source, CaptionedSource) for source in found.values()):
        problems += left_out(folder)
    return Survey(rows, tuple(problems), tuple(sizes), digest.hexdigest())
