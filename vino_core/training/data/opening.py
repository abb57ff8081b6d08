"""The examples of a task that lie on a disk, as the config says."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...systems import get_system
from ..config import RunConfig
from ..prepare import vlm_frames
from .captioned import CaptionedSource, is_captioned
from .folder import FolderSource
from .shards import ShardSource
from .stored import StoredSource


def stored_source(run: RunConfig, name: str, path: str | None, strict: bool = True) -> StoredSource:
    """Raises InputError when the path or what lies there cannot be used; unless `strict`, malformed rows of a manifest
    are left out instead."""
    task = run.data.tasks[name]
    if not path:
        raise InputError(f"data.tasks.{name}: source '{task.source}' needs a path.")
    given = path, name, task.frames or run.data.frames, task.captions
    source: StoredSource
    if task.source == "shards":
        source = ShardSource(*given)
    elif is_captioned(Path(path)):
        source = CaptionedSource(*given)
    else:
        source = FolderSource(*given, strict)
    source.seen = vlm_frames(run.data, get_system(run.system))
    return source
