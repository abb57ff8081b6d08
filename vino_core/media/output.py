"""Files made for users: pictures, clips and text that appear complete or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.video.frame import VideoFrame
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..asides import held_asides
from ..errors import InputError
from .images import check_pixels
from .videos import check_clip

_REMEDIES = {
    errno.ENOSPC: "Free some space there or choose another output folder",
    errno.EDQUOT: "Free some space there or choose another output folder",
    errno.EACCES: "Make the folder writable or choose another one",
    errno.EPERM: "Make the folder writable or choose another one",
    errno.EROFS: "Choose a folder that is not read-only",
    errno.EEXIST: "A file of that name is in the way: choose another folder",
    errno.ENOTDIR: "Choose an output path whose parent is a folder",
    errno.EISDIR: "Choose a file name that is not a folder's",
    errno.ENAMETOOLONG: "Choose a shorter file name",
}


@contextmanager
def write_aside(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary binary file beside `path` that takes its name when the block ends without an error.

    Missing parent folders are made. After any error nothing of the file is left and an older file of that name is
    untouched; a full disk or an unwritable folder raises InputError.
    """
    path = Path(path)
    try:
        with held_asides([path]) as (temporary,):
            with temporary.open("r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_folder(folder: Path) -> None:
    """Make `folder` if it is missing. Raises InputError when it is no folder or no file can be made in it.

    For the start of long work, whose result would otherwise be lost at its end. What a killed process left half
    written there is removed.
    """
    try:
        with held_asides([folder / "trial"]):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    remedy = _REMEDIES.get(error.errno or 0, "Check the output folder or choose another one")
    return InputError(f"{path}: cannot be written ({error.strerror or error}). {remedy}.")


def write_image(path: str | Path, pixels: Tensor, metadata: Mapping[str, Any] | None = None) -> None:
    """Write uint8 [H, W, 3] pixels as a PNG; `metadata` goes into its `comment` text chunk as JSON.

    The file appears complete or not at all. Raises InputError when it cannot be written or is not called *.png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are written as PNG. Choose a name that ends in .png.")
    check_pixels(pixels, str(path))
    chunks = PngInfo()
    if metadata is not None:
        chunks.add_text("comment", json.dumps(metadata))
    with write_aside(path) as file:
        Image.fromarray(pixels.cpu().numpy()).save(file, format="PNG", pnginfo=chunks)


def write_video(path: str | Path, frames: Tensor, fps: float, metadata: Mapping[str, Any] | None = None) -> None:
    """Write uint8 [T, H, W, 3] frames as an H.264 MP4 (yuv420p, crf 12); `metadata` becomes its comment as JSON.

    The file appears complete or not at all. Raises InputError when it cannot be written, is not called *.mp4, has
    odd sides, or for an impossible frame rate.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path}: videos are written as MP4. Choose a name that ends in .mp4.")
    check_clip(frames, str(path))
    if not 0 < fps <= 1000:
        raise InputError(f"{path}: {fps} frames per second cannot be written. Choose a rate above 0 and up to 1000.")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise InputError(f"{path}: {width} x {height} pixels. H.264 needs an even width and height: crop by one pixel.")
    encoded = io.BytesIO()  # a few megabytes; FFmpeg would wrap the disk's errors in its own
    with av.open(encoded, "w", format="mp4") as container:
        if metadata is not None:
            container.metadata["comment"] = json.dumps(metadata)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels.cpu().numpy(), format="rgb24")))
        container.mux(stream.encode(None))
    with write_aside(path) as file:
        file.write(encoded.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8. The file appears complete or not at all; raises InputError when it cannot be written."""
    with write_aside(Path(path)) as file:
        file.write(text.encode())
