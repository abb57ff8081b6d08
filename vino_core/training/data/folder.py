"""A plain folder of pictures and clips with a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from .. import draws
from .manifest import ManifestRow, find_manifest, manifest_rows
from .stored import Row, StoredSource, check_row


class FolderSource(StoredSource):
    """The rows of `name`'s task in the manifest at `path`, a file or a folder that has one.

    `captions`: "long" or "short" takes `caption_long` or `caption_short`; "both" one of those that a row has, always
    the same one for the same row. Malformed rows are errors unless `strict` is off. Raises InputError for a manifest
    that is missing or has a malformed row. What is wrong with a row's files is said when it is read.
    """

    def __init__(
        self, path: str | Path, name: str, frames: int | None = None, captions: str = "both", strict: bool = True
    ) -> None:
        self.manifest = find_manifest(Path(path))
        super().__init__(name, self.manifest, frames)
        self._captions = captions
        self._rows: list[ManifestRow] = []
        for row in manifest_rows(self.manifest):
            if isinstance(row, str):
                if strict:
                    raise InputError(f"{self.manifest.parent}: {row} Correct the line, or remove it.")
            elif row.task == name:
                self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        found = self._rows[index]
        try:
            return check_row(replace(found.row, prompt=self._caption(found, index)), self.name)
        except InputError as error:
            raise InputError(f"{self.manifest.name}, line {found.line} (index {found.row.id}): {error}") from error

    def media(self, index: int, name: str) -> Path:
        return self.manifest.parent / name

    def size(self, index: int, name: str) -> int:
        path = self.manifest.parent / name
        try:
            return path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: there is no such file. Check line {self._rows[index].line}.") from error

    def _caption(self, found: ManifestRow, index: int) -> str:
        if self._captions != "both":
            return found.captions.get(self._captions, "")
        kinds = sorted(found.captions)
        if len(kinds) < 2:
            return found.captions[kinds[0]] if kinds else ""
        return found.captions[kinds[draws.numbers("caption", index).integers(len(kinds))]]
