"""Small picture and clip files for tests, made on the fly."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

_TURN = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def moving_bar(frames: int, width: int = 64, height: int = 48) -> Tensor:
    """uint8 [T, H, W, 3]: a smooth background, a bright bar that moves right, the top-left corner red."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    clip = torch.stack([rows * 2, columns * 2, rows + columns], dim=-1).expand(frames, -1, -1, -1).clone()
    for number in range(frames):
        start = 16 + number * 2 % (width - 32)
        clip[number, height // 2 :, start : start + 8] = 230
    clip[:, :16, :16] = torch.tensor([220, 20, 20])
    return clip.clamp(0, 255).to(torch.uint8)


def write_clip(path: Path, frames: Tensor, fps: float = 24, milliseconds: Sequence[int] | None = None) -> Path:
    """Encode frames as nearly lossless H.264; `milliseconds` are the frames' times when the rate varies."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, cover: bool = False) -> Path:
    """Encode half a second of silence as MP3, with a cover picture if asked for."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100)
        if cover:
            picture = container.add_stream("png")
            picture.width = picture.height = 16
            picture.pix_fmt, picture.disposition = "rgb24", Disposition.attached_pic.value
            container.start_encoding()
            red = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 200, np.uint8), format="rgb24")
            container.mux([*picture.encode(red), *picture.encode(None)])
        for _ in range(20):
            samples = np.zeros((1, 1152), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 44_100
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def turn(path: Path, degrees: int) -> None:
    """Set the display matrix of an MP4's video track, as a phone held upright does (clockwise degrees)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in _TURN[degrees])
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
