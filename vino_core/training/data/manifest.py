"""Manifests of plain folders: a JSONL file whose rows are those of a task list, with the path of the result.

    {"index": 7, "task": "ti2i", "caption": "Paint the car red.", "ref_image_paths": ["cars/7.png"],
     "target_path": "cars/7_red.png"}

Fields are those of a task list (`index`, `task`, `caption`, `ref_image_paths`, `ref_video_path`, `ref_image_have_base`)
and `target_path`, and optionally `caption_long`, `caption_short` and `fps`. Paths count from the manifest's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..example import TASKS
from .stored import MEDIA, Row, check_fps

NAME = "manifest.jsonl"
_TEXT: tuple[type, ...] = (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "index": (str, int),
    "task": (str,),
    "target_path": (str,),
    "caption": _TEXT,
    "caption_long": _TEXT,
    "caption_short": _TEXT,
    "ref_image_paths": (list, type(None)),
    "ref_video_path": (str, list, type(None)),
    "ref_image_have_base": (bool, type(None)),
    "fps": (int, float, type(None)),
}
_NEEDED = ("index", "task", "target_path")


@dataclass(frozen=True)
class ManifestRow:
    """One line: its number from 1, its task, its captions by length, and the rest without a prompt."""

    line: int
    task: str
    captions: Mapping[str, str]
    row: Row


def find_manifest(path: Path) -> Path:
    """The manifest at `path`, a file or a folder that has one. Raises InputError when there is none."""
    if not path.exists():
        raise InputError(f"{path}: there is no such {'file' if path.suffix else 'folder'}. Check the path.")
    found = path / NAME if path.is_dir() else path
    if not found.is_file():
        raise InputError(
            f"{path}: the folder has neither pictures or clips nor a {NAME}. Put into it each {MEDIA} with its caption "
            f"in a text file of the same name, or write a {NAME}; see docs/training.md."
        )
    return found


def manifest_rows(path: Path) -> Iterator[ManifestRow | str]:
    """The rows of a manifest in order; for one that is malformed, what is wrong with it, naming its line.

    Raises InputError when the file cannot be read.
    """
    try:
        # Not splitlines: JSON may have other ends of lines, such as U+2028, within its text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}). Write it again.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _parse(line, number)
            except InputError as error:
                yield f"{path.name}, line {number}: {error}"


def _parse(line: str, number: int) -> ManifestRow:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON ({error}).") from error
    if not isinstance(values, Mapping):
        raise InputError("a row is an object with index, task, caption and target_path.")
    unknown = sorted(set(values) - set(_KINDS))
    if unknown:
        raise InputError(f"unknown fields {', '.join(unknown)}. Known: {', '.join(_KINDS)}.")
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise InputError(f"{', '.join(missing)} missing.")
    for name, kinds in _KINDS.items():
        value = values.get(name)
        is_right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if name in values and not is_right:
            allowed = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise InputError(f"{name} is {value!r}; it must be {allowed}.")
    base_image = bool(values.get("ref_image_have_base"))
    task = values["task"]
    if base_image and f"{task}_baseimg" in TASKS:
        task = f"{task}_baseimg"
    if task not in TASKS:
        raise InputError(f"task '{task}' is unknown. Known: {', '.join(TASKS)}.")
    videos = values.get("ref_video_path") or []
    row = Row(
        id=str(values["index"]),
        target=values["target_path"],
        images=_names(values.get("ref_image_paths") or [], "ref_image_paths"),
        videos=_names([videos] if isinstance(videos, str) else videos, "ref_video_path"),
        fps=check_fps(values.get("fps")),
        base_image=base_image or task == "ti2i_baseimg",
    )
    names = {"plain": "caption", "long": "caption_long", "short": "caption_short"}
    captions = {kind: values[name] for kind, name in names.items() if (values.get(name) or "").strip()}
    return ManifestRow(number, task, captions, row)


def _names(values: list[Any], field: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"{field} holds {value!r}; it must be a list of paths.")
    return tuple(values)
