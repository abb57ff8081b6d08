"""Looking at data before a run: every file is opened, and everything that is wrong is listed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError
from ...media.images import read_image
from ...media.references import prepared_size
from ...media.videos import count_damaged, probe
from ...systems import get_system
from ...systems.base import System
from ..config import Data, RunConfig, Task
from ..example import TASKS
from ..fitting import Fit, fitted
from .buckets import Buckets
from .captioned import TASKS as CAPTIONED
from .captioned import CaptionedSource, is_captioned, left_out
from .folder import FolderSource
from .latents import LatentSource, cache_root, cache_settings
from .manifest import find_manifest, manifest_rows
from .opening import stored_source
from .shards import ShardSource
from .stored import Row, StoredSource, is_clip, usable_frames

Progress = Callable[[int, int], None]
"""Called with (examples looked at, examples in all)."""


@dataclass
class Finding:
    """What was found in the examples of one task at one place. `problems` name file and row; `adapted` are examples
    whose references have to be made smaller, or are shorter than the target; `notes` are what a run does not mind."""

    title: str
    examples: int = 0
    buckets: Buckets = field(default_factory=Buckets)
    problems: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count = len(self.problems)
        wrong = "nothing wrong" if not count else f"{count} problem{'s' if count > 1 else ''}"
        lines = [f"{self.title}: {self.examples} examples, {wrong}"]
        lines[0] += f", {len(self.adapted)} adapted" if self.adapted else ""
        lines += [self.buckets.table()] if self.buckets.counts else []
        return "\n".join([*lines, *(f"  {line}" for line in self.problems + self.adapted + self.notes)])


@dataclass(frozen=True)
class Checker:
    """How to look: `full` decodes every frame, otherwise a clip's frames are counted and the first one is decoded."""

    data: Data
    system: System
    full: bool = False
    progress: Progress = lambda done, total: None

    @property
    def smallest_area(self) -> int:
        """The area at which most references are too narrow, of those that samples are drawn at."""
        return self.data.smallest_area or self.data.area

    def look(self, title: str, source: StoredSource) -> Finding:
        """Open every file of every example."""
        finding = Finding(title, len(source))
        if not len(source):
            finding.problems.append(f"{source.place}: there are no examples of {source.name}.")
        with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1)), "check") as pool:
            found = pool.map(lambda index: self._fit(source, index), range(len(source)))
            for done, (where, fit) in enumerate(found, start=1):
                if isinstance(fit, str):
                    finding.problems.append(f"{where}: {fit}")
                else:
                    finding.buckets.add((fit.frames, fit.height, fit.width))
                    finding.adapted += [f"adapted: {where}: {fit.note}"] if fit.note else []
                self.progress(done, len(source))
        return finding

    def _fit(self, source: StoredSource, index: int) -> tuple[str, Fit | str]:
        """Where an example is, and the sizes it is trained at or what is wrong with it."""
        where = f"{source.place}, example {index}"
        try:
            row = source.row(index)
            where = f"{source.place}, example {index} ({row.id})"
            target, *others = open_row(source, index, row, self.full)
            images = [size[1:] for size in others[: len(row.images)]]
            clips = others[len(row.images) :]
            if not self.system.one_size:
                for _, height, width in clips:
                    prepared_size(width, height, self.smallest_area, self.data.unit, "Reference video")
            lengths = [frames for frames, *_ in clips]
            return where, fitted(target, images, lengths, row.base_image, source.name, self.data, self.system)
        except InputError as error:
            return where, str(error)
        except Exception as error:  # it would end a run, so it is named here like any other
            return where, f"{type(error).__name__}: {error}"


def open_row(source: StoredSource, index: int, row: Row, full: bool = False) -> list[tuple[int, int, int]]:
    """Frames, height and width of an example's target and references, all of whose files are opened; the target's
    frames are those that can be used. Raises InputError for an example that cannot be used."""
    sizes = [open_media(source, index, name, full) for name in row.media]
    if is_clip(row.target):
        frames, *size = sizes[0]
        sizes[0] = usable_frames(min(frames, source.frames or frames), row.target, source.frames), *size
    return sizes


