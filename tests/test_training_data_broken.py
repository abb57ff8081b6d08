"""Examples that nobody foresaw: refused with a reason, or at least named when they end a run."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from data_files import by_name, clip, data_config, write_manifest
from test_training_data_shards import png, tar

from vino_core.errors import InputError
from vino_core.media import videos
from vino_core.training.data import encode as encoding
from vino_core.training.data.check import check_config
from vino_core.training.data.encode import encode, jobs, single
from vino_core.training.data.folder import FolderSource
from vino_core.training.data.shards import ShardSource
from vino_core.training.data.stored import StoredSource
from vino_core.training.feed import Feed
from vino_core.training.sources import training_sources


@pytest.mark.parametrize("fps", ['"abc"', "0", "-3", "NaN", "Infinity", "true", "[24]"])
def test_a_rate_is_a_number_above_0(tmp_path: Path, fps: str) -> None:
    settings = f'{{"prompt": "x", "fps": {fps}}}'.encode()
    tar(tmp_path / "a.tar", {"1.target.png": png(), "1.json": settings, "2.target.png": png(),
                             "2.json": b'{"prompt": "x", "fps": 12}'})  # fmt: skip
    source = ShardSource(tmp_path, "t2i")
    with pytest.raises(InputError, match="a.tar, 1: fps is .*; it must be a number above 0"):
        source.example(0)
    assert source.example(1).fps == 12.0
    feed = Feed({"t2i": source}, by_name, seed=0)
    assert {sample.id for sample in feed.take("t2i", 1, range(2))} == {"2"}
    row = f'{{"index": 1, "task": "t2i", "caption": "x", "target_path": "a.png", "fps": {fps}}}'
    (tmp_path / "manifest.jsonl").write_text(row)
    with pytest.raises(InputError, match="line 1: fps is .*; it must be"):
        FolderSource(tmp_path, "t2i")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"prompt": "x", "base_image": "no"}, "base_image is 'no'; it must be true or false"),
     ({"prompt": ["x"]}, r"a caption is \['x'\]; it must be text")],
)  # fmt: skip
def test_other_settings_of_shards_have_their_types(tmp_path: Path, settings: dict, message: str) -> None:
    tar(tmp_path / "a.tar", {"1.target.png": png(), "1.json": json.dumps(settings).encode()})
    with pytest.raises(InputError, match=f"a.tar, 1: {message}"):
        ShardSource(tmp_path, "t2i").example(0)


def test_a_video_of_an_unknown_kind_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / clip(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (videos.probe, videos.read_clip, videos.count_damaged):
        with pytest.raises(InputError, match="v.mp4: nothing can decode the video in it"):
            read(path)


def test_what_pyav_says_of_packets_and_frames_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise av.error.InvalidDataError(1094995529, "Invalid data found when processing input")

    path = tmp_path / clip(tmp_path / "v.mp4")
    monkeypatch.setattr(videos._Converter, "__call__", fail)
    with pytest.raises(InputError, match="v.mp4: the video is damaged .Invalid data found"):
        videos.read_clip(path)


def test_any_other_error_names_task_and_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip(tmp_path / "v.mp4")
    write_manifest(tmp_path, [{"index": n, "task": "t2v", "caption": "a", "target_path": "v.mp4"} for n in range(3)])
    run = data_config(tmp_path, {"t2v": {"weight": 1, "path": str(tmp_path)}})

    def files(self: StoredSource, index: int):  # noqa: ANN202
        if index == 2:
            raise ZeroDivisionError("nobody thought of it")
        return whole(self, index)

    whole = FolderSource.files
    monkeypatch.setattr(FolderSource, "files", files)
    feed = Feed(training_sources(run), by_name, seed=0)
    with pytest.raises(RuntimeError, match="data.tasks.t2v, example 2: ZeroDivisionError: nobody thought of it"):
        feed.take("t2v", 1, range(3))
    (finding,) = check_config(run)
    assert len(finding.problems) == 1 and "example 2: ZeroDivisionError: nobody" in finding.problems[0]
    monkeypatch.setattr(encoding.PieceEncoder, "_digest", lambda self, index: "the same")
    monkeypatch.setattr(encoding, "stamps", lambda source, numbers: [])
    with pytest.raises(RuntimeError, match="example 2: ZeroDivisionError: nobody thought of it"):
        encode(jobs(run)[0], single("cpu"))
