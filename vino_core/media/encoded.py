"""A picture or clip that lies in memory, as members of archives do, where its file is meant otherwise."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError


@dataclass(frozen=True)
class Encoded:
    """The bytes of a media file; `name` is what messages call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Source = str | Path | Encoded


def usable(source: Source, kind: str) -> Path | Encoded:
    """`source` when something is there. Raises InputError, calling it a `kind`, when it is missing or empty."""
    found = source if isinstance(source, Encoded) else Path(source)
    if isinstance(found, Path) and not found.is_file():
        raise InputError(f"{found}: there is no such {kind} file. Check the path.")
    if (len(found.data) if isinstance(found, Encoded) else found.stat().st_size) == 0:
        raise InputError(f"{found}: the {kind} file is empty (0 bytes). Copy or export it again.")
    return found


def readable(source: Path | Encoded) -> str | BinaryIO:
    """What Pillow and PyAV open."""
    return io.BytesIO(source.data) if isinstance(source, Encoded) else str(source)
