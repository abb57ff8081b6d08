"""Odd clips and odd outputs through the doors that users take: `vino generate` and ComfyUI's Load Video."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfy_inprocess import pack
from comfy_runs import nodes
from media_files import moving_bar, turn, write_clip, write_sound

from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.media.references import VideoReference, prepare_video
from vino_core.systems import get_system
from vino_core.systems.vino import VINO
from vino_core.tasks import load_tasks

AREA = 64 * 48


def headless(path: Path) -> VideoReference:
    return prepare_video(path, 81, area=AREA)


def in_comfyui(path: Path) -> VideoReference:
    nodes()
    from comfy_api.latest import InputImpl

    videos = {"video_1": InputImpl.VideoFromFile(str(path))}
    output = nodes().VINOReferences.execute({"size": "auto"}, 81, videos=videos)
    return output.args[0].for_system(get_system("vino")).videos[0]


DOORS = pytest.mark.parametrize("prepared", [headless, in_comfyui])


@DOORS
def test_a_clip_of_one_frame_is_a_reference(tmp_path: Path, prepared: Callable[[Path], VideoReference]) -> None:
    video = prepared(write_clip(tmp_path / "a.mp4", moving_bar(1)))
    assert len(video.frames) == 1
    assert len(video.vlm_frames) == VINO.vision.frames
    assert (video.vlm_frames == video.vlm_frames[0]).all()


@DOORS
def test_a_varying_frame_rate_loses_no_frame(tmp_path: Path, prepared: Callable[[Path], VideoReference]) -> None:
    times = [0, 10, 20, 100, 200, 500, 510, 900, 1500]
    steady = prepared(write_clip(tmp_path / "steady.mp4", moving_bar(9)))
    varying = prepared(write_clip(tmp_path / "varying.mp4", moving_bar(9), milliseconds=times))
    assert varying.frames.shape == steady.frames.shape
    assert len(varying.frames) == 9
    assert (varying.frames.float() - steady.frames.float()).abs().mean() < 2


@DOORS
def test_a_phone_clip_stands_upright(tmp_path: Path, prepared: Callable[[Path], VideoReference]) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(5))
    turn(path, 90)
    video = prepared(path)
    height, width = video.frames.shape[1:3]
    assert height > width
    red = video.vlm_frames[0].float()[..., 0] - video.vlm_frames[0].float()[..., 1]
    assert red[:12, -12:].mean() > 100, "the corner that was top left is now top right"


@DOORS
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"a\.mp4.*empty|empty.*a\.mp4"), (b"hello" * 100, r"a\.mp4.*not a video"), (None, r"has no video.*audio")],
)
def test_no_video_is_named(
    tmp_path: Path, prepared: Callable[[Path], VideoReference], content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.mp4"
    if content is None:
        path = write_sound(tmp_path / "a.mp3")
    else:
        path.write_bytes(content)
    with pytest.raises((InputError, pack("vino_core.errors").InputError), match=message):
        prepared(path)


def generate(out: Path, *words: str) -> int:
    """`vino generate` up to the point where it would load weights, of which there are none."""
    parts = [word for name in ("model", "tokens", "text-encoder", "vae") for word in (f"--{name}", "nowhere")]
    return main(["generate", "--system", "vino", *parts, "--out", str(out), *words])


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert generate(tmp_path / "out", "--prompt", "x") == 1
    assert "choose another" in capsys.readouterr().err.lower()
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unwritable_output_folder_is_found_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Permissions do not stop root, as whom tests often run, so the refusal is played.
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert generate(tmp_path / "out", "--prompt", "x") == 1
    error = capsys.readouterr().err
    assert "cannot be written (Permission denied)" in error and "writable" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--width", "50"), "--width is 50; it must be a positive multiple of 16. The nearest is 48"),
        (("--height", "0"), "--height is 0; it must be a positive multiple of 16. The nearest is 16"),
        (("--width", "50", "--height", "33"), "Size 50 x 33: width and height must be positive multiples of 16"),
        (("--steps", "0"), "steps is 0; at least 1 is needed"),
        (("--shift", "0"), "shift is 0.0; it must be above 0"),
        (("--text-scale", "200"), "text_scale is 200.0; it must lie between 0 and 100"),
        (("--image-scale", "-1"), "image_scale is -1.0; it must lie between 0 and 100"),
        (("--seed", "-1"), "seed is -1; it must lie between 0 and 2^63 - 1"),
        (("--base-image",), "no image is connected or given. Connect the image to edit as the last one, or name it"),
        (("--preset", "ti2i"), "the task ti2i takes its size from a picture or video, and none is given. Add one with"),
        (("--preset", "ti2i", "--width", "64", "--height", "64"), "the task ti2i takes its size from"),
    ],
)
def test_mistakes_are_found_before_weights_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert generate(tmp_path / "out", "--prompt", "x", *words) == 1
    told = capsys.readouterr()
    assert message in told.err and "to do" not in told.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("--steps", "0"), ("--width", "50"), ("--shift", "-1")])
def test_a_flag_that_no_row_of_a_task_list_can_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    tasks = tmp_path / "list.json"
    tasks.write_text(json.dumps([{"index": "one", "task": "t2i", "caption": "x"}]))
    assert generate(tmp_path / "out", "--tasks", str(tasks), *words) == 1
    told = capsys.readouterr()
    assert f"{words[0].removeprefix('--')} is {words[1]}" in told.err and "to do" not in told.out


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"file": "one.png"}'])
def test_a_sidecar_that_is_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    tasks, out = tmp_path / "list.json", tmp_path / "out"
    tasks.write_text(json.dumps([{"index": "one", "task": "t2i", "caption": "x"}]))
    out.mkdir()
    (out / "one.png").write_text("mine")
    (out / "one.json").write_text(content)
    assert generate(out, "--tasks", str(tasks)) == 1
    error = capsys.readouterr().err
    assert "one.json" in error and "--overwrite" in error
    assert (out / "one.json").read_text() == content


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "seven"), ("seed", True), ("negative", 3), ("caption", None), ("ref_image_paths", [None])],
)
def test_a_field_of_another_type_names_the_row(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"index": "one", "task": "t2i", "caption": "x", field: value}]))
    with pytest.raises(InputError, match=rf"row 1: {field}"):
        load_tasks(path, VINO)
