"""Task lists in the official JSON format, and the settings that a task takes when nothing else is said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import InputError
from .media.references import Clip, References, Wanted
from .media.sizing import MAX_PIXELS
from .systems.base import Arrangement, Preset, System

FIELDS = {"index", "task", "caption", "ref_image_paths", "ref_video_path", "ref_image_have_base"}
FIELDS |= {"seed", "negative", "think", "tags"}
"""The second line and a list of videos under `ref_video_path` are ours; the rest is the official format."""

UNDERSTANDING = "understanding"
"""The task of a question about what is given, which every system's text encoder answers. It has no settings."""

_KINDS: dict[str, tuple[type, ...]] = {
    "index": (str, int),
    "task": (str,),
    "caption": (str,),
    "ref_image_paths": (list, type(None)),
    "ref_video_path": (str, list, type(None)),
    "seed": (int, type(None)),
    "negative": (str, type(None)),
    "think": (str, type(None)),
}


@dataclass(frozen=True)
class Task:
    """One row of a task list. `preset` names the settings to start from; at the paths in `missing` there is no file.

    `think` is the kind of drawn picture that the prompt is to be thought out from, if any; `tags` whether references
    get the system's tags.
    """

    index: str
    preset: str
    prompt: str
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    base_image: bool = False
    seed: int | None = None
    negative: str | None = None
    think: str | None = None
    tags: bool = False

    @property
    def missing(self) -> tuple[Path, ...]:
        return tuple(path for path in (*self.images, *self.videos) if not path.is_file())


def get_preset(system: System, name: str) -> Preset:
    """Settings of a task by name. Raises InputError for an unknown one."""
    if name not in system.presets:
        raise InputError(f"task '{name}' is unknown to {system.name}. Known: {', '.join(system.presets)}.")
    return system.presets[name]


def check_picture(system: System, task: str, images: int, videos: int, frames: int) -> None:
    """Raise InputError when the instruction of `task` makes a picture of so many references, and `frames` a clip."""
    preset = get_preset(system, task)
    if not preset.instruction or preset.frames > 1 or frames == 1:
        return
    longer = [name for name, other in system.presets.items() if other.frames > 1]
    clips = [name for name in longer if _takes(system, name, images, videos)]
    raise InputError(
        f"frames is {frames}, and the task {task} makes a picture. Set the number of frames to 1 (length at VINO "
        f"References, or --frames), or choose a task that makes a video of the same input ({', '.join(clips)})."
    )


def _takes(system: System, task: str, images: int, videos: int) -> bool:
    try:
        system.arrange(task, images, videos)
    except InputError:
        return False
    return True


def check_scaled(system: System, task: str, area: int | None, of_result: bool = False) -> None:
    """Raise InputError when an area in pixels is given and `task` scales nothing to it, as it has a size of its own.

    `of_result`: the result is to have that area too. Otherwise references may, where each can have its own size.
    """
    preset = get_preset(system, task)
    if area is not None and (of_result or system.one_size) and None not in (preset.width, preset.height):
        raise InputError(
            f"area is {area} pixels, but the task {task} scales no picture or video to what it makes. Leave it out and "
            "give width and height ('custom' at VINO References, or --width and --height)."
        )


def prepare_references(
    system: System,
    task: str,
    images: Sequence[Tensor],
    clips: Sequence[Clip] = (),
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    area: int | None = None,
) -> References:
    """The references of a request as `system` takes them for `task`: pictures uint8 [H, W, 3], and clips.

    `frames`, `size` (height, width) of the result and `area` in pixels of a reference are the task's own when None.
    Raises InputError for references that cannot be used, or not for this task.
    """
    preset = get_preset(system, task)
    check_area(area, system.unit)
    if size is None and preset.height is not None and preset.width is not None:
        size = preset.height, preset.width
    wanted = _wanted(system, preset.frames if frames is None else frames, size, area or preset.area)
    return system.prepare(system.arrange(task, len(images), len(clips)), images, clips, wanted)


def prepare_question(
    system: System,
    images: Sequence[Tensor],
    clips: Sequence[Clip] = (),
    frames: int | None = None,
    area: int | None = None,
) -> References:
    """What a question is about: pictures uint8 [H, W, 3], and at most `frames` frames of each clip (None: as many as
    the system takes), scaled to about `area` pixels each. Raises InputError for references that cannot be used."""
    check_area(area, system.unit)
    wanted = _wanted(system, system.max_frames if frames is None else frames, None, area or system.question_area)
    shown = Arrangement(after=tuple(range(len(images) + len(clips))))
    return system.prepare(shown, images, clips, wanted) if images or clips else References()


