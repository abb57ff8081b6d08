"""Files for users: right when written, absent when not."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from media_files import moving_bar
from PIL import Image

from vino_core.errors import InputError
from vino_core.media.output import write_image, write_text, write_video
from vino_core.media.videos import Selection, probe, read_video

SETTINGS = {"prompt": "ein Schloß, 玻璃", "seed": 3}


def test_picture_round_trip(tmp_path: Path) -> None:
    pixels = moving_bar(1)[0]
    write_image(tmp_path / "new" / "a.png", pixels, SETTINGS)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert np.array_equal(np.array(image), pixels.numpy())
        assert json.loads(image.text["comment"]) == SETTINGS


def test_video_round_trip(tmp_path: Path) -> None:
    frames = moving_bar(9)
    write_video(tmp_path / "a.mp4", frames, 24_000 / 1001, SETTINGS)
    info = probe(tmp_path / "a.mp4")
    assert info[:3] == (64, 48, 9) and info.fps == pytest.approx(24_000 / 1001)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert json.loads(container.metadata["comment"]) == SETTINGS
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    [back] = read_video(tmp_path / "a.mp4", [Selection(range)])
    assert (back.float() - frames.float()).abs().mean() < 3


def test_text_round_trip(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "Schloß")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "Schloß"


def test_files_are_readable_by_others_as_usual(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


class FullDisk(io.FileIO):
    """A file on a disk with room for a kilobyte."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1024:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


WRITERS = {
    "a.png": lambda path: write_image(path, torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)),
    "a.mp4": lambda path: write_video(path, torch.randint(0, 256, (9, 64, 64, 3), dtype=torch.uint8), 24),
    "a.json": lambda path: write_text(path, "x" * 2000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_text("old")
    monkeypatch.setattr(Path, "open", lambda path, mode: FullDisk(path, mode.replace("b", "")))
    with pytest.raises(InputError, match=rf"{name}: cannot be written \(No space left on device\).*Free some space"):
        WRITERS[name](tmp_path / name)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("name", WRITERS)
def test_parent_that_is_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(InputError, match=rf"folder/{name}: cannot be written"):
        WRITERS[name](tmp_path / "folder" / name)


@pytest.mark.parametrize("name", WRITERS)
def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Permissions do not stop root, as whom tests often run, so the refusal is played.
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=rf"{name}: cannot be written \(Permission denied\).*folder writable"):
        WRITERS[name](tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: write_image(folder / "a.bmp", moving_bar(1)[0]), r"a\.bmp.*ends in \.png"),
        (lambda folder: write_image(folder / "a.png", moving_bar(1)), r"expected uint8 pixels"),
        (lambda folder: write_video(folder / "a.avi", moving_bar(1), 24), r"a\.avi.*ends in \.mp4"),
        (lambda folder: write_video(folder / "a.mp4", moving_bar(1)[0], 24), r"expected uint8 frames"),
        (lambda folder: write_video(folder / "a.mp4", moving_bar(1), 0), "0 frames per second"),
        (lambda folder: write_video(folder / "a.mp4", moving_bar(1), float("nan")), "nan frames per second"),
        (lambda folder: write_video(folder / "a.mp4", moving_bar(1)[:, :-1], 24), "64 x 47 pixels.*even"),
    ],
)
def test_wrong_values_leave_nothing(tmp_path: Path, write: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path)
    assert not list(tmp_path.iterdir())
