"""Task lists in the official format, and the settings a task takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vino_core.errors import InputError
from vino_core.media.references import ImageReference, References, VideoReference
from vino_core.systems import get_system
from vino_core.systems.vino import NEGATIVE_CAMERA_CLONE, NEGATIVE_IMAGE, NEGATIVE_VIDEO
from vino_core.tasks import get_preset, load_tasks, target_size

VINO = get_system("vino")


def write(folder: Path, rows: object, name: str = "tasks/list.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def touch(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    "counts, name",
    [
        ((0, 0, 1, False), "t2i"),
        ((0, 0, 85, False), "t2v"),
        ((1, 0, 1, False), "ti2i"),
        ((2, 0, 1, True), "ti2i_baseimg"),
        ((1, 0, 85, False), "i2v"),
        ((3, 0, 81, False), "ti2v"),
        ((0, 1, 81, False), "tv2v"),
        ((1, 1, 81, False), "tiv2v"),
        ((0, 2, 81, False), "tv2v"),
    ],
)
def test_the_task_is_what_is_connected(counts: tuple[int, int, int, bool], name: str) -> None:
    assert VINO.default_task(*counts) == name
    assert name in VINO.presets


@pytest.mark.parametrize(
    "name, size, frames, text_scale, image_scale, shift, negative",
    [
        ("t2i", (640, 640), 1, 5, 1, 5, NEGATIVE_IMAGE),
        ("t2v", (480, 848), 85, 7, 1, 7, NEGATIVE_VIDEO),
        ("i2v", (None, None), 85, 7, 1, 7, ""),
        ("ti2i", (None, None), 1, 5, 1, 5, NEGATIVE_IMAGE),
        ("ti2i_baseimg", (None, None), 1, 5, 3, 5, NEGATIVE_IMAGE),
        ("ti2v", (480, 848), 81, 7, 3, 7, ""),
        ("tv2v", (None, None), 81, 7, 1, 7, ""),
        ("tiv2v", (None, None), 81, 7, 3, 7, NEGATIVE_VIDEO),
        ("tiv2v_clone", (None, None), 81, 7, 1, 7, ""),
        ("tiv2v_camclone", (None, None), 81, 7, 1, 7, NEGATIVE_CAMERA_CLONE),
    ],
)
def test_published_settings(name, size, frames, text_scale, image_scale, shift, negative) -> None:
    preset = get_preset(VINO, name)
    assert (preset.height, preset.width) == size
    assert (preset.frames, preset.text_scale, preset.image_scale) == (frames, text_scale, image_scale)
    assert (preset.shift, preset.steps, preset.negative) == (shift, 50, negative)


def test_official_list_with_moved_media(tmp_path: Path) -> None:
    image = touch(tmp_path, "data/images/a.jpg")
    video = touch(tmp_path, "data/videos/b.mp4")
    rows = [
        {"index": "id_1", "task": "t2v", "caption": "a"},
        {
            "index": "id_2",
            "task": "tiv2v",
            "caption": "b",
            "ref_image_paths": ["./assets/test_data/images/a.jpg"],
            "ref_video_path": "./assets/test_data/videos/b.mp4",
        },
        {
            "index": "id_3",
            "task": "ti2i",
            "caption": "c",
            "ref_image_paths": [str(image), str(image)],
            "ref_image_have_base": True,
        },
    ]
    first, second, third = load_tasks(write(tmp_path, rows, "data/tasks/list.json"), VINO)
    assert (first.preset, first.prompt, first.images, first.videos) == ("t2v", "a", (), ())
    assert second.images[0].samefile(image) and second.videos[0].samefile(video)
    assert (third.preset, third.base_image, len(third.images)) == ("ti2i_baseimg", True, 2)


def test_a_missing_file_is_known_and_fails_only_its_own_item(tmp_path: Path) -> None:
    rows = [
        {"index": "a", "task": "ti2i", "caption": "", "ref_image_paths": ["no.png"]},
        {"index": "b", "task": "t2i", "caption": ""},
    ]
    first, second = load_tasks(write(tmp_path, rows), VINO)
    assert [str(path) for path in first.missing] == ["no.png"] and not second.missing


def test_more_than_one_video_and_own_seeds(tmp_path: Path) -> None:
    videos = [str(touch(tmp_path, name)) for name in ("a.mp4", "b.mp4")]
    row = {"index": "1", "task": "tv2v", "caption": "", "ref_video_path": videos, "seed": 3, "negative": "no"}
    row["think"] = "canvas"
    (task,) = load_tasks(write(tmp_path, [row]), VINO)
    assert [str(path) for path in task.videos] == videos
    assert (task.seed, task.negative, task.think) == (3, "no", "canvas")


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "at least one row"),
        ({"index": 1}, "must be a list"),
        (["text"], "row 1.*object"),
        ([{"index": "a", "task": "t2i"}], "caption missing"),
        ([{"index": "a", "task": "t2x", "caption": ""}], "task 't2x' is unknown.*t2i"),
        ([{"index": "../a", "task": "t2i", "caption": ""}], "names the output file"),
        ([{"index": "a", "task": "t2i", "caption": "", "colour": 1}], "unknown fields.*colour"),
        ([{"index": "a", "task": "ti2i", "caption": "", "ref_image_paths": "no.png"}], "no.png'; it must be list"),
        ([{"index": "a", "task": "t2i", "caption": "", "think": True}], "think is True; it must be str or nothing"),
        ([{"index": "a", "task": "t2i", "caption": ""}] * 2, "index a occurs more than once"),
    ],
)
def test_bad_lists_name_the_row(tmp_path: Path, rows: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tasks(write(tmp_path, rows), VINO)


def test_missing_and_unreadable_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_tasks(tmp_path / "none.json", VINO)
    with pytest.raises(InputError, match="is not JSON"):
        load_tasks(touch(tmp_path, "x.json"), VINO)


def image_of(height: int, width: int) -> ImageReference:
    return ImageReference(torch.zeros(height, width, 3, dtype=torch.uint8))


def video_of(frames: int, height: int, width: int) -> VideoReference:
    pixels = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    return VideoReference(pixels, pixels[:1].expand(8, -1, -1, -1), 24.0)


def test_references_decide_the_size_where_the_task_leaves_it_open() -> None:
    images = References((image_of(16, 32), image_of(48, 64)))
    both = References((image_of(16, 32),), (video_of(9, 32, 64),))
    assert target_size(get_preset(VINO, "t2v"), References(), 85) == (480, 848, 85)
    assert target_size(get_preset(VINO, "ti2v"), images, 81) == (480, 848, 81)
    assert target_size(get_preset(VINO, "i2v"), images, 85) == (48, 64, 85)
    assert target_size(get_preset(VINO, "tiv2v"), both, 81) == (32, 64, 9)
    with pytest.raises(InputError, match="takes its size from a reference"):
        target_size(get_preset(VINO, "ti2i"), References(), 1)


SHARED = Path(__file__).resolve().parents[2] / "shared" / "media" / "vino_test_data" / "tasks"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published task lists are not beside this checkout")
def test_published_lists_load_as_they_are() -> None:
    lists = sorted(SHARED.glob("*.json"))
    assert len(lists) == 11
    missing = {path.name: [str(p) for task in load_tasks(path, VINO) for p in task.missing] for path in lists}
    # One list names a clip that was published under another name.
    assert missing.pop("tiv2v_camclone.json") == ["assets/test_data/videos/scene1027_10.mp4"]
    assert not any(missing.values())