def open_media(source: StoredSource, index: int, name: str, full: bool = False) -> tuple[int, int, int]:
    """Frames, height and width of one of a row's files. Raises InputError when it cannot be read; of a clip the first
    frame is, or with `full` every one."""
    media = source.media(index, name)
    if not is_clip(name):
        return 1, *read_image(media).shape[:2]
    info = probe(media)
    if full:
        decoded, damaged = count_damaged(media)
        if damaged or decoded != info.frames:
            raise InputError(f"{media}: {decoded} of {info.frames} frames can be decoded, {damaged} are damaged.")
    return info.frames, info.height, info.width


def check_config(run: RunConfig, full: bool = False, progress: Progress = lambda done, total: None) -> list[Finding]:
    """What `run` would read from disks: examples of tasks with a weight, held-out ones, manifests, and latents."""
    checker = Checker(run.data, get_system(run.system), full, progress)
    findings: list[Finding] = []
    looked_at: set[Path] = set()
    for name, task in run.data.tasks.items():
        for path, held_out in ((task.path, False), (task.validation, True)):
            if task.source == "toy" or path is None or (task.weight == 0 and not held_out):
                continue
            title = f"data.tasks.{name}.{'validation' if held_out else 'path'} {path}"
            try:
                source = stored_source(run, name, path, strict=False)
            except InputError as error:
                findings.append(Finding(title, problems=[str(error)]))
                continue
            is_new = source.place.resolve() not in looked_at
            looked_at.add(source.place.resolve())
            if isinstance(source, FolderSource) and is_new:
                findings += _malformed(source.manifest)
            finding = checker.look(title, source)
            if isinstance(source, CaptionedSource) and is_new:
                finding.problems += left_out(source.place)
            if task.latents:
                try:
                    LatentSource(source, cache_root(run, name, path, held_out), cache_settings(run, name))
                except InputError as error:
                    finding.problems.append(str(error))
            findings.append(finding)
    if not findings:
        raise InputError("data.tasks: every task is of the toy world, which needs no check.")
    return findings


def check_path(
    path: Path,
    system: System,
    area: int,
    frames: int,
    task: str | None = None,
    full: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Finding]:
    """A folder with a manifest or with captions beside its files, or shards, of whatever tasks are in it.

    `task` says what shards are that do not. Raises InputError when they do not and it is missing, and when it is given
    for anything else.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"--task {task}: unknown. Known: {', '.join(TASKS)}.")
    dropped: list[str] = []
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        findings: list[Finding] = []
        try:
            shards = ShardSource(path, "t2i")
        except InputError as error:
            return [Finding(str(path), problems=[str(error)])]
        sources: list[StoredSource] = [ShardSource(path, task or _task_of_shards(shards), frames)]
    elif task is not None:
        raise InputError(f"--task {task}: it is for shards. {path} has none; what lies there says its task itself.")
    elif is_captioned(path):
        sources = [source for name in CAPTIONED if len(source := CaptionedSource(path, name, frames))]
        findings = []
        dropped = left_out(path)
    else:
        rows = manifest_rows(find_manifest(path))
        found = {row.task for row in rows if not isinstance(row, str)}
        sources = [FolderSource(path, name, frames, strict=False) for name in TASKS if name in found]
        findings = _malformed(find_manifest(path))
    tasks = {source.name: Task(weight=1.0, path=str(path)) for source in sources}
    checker = Checker(Data(tasks=tasks, area=area, frames=frames), system, full, progress)
    findings += [checker.look(f"{source.name} in {source.place}", source) for source in sources]
    if dropped:
        findings[0].problems += dropped
    return findings or [Finding(str(path), problems=[f"{path}: there are no examples."])]


def _malformed(manifest: Path) -> list[Finding]:
    """What is to be said of a manifest's lines, whatever their files hold; no finding when nothing is."""
    finding = Finding(f"lines of {manifest}")
    first: dict[str, int] = {}
    for row in manifest_rows(manifest):
        finding.examples += 1
        if isinstance(row, str):
            finding.problems.append(row)
        elif row.row.id in first:
            finding.notes.append(
                f"note: {manifest.name}, line {row.line}: index {row.row.id} occurs more than once, first in line "
                f"{first[row.row.id]}."
            )
        else:
            first[row.row.id] = row.line
    return [finding] if finding.problems or finding.notes else []


def _task_of_shards(source: ShardSource) -> str:
    try:
        name = json.loads(source.media(0, "json").data).get("task")
    except (IndexError, KeyError, ValueError, AttributeError):
        name = None
    if name not in TASKS:
        raise InputError(f"{source.place}: the shards do not say their task. Give --task, one of {', '.join(TASKS)}.")
    return name
