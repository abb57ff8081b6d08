"""Examples that lie on a disk as media files: what folders and shards have in common."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...media.encoded import Encoded
from ...media.excerpt import Excerpt
from ...media.images import read_image
from ...media.sizing import TEMPORAL_STRIDE
from ...media.videos import read_clip, read_excerpt
from .. import draws
from ..example import Example

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
CLIPS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif"}
MEDIA = f"a picture ({' '.join(sorted(PICTURES))}) or a clip ({' '.join(sorted(CLIPS))})"
"""What can be read, for messages."""
_MANY = 1000


class Shape(NamedTuple):
    """What an example of a task consists of: fewest and most reference pictures and clips, and a clip as result?"""

    images: tuple[int, int]
    videos: tuple[int, int]
    clip: bool


SHAPES = {
    "t2i": Shape((0, 0), (0, 0), False),
    "t2v": Shape((0, 0), (0, 0), True),
    "i2v": Shape((1, 1), (0, 0), True),
    "ti2v": Shape((1, _MANY), (0, 0), True),
    "ti2i": Shape((1, _MANY), (0, 0), False),
    "ti2i_baseimg": Shape((1, _MANY), (0, 0), False),
    "tv2v": Shape((0, 0), (1, _MANY), True),
    "tiv2v": Shape((1, _MANY), (1, _MANY), True),
    "tiv2v_clone": Shape((1, _MANY), (1, _MANY), True),
    "tiv2v_camclone": Shape((1, _MANY), (1, _MANY), True),
    "reconstruct_image": Shape((1, 1), (0, 0), False),
    "select_image": Shape((2, _MANY), (0, 0), False),
}


@dataclass(frozen=True)
class Row:
    """One example before any of its media is opened. Media are named as the source knows them.

    `prompt` is empty where nobody asked for it. `fps` is needed only where the clips do not state their rate rightly;
    None takes it from the clips.
    """

    id: str
    target: str
    prompt: str = ""
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    fps: float | None = None
    base_image: bool = False

    @property
    def media(self) -> tuple[str, ...]:
        return (self.target, *self.images, *self.videos)


class StoredSource(ABC):
    """Examples of one task by number (an ExampleSource). `place` is what messages call it.

    `captions`: "long" or "short" takes captions of that length; "both" one of those that a row has, always the same one
    for the same row.
    """

    def __init__(self, name: str, place: Path, frames: int | None = None, captions: str = "both") -> None:
        self.name, self.place, self.frames, self.wanted = name, place, frames, captions
        self.seen: int | None = None
        """Frames of a whole reference clip that the text encoder sees. Long clips keep these and their first `frames`
        alone; None keeps all."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self)

    @property
    def made_of(self) -> dict[str, Any]:
        """Files that hold many examples, each with what tells it from another one of that name; none if there are none.

        Plain values.
        """
        return {}

    @abstractmethod
    def files(self, index: int) -> Row:
        """Row number `index` without its prompt. Raises InputError when it cannot be used, whatever its media hold."""

    @abstractmethod
    def captions(self, index: int) -> Mapping[str, str]:
        """The captions that row number `index` has: "plain", "long", "short". Raises InputError for unreadable ones."""

    @abstractmethod
    def where(self, index: int) -> str:
        """What messages call row number `index`."""

    @abstractmethod
    def media(self, index: int, name: str) -> Path | Encoded:
        """One of the row's media, to be read."""

    @abstractmethod
    def mark(self, index: int, name: str) -> str:
        """What is cheap to ask of one of the row's media, and tells it from another one of that name.

        Raises InputError when it is missing.
        """

    def row(self, index: int) -> Row:
        """Row number `index`. Raises InputError when it cannot be used, whatever its media hold."""
        row = self.files(index)
        captions = self.captions(index)
        kinds = sorted(captions) if self.wanted == "both" else [kind for kind in captions if kind == self.wanted]
        if not kinds:
            kind, field = ("", "") if self.wanted == "both" else (f"{self.wanted} ", f" as caption_{self.wanted}")
            raise InputError(
                f"{self.where(index)}: the {kind}caption is missing or empty. Write one{field}, or leave the example "
                "out."
            )
        chosen = draws.numbers("caption", index).integers(len(kinds)) if len(kinds) > 1 else 0
        return replace(row, prompt=captions[kinds[chosen]])

    def example(self, index: int, captioned: bool = True) -> Example:
        """Example number `index`; of its target the first `frames` frames at most. Raises InputError when unusable.

        Without `captioned` its prompt is empty, whatever captions it has or lacks.
        """
        row = self.row(index) if captioned else self.files(index)
        try:
            target, fps = self._target(index, row)
            return self._finish(index, row, target, fps)
        except InputError as error:
            raise InputError(f"{row.id}: {error}") from error

    def conditions(self, index: int, target: tuple[int, ...]) -> Example:
        """Example number `index` whose target, of a shape that is known, is not read: it is a tensor without data."""
        return self._finish(index, self.row(index), torch.empty(target, dtype=torch.uint8, device="meta"), None)

    def stamp(self, index: int) -> str:
        """Names and marks of the row's media, and what else decides their sizes: cheap to ask for, and another one when
        a file was exchanged or another picture is to be edited.

        Raises InputError when a file is missing.
        """
        row = self.files(index)
        return "\n".join([*(f"{name} {self.mark(index, name)}" for name in row.media), *sizing(row)])

    def digest(self, index: int) -> str:
        """A hash of what the row's media hold, and in which order. Raises InputError when a file is missing."""
        hashed = hashlib.blake2b(digest_size=16)
        for name in self.files(index).media:
            media = self.media(index, name)
            data = media.data if isinstance(media, Encoded) else _bytes(media)
            hashed.update(hashlib.blake2b(data, digest_size=16).digest())
        return hashed.hexdigest()

    def _target(self, index: int, row: Row) -> tuple[Tensor, float | None]:
        media = self.media(index, row.target)
        if not is_clip(row.target):
            return read_image(media)[None], None
        frames, fps = read_clip(media, self.frames)
        return frames[: usable_frames(len(frames), row.target, self.frames)], fps

    def _reference(self, media: Path | Encoded) -> tuple[Tensor | Excerpt, float]:
        if self.frames is None or self.seen is None:
            return read_clip(media)
        return read_excerpt(media, self.frames, self.seen)

    def _finish(self, index: int, row: Row, target: Tensor, fps: float | None) -> Example:
        videos = []
        for name in row.videos:
            frames, rate = self._reference(self.media(index, name))
            videos.append(frames)
            fps = fps or rate
        return Example(
            id=row.id,
            task=self.name,
            prompt=row.prompt,
            target=target,
            images=tuple(read_image(self.media(index, name)) for name in row.images),
            videos=tuple(videos),
            fps=row.fps or fps or 24.0,
            base_image=row.base_image,
        )


