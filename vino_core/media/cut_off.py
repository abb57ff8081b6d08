"""Whether the end of a clip's file is missing, by the sizes that it states itself: MP4 and MOV, Matroska and WebM, AVI.

Decoders take the end of a file for the end of the clip.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from .encoded import Encoded

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_FIRST_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip"}


def is_cut_off(source: Path | Encoded) -> bool:
    """Whether a clip, by its own statement, should be longer than it is; False for files that state nothing."""
    with io.BytesIO(source.data) if isinstance(source, Encoded) else source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        start = _at(file, 0, 12)
        if start.startswith(_EBML):
            return _end_of_segment(file) > size
        if start[:4] == b"RIFF" and start[8:] == b"AVI ":
            return _end_of_riff(file, size) > size
        return start[4:8] in _FIRST_BOXES and _end_of_boxes(file, size) > size


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _end_of_segment(file: BinaryIO) -> int:
    """Where the segment, which is all that follows Matroska's header, ends; 0 where that is not known."""
    length, size = _number(_at(file, 4, 8))
    place = 4 + length + (size or 0)
    if size is None or _at(file, place, 4) != _SEGMENT:
        return 0
    length, size = _number(_at(file, place + 4, 8))
    return place + 4 + length + size if size is not None else 0


def _number(data: bytes) -> tuple[int, int | None]:
    """How many bytes a number of variable length takes at the beginning of `data`, and the number; None for unknown."""
    length = 9 - data[0].bit_length() if data else 9
    if len(data) < length:
        return length, None
    most = (1 << 7 * length) - 1
    value = int.from_bytes(data[:length], "big") & most
    return length, None if value == most else value


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Where the last list of an AVI file ends; large ones have several."""
    place = 0
    while place < size and (head := _at(file, place, 8))[:4] == b"RIFF" and len(head) == 8:
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):  # of recorders that did not know yet
            return 0
        place += 8 + length + length % 2
    return place


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the media data of an MP4 file ends; anything else that is behind its boxes may be what it likes."""
    place = 0
    while place < size:
        head = _at(file, place, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file
            break
        place += length
        if head[4:8] == b"mdat" and place > size:
            return place
    return min(place, size)
