"""Pictures and clips with a text file beside each: the simplest data for a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from .manifest import NAME
from .stored import CLIPS, MEDIA, PICTURES, Row, StoredSource, check_row, file_mark, is_clip

TASKS = ("t2i", "t2v")
OTHER_MEDIA = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".apng", ".psd", ".svg", ".tga", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".m2ts", ".3gp", ".ogv", ".vob", ".mxf"),
}
"""Pictures and clips of kinds that are not read. Files of any other kind are nobody's business, but for captions."""
_NO_CAPTIONS = ("readme", "licen", "copying", "notice", "changelog", "requirements")
"""What the names of text files begin with that are no captions."""


class CaptionedSource(StoredSource):
    """The pictures (`name` "t2i") or clips ("t2v") of a folder and its subfolders, in the order of their names.

    The caption of `cat.png` is what `cat.txt` says. Raises InputError when the folder is not there, for a task with
    references, and for captions of one length only. What is wrong with a file or its caption is said when it is read.
    """

    def __init__(self, path: str | Path, name: str, frames: int | None = None, captions: str = "both") -> None:
        super().__init__(name, Path(path), frames, captions)
        if name not in TASKS:
            raise InputError(f"{path}: pictures and clips with captions are for {', '.join(TASKS)}; {name} has "
                             f"references, which only a {NAME} can name.")  # fmt: skip
        if captions != "both":
            raise InputError(f"{path}: a text file beside each has one caption; data.tasks.{name}.captions asks for "
                             f"{captions} ones. Leave the setting out, or write a {NAME}.")  # fmt: skip
        self._names = [media for media in media_files(self.place) if is_clip(media) == (name == "t2v")]

    def __len__(self) -> int:
        return len(self._names)

    def files(self, index: int) -> Row:
        name = self._names[index]
        return check_row(Row(id=name, target=name), self.name)

    def captions(self, index: int) -> Mapping[str, str]:
        name = self._names[index]
        file = (self.place / name).with_suffix(".txt")
        try:
            caption = file.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            caption = ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as UTF-8 text ({error}). Write it again.") from error
        if not caption:
            raise InputError(f"{name}: the caption is missing or empty. Write what can be seen into {file.name}.")
        return {"plain": caption}

    def where(self, index: int) -> str:
        return self._names[index]

    def media(self, index: int, name: str) -> Path:
        return self.place / name

    def mark(self, index: int, name: str) -> str:
        return file_mark(self.place / name, "It was there a moment ago: begin again.")


def is_captioned(path: Path) -> bool:
    """Whether `path` is a folder of this kind: pictures or clips and no manifest."""
    return path.is_dir() and not (path / NAME).is_file() and bool(media_files(path))


def media_files(folder: Path) -> list[str]:
    """Paths within `folder` of its pictures and clips, hidden ones left out. Raises InputError when it is no folder."""
    return [file.as_posix() for file in _files(folder) if file.suffix.lower() in PICTURES | CLIPS]


def left_out(folder: Path) -> list[str]:
    """Files of a folder with captions that look like examples and are none, each with what to do about it: pictures and
    clips of a kind that is not read (OTHER_MEDIA), and text files that are the caption of nothing.

    Hidden files, text files named like README.txt, and everything else that is neither media nor text say nothing.
    """
    files = _files(folder)
    known = {file.with_suffix("") for file in files if file.suffix.lower() in PICTURES | CLIPS}
    other = [file for file in files if file.suffix.lower() in OTHER_MEDIA]
    problems = [
        f"{file.as_posix()}: {file.suffix} files are not read. Convert it to {MEDIA}, or remove it." for file in other
    ]
    named = known | {file.with_suffix("") for file in other}
    problems += [
        f"{file.as_posix()}: a caption of nothing. Put {MEDIA} of the same name beside it, such as {file.stem}.png, "
        "or remove it."
        for file in files
        if file.suffix.lower() == ".txt"
        and file.with_suffix("") not in named
        and not file.name.lower().startswith(_NO_CAPTIONS)
    ]
    return problems


def _files(folder: Path) -> list[Path]:
    """Files within `folder` by their paths from it, in order, hidden ones left out. Raises InputError when it is no
    folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder.")
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(
        (file for file in found if not any(part.startswith(".") for part in file.parts)),
        key=lambda file: file.as_posix(),
    )
