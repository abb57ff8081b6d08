"""A plain folder of pictures and clips with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import InputError
from .manifest import ManifestRow, find_manifest, manifest_rows
from .stored import Row, StoredSource, check_row, file_mark


class FolderSource(StoredSource):
    """The rows of `name`'s task in the manifest at `path`, a file or a folder that has one.

    Malformed rows are errors unless `strict` is off. Raises InputError for a manifest
    that is missing or has a malformed row. What is wrong with a row's files is said when it is read.
    """

    def __init__(
        self, path: str | Path, name: str, frames: int | None = None, captions: str = "both", strict: bool = True
    ) -> None:
        self.manifest = find_manifest(Path(path))
        super().__init__(name, self.manifest, frames, captions)
        self._rows: list[ManifestRow] = []
        for row in manifest_rows(self.manifest):
            if isinstance(row, str):
                if strict:
                    raise InputError(f"{self.manifest.parent}: {row} Correct the line, or remove it.")
            elif row.task == name:
                self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def files(self, index: int) -> Row:
        try:
            return check_row(self._rows[index].row, self.name)
        except InputError as error:
            raise InputError(f"{self.where(index)}: {error}") from error

    def captions(self, index: int) -> Mapping[str, str]:
        return self._rows[index].captions

    def where(self, index: int) -> str:
        found = self._rows[index]
        return f"{self.manifest.name}, line {found.line} (index {found.row.id})"

    def media(self, index: int, name: str) -> Path:
        return self.manifest.parent / name

    def mark(self, index: int, name: str) -> str:
        return file_mark(self.manifest.parent / name, f"Check line {self._rows[index].line}.")