def usable_frames(count: int, name: str, limit: int | None = None) -> int:
    """The most frames, 4n + 1, of a target clip of `count`, of which at most `limit` were read. Raises InputError for
    one that is hardly more than a picture, unless no more was asked for."""
    if count <= TEMPORAL_STRIDE and (limit is None or limit > TEMPORAL_STRIDE):
        raise InputError(f"{name}: {count} frames; a clip to learn from has at least {TEMPORAL_STRIDE + 1}.")
    return (count - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def suffix(name: str) -> str:
    """ ".png" of a file's name, or of a member's extension, which may be nothing but "png"."""
    return "." + name.rpartition(".")[2].lower()


def is_clip(name: str) -> bool:
    return suffix(name) in CLIPS


def check_row(row: Row, task: str) -> Row:
    """`row` if it has what its task needs. Raises InputError that says what is missing."""
    shape = SHAPES[task]
    for kind, found, (fewest, most) in (
        ("reference pictures", len(row.images), shape.images),
        ("reference clips", len(row.videos), shape.videos),
    ):
        if not fewest <= found <= most:
            allowed = f"{fewest}" if fewest == most else f"{fewest} or more"
            raise InputError(f"{found} {kind}; {task} takes {allowed}.")
    known = PICTURES | CLIPS
    for name in row.media:
        if suffix(name) not in known:
            raise InputError(f"{name}: neither a picture nor a clip by its name. Known: {', '.join(sorted(known))}.")
    if is_clip(row.target) != shape.clip:
        raise InputError(f"target {row.target}: {task} makes a {'clip' if shape.clip else 'picture'}.")
    for name, clip in [(name, False) for name in row.images] + [(name, True) for name in row.videos]:
        if is_clip(name) != clip:
            raise InputError(f"{name}: a {'clip' if clip else 'picture'} is expected here.")
    return row


def check_fps(value: Any) -> float | None:
    """A frame rate as data files state it, None for none. Raises InputError for what is no rate."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"fps is {value!r}; it must be a number above 0, in frames per second.")
    return float(value)


def file_mark(path: Path, advice: str) -> str:
    """Size and time of the last change of a file. Raises InputError when there is none."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: there is no such file ({error.strerror}). {advice}") from error
    return f"{found.st_size} {found.st_mtime_ns}"


def sizing(row: Row) -> list[str]:
    """What of a row beside its media decides their sizes: where references shrink, the picture to edit does not."""
    return ["base image"] if row.base_image else []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
