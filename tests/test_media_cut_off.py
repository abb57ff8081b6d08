"""Clips whose end is missing are refused, and no whole one is taken for such a clip, whatever it says of its length."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import moving_bar, write_clip

from vino_core.errors import InputError
from vino_core.media.cut_off import is_cut_off
from vino_core.media.encoded import Encoded
from vino_core.media.videos import probe, read_clip

FRAMES = 17
KINDS = {
    "plain.mp4": ("libx264", "yuv420p", {}),
    "fast.mp4": ("libx264", "yuv420p", {"movflags": "faststart"}),
    "parts.mp4": ("libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "prores.mov": ("prores_ks", "yuv422p10le", {"movflags": "faststart"}),
    "phone.m4v": ("mpeg4", "yuv420p", {}),
    "a.mkv": ("libx264", "yuv420p", {}),
    "exact.mkv": ("ffv1", "bgr0", {"fflags": "+bitexact"}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "live.webm": ("libvpx", "yuv420p", {"live": "1"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "a.gif": ("gif", "rgb8", {}),
}
"""File -> codec, pixel format and options of the container."""
SAYS_NOTHING = ("live.webm", "a.gif")
"""Files that do not say how long they should be."""


def made(folder: Path, name: str, sound: float = 0) -> Path:
    """A clip of FRAMES frames of a kind, whose `sound` lasts so many seconds."""
    codec, pixels, options = KINDS[name]
    with av.open(str(folder / name), "w", options=options) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        heard = container.add_stream("aac", rate=8000) if sound else None
        # Noise, beside whose size that of headers is nothing.
        for frame in np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if heard is not None:
            for _ in range(int(sound * 8000 / 1024)):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate = 8000
                container.mux(heard.encode(samples))
            container.mux(heard.encode(None))
    return folder / name


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("name", KINDS)
def test_whole_clips_are_whole_and_cut_off_ones_are_refused(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name)
    assert not is_cut_off(path) and not is_cut_off(Encoded("a member", path.read_bytes()))
    assert probe(path).frames == len(read_clip(path)[0]) == FRAMES
    path.write_bytes(path.read_bytes() + b"SEFH more that an application puts behind it")
    assert not is_cut_off(path)
    cut(made(tmp_path, name))
    assert is_cut_off(path) == (name not in SAYS_NOTHING)
    if name in SAYS_NOTHING:
        assert 0 < len(read_clip(path)[0]) < FRAMES
        return
    told = "is not a video" if name in ("plain.mp4", "phone.m4v") else f"cut off. It states {FRAMES} frames and holds"
    for read in (probe, read_clip, lambda path: read_clip(path, 1)):
        with pytest.raises(InputError, match=f"{name}: .*{told}"):
            read(path)


@pytest.mark.parametrize("name", ["fast.mp4", "a.mkv"])
def test_sound_that_goes_on_is_no_missing_video(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name, sound=20)
    assert len(read_clip(path)[0]) == probe(path).frames == FRAMES
    # What is missing is sound.
    data, last = path.read_bytes(), FRAMES
    path.write_bytes(data[: int(len(data) * 0.98)])
    assert is_cut_off(path) and probe(path).frames == last


def test_a_last_frame_that_is_shown_for_long_is_no_missing_video(tmp_path: Path) -> None:
    """As a GIF becomes that stops at its end: by time and rate it states three times the frames that it holds."""
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in moving_bar(FRAMES).numpy()]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        packets[-1].duration = int(5 / packets[-1].time_base)
        container.mux(packets)
    with av.open(str(path)) as container:
        assert container.duration > 6.5e6
    assert len(read_clip(path)[0]) == probe(path).frames == FRAMES


def test_a_variable_rate_is_no_missing_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", moving_bar(9), milliseconds=[0, 10, 20, 30, 40, 50, 60, 70, 9000])
    assert len(read_clip(path)[0]) == probe(path).frames == 9


def test_real_clips_are_whole() -> None:
    media = Path(os.environ.get("VINO_SHARED", Path(__file__).parents[2] / "shared")) / "media"
    clips = sorted(media.rglob("*.mp4"))
    if not clips:
        pytest.skip("no clips beside the repository")
    for clip in clips:
        assert not is_cut_off(clip) and len(read_clip(clip, 5)[0]) == 5, clip
