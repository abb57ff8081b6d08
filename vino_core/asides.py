"""Files that are made under another name beside their place, and what killed processes left of theirs.

Whoever makes one holds a lock on it, which ends with the process, however that ends. So a part that can be locked is of
nobody any more, and others are left alone, whoever writes beside them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows, which refuses to remove what is open
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.[0-9a-f]{16}\.part")
_HERE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_OLD = 24 * 3600.0
"""Seconds after which a part that another machine made counts as left: some file systems lock for each machine alone,
and some machines, containers, never come back."""


@contextmanager
def held_asides(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Empty temporary files beside each of `paths`, to be filled and renamed; what is left of them at the end goes.

    Missing parent folders are made, and what killed processes left in them is removed. Raises OSError.
    """
    for folder in dict.fromkeys(path.parent for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
    with ExitStack() as held:
        yield [held.enter_context(_held(path.parent)) for path in paths]


def remove_abandoned(folder: Path) -> None:
    """Remove the parts in `folder` that nobody writes any more; those that cannot be removed stay."""
    for path in _parts(folder):
        with suppress(OSError):
            if fcntl is None:
                if _is_old(path):
                    path.unlink()
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.name.startswith(f".{_HERE}") or _is_old(path):
                    path.unlink()  # while it is locked: its maker may have made it just now, and looks
            finally:
                os.close(file)


def _parts(folder: Path) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    except OSError:
        return []


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _OLD


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    path, file = _made(folder)
    try:
        if fcntl is None:
            file.close()  # Windows does not rename what is open
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()


def _made(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file of a name of its own, open, and locked where files can be."""
    while True:
        path = folder / f".{_HERE}{secrets.token_hex(4)}.part"
        file = path.open("x+b")
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():  # taken for an abandoned one before it was locked
                file.close()
                continue
        return path, file