def _wanted(system: System, frames: int, size: tuple[int, int] | None, area: int | None) -> Wanted:
    return Wanted(frames=frames, size=size, area=area or system.area, unit=system.unit, vlm_frames=system.vision.frames)


def check_area(area: int | None, unit: int) -> None:
    """Raise InputError for an area in pixels that no reference can have; None is the task's own."""
    if area is not None and not unit**2 <= area <= MAX_PIXELS:
        raise InputError(f"area is {area} pixels; it must lie between {unit**2} ({unit} x {unit}) and {MAX_PIXELS}.")


def target_size(preset: Preset, references: References, frames: int) -> tuple[int, int, int]:
    """Height, width and frames of the result: the preset's, or what the references decide where it leaves them open.

    A video decides its number of frames too, since it may be shorter than asked for. Raises InputError when nothing
    decides.
    """
    if preset.height is not None and preset.width is not None:
        return preset.height, preset.width, frames
    target = references.target()
    if target is None:
        raise InputError("this task takes its size from a reference, but none is given. Add an image or a video.")
    return target.height, target.width, frames if target.frames is None else target.frames


def load_tasks(path: Path, system: System) -> list[Task]:
    """Read a task list. Raises InputError that names the file, the row and what is wrong."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"task list '{path}' does not exist.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"task list '{path}' is not JSON: {error}.") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"task list '{path}' must be a list with at least one row.")
    tasks = [_task(row, number, path, system) for number, row in enumerate(rows, start=1)]
    names = [task.index for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"task list '{path}': index {', '.join(repeated)} occurs more than once; each names a file.")
    return tasks


def _task(row: Any, number: int, path: Path, system: System) -> Task:
    where = f"task list '{path}', row {number}"
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be an object with index, task and caption.")
    unknown = set(row) - FIELDS
    if unknown:
        raise InputError(f"{where}: unknown fields {sorted(unknown)}. Known: {', '.join(sorted(FIELDS))}.")
    missing = {"index", "task", "caption"} - set(row)
    if missing:
        raise InputError(f"{where}: {', '.join(sorted(missing))} missing.")
    for field, kinds in _KINDS.items():
        if field in row and (not isinstance(row[field], kinds) or isinstance(row[field], bool)):
            allowed = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise InputError(f"{where}: {field} is {row[field]!r}; it must be {allowed}.")
    tags = row.get("tags") or False
    if not isinstance(tags, bool):
        raise InputError(f"{where}: tags is {tags!r}; it must be true or false.")
    base_image = bool(row.get("ref_image_have_base") or False)
    name = row["task"]
    if base_image and f"{name}_baseimg" in system.presets:
        name = f"{name}_baseimg"
    if name != UNDERSTANDING:
        get_preset(system, name)
    videos = row.get("ref_video_path") or []
    return Task(
        index=_file_name(str(row["index"]), where),
        preset=name,
        prompt=row["caption"],
        images=_paths(row.get("ref_image_paths") or [], path, where, "ref_image_paths"),
        videos=_paths([videos] if isinstance(videos, str) else videos, path, where, "ref_video_path"),
        base_image=base_image,
        seed=row.get("seed"),
        negative=row.get("negative"),
        think=row.get("think"),
        tags=tags,
    )


def _file_name(index: str, where: str) -> str:
    if not index or index != Path(index).name or index.startswith("."):
        raise InputError(f"{where}: index '{index}' names the output file; use letters, digits, '-', '_' and '.'.")
    return index


def _paths(names: Sequence[str], path: Path, where: str, field: str) -> tuple[Path, ...]:
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{where}: {field} holds {name!r}; it must be a list of paths.")
    return tuple(_find(name, path) for name in names)


def _find(name: str, path: Path) -> Path:
    """Look for a file as written, beside the list, and, as the published lists were moved, by the end of its path."""
    written = Path(name)
    parts = [part for part in written.parts if part not in (".", "..", written.anchor)]
    places = [Path.cwd() / written, path.parent / written]
    places += [
        folder.joinpath(*parts[skip:]) for skip in range(len(parts)) for folder in (path.parent, path.parent.parent)
    ]
    for place in places:
        if place.is_file():
            return place
    return written  # its own item will fail, not the whole list
