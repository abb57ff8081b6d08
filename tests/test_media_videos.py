"""Clip files of every kind."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import pytest
import torch
from media_files import moving_bar, turn, write_clip, write_sound

from vino_core.errors import InputError
from vino_core.media.sizing import vlm_frame_indices
from vino_core.media.videos import Selection, probe, read_clip, read_video


def grey_levels(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).abs().mean().item()


def every(count: int) -> range:
    return range(count)


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    clip = moving_bar(30)
    path = write_clip(tmp_path / "a.mp4", clip, fps=30)
    assert probe(path) == (64, 48, 30, 30.0, 0)
    [frames] = read_video(path, [Selection(every)])
    assert frames.dtype == torch.uint8 and frames.shape == clip.shape
    assert grey_levels(frames, clip) < 2
    assert grey_levels(frames[:-1], clip[1:]) > 3, "neighbouring frames must be told apart"


def test_selections_share_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(20))
    [whole] = read_video(path, [Selection(every)])
    info = probe(path)
    opened = []
    real_open = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args) or real_open(*args, **kwargs))
    head, seen = read_video(path, [Selection(lambda n: range(5), (24, 32)), Selection(vlm_frame_indices)], info)
    assert len(opened) == 1
    assert head.shape == (5, 24, 32, 3)
    assert torch.equal(seen, whole[vlm_frame_indices(20)])


def test_one_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(1))
    assert probe(path).frames == 1
    [seen] = read_video(path, [Selection(vlm_frame_indices)])
    assert seen.shape == (8, 48, 64, 3) and (seen == seen[0]).all()


def test_variable_rate_takes_frames_as_they_come(tmp_path: Path) -> None:
    clip = moving_bar(9)
    times = [0, 10, 20, 100, 200, 500, 510, 900, 1500]
    path = write_clip(tmp_path / "a.mp4", clip, milliseconds=times)
    info = probe(path)
    assert info.frames == 9
    assert 5 < info.fps < 24  # frames by duration; the last frame's own duration is the muxer's guess
    [frames] = read_video(path, [Selection(every)])
    assert grey_levels(frames, clip) < 2


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 3), (180, 2), (270, 1)])
def test_phone_clip_is_turned_upright(tmp_path: Path, degrees: int, quarters: int) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(3))
    [lying] = read_video(path, [Selection(every)])
    turn(path, degrees)
    info = probe(path)
    assert (info.width, info.height) == ((64, 48) if degrees == 180 else (48, 64))
    [upright] = read_video(path, [Selection(every)], info)
    assert torch.equal(upright, torch.rot90(lying, quarters, (1, 2)))
    [scaled] = read_video(path, [Selection(every, (32, 24))], info)
    assert scaled.shape == (3, 32, 24, 3)


@pytest.mark.parametrize("counted", [5, 14])
def test_wrong_frame_count_is_found_out(tmp_path: Path, counted: int, caplog: pytest.LogCaptureFixture) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(9))
    info = probe(path)
    right = read_video(path, [Selection(every), Selection(vlm_frame_indices)], info)
    with caplog.at_level(logging.WARNING):
        found = read_video(path, [Selection(every), Selection(vlm_frame_indices)], info._replace(frames=counted))
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert f"9 of {counted} frames" in caplog.text


def test_a_clip_without_its_last_frames_gives_what_is_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", moving_bar(40))
    with av.open(str(path)) as container:
        end = [packet.pos for packet in container.demux(video=0) if packet.size][35]
    path.write_bytes(path.read_bytes()[:end])
    [frames] = read_video(path, [Selection(every)])
    assert len(frames) in (34, 35, 36) and len(read_clip(path)[0]) == len(frames)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.mp4: there is no such video"):
        probe(tmp_path / "nowhere.mp4")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(InputError, match=r"a\.mp4: .*empty \(0 bytes\)"):
        probe(tmp_path / "a.mp4")


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(InputError, match=r"a\.mp4: this is not a video.*Invalid data"):
        probe(tmp_path / "a.mp4")


def test_unfinished_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(9))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.mp4: this is not a video that can be read"):
        probe(path)


def test_damaged_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(40))
    data = path.read_bytes()
    middle, end = (data.index(b"mdat") + data.index(b"moov")) // 2, data.index(b"moov") - 8
    path.write_bytes(data[:middle] + b"\xff" * (end - middle) + data[end:])
    with pytest.raises(InputError, match=r"a\.mp4: the video is damaged after frame \d+ .*Export it again"):
        read_video(path, [Selection(every)], probe(path))


@pytest.mark.parametrize(("cover", "contents"), [(False, "audio"), (True, "a cover picture and audio")])
def test_sound_only(tmp_path: Path, cover: bool, contents: str) -> None:
    path = write_sound(tmp_path / "a.mp3", cover)
    with pytest.raises(InputError, match=rf"a\.mp3: the file has no video, it holds {contents}"):
        probe(path)


@pytest.mark.parametrize(("suffix", "message"), [("avi", "the video has no frames"), ("mp4", "it holds no streams")])
def test_video_without_frames(tmp_path: Path, suffix: str, message: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match=rf"a\.{suffix}: .*{message}"):
        probe(path)


def test_far_too_narrow_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", torch.zeros(1, 2, 512, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"a\.mp4: 512 x 2 pixels.*crop"):
        probe(path)
