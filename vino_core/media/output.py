"""Files made for users appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

_REMEDIES = {
    errno.ENOSPC: "Free some space there or choose another output folder",
    errno.EDQUOT: "Free some space there or choose another output folder",
    errno.EACCES: "Make the folder writable or choose another one",
    errno.EPERM: "Make the folder writable or choose another one",
    errno.EROFS: "Choose a folder that is not read-only",
    errno.ENOTDIR: "Choose an output path whose parent is a folder",
    errno.EISDIR: "Choose a file name that is not a folder's",
    errno.ENAMETOOLONG: "Choose a shorter file name",
}


@contextmanager
def write_aside(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary binary file beside `path` that takes its name when the block ends without an error.

    Missing parent folders are made. After any error nothing of the file is left and an older file of that name is
    untouched; a full disk or an unwritable folder raises InputError.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Check the output folder or choose another one")
        raise InputError(f"{path}: cannot be written ({error.strerror or error}). {remedy}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
