"""Writing examples as WebDataset shards, without loss."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor

from ...errors import InputError, needed
from ...media.output import write_aside
from ..example import Example, ExampleSource
from .shards import ShardSource

PER_SHARD = 5000


def write_shards(
    folder: Path,
    source: ExampleSource,
    count: int,
    per_shard: int = PER_SHARD,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Write examples 0 to `count` - 1 as shards of `per_shard`; returns the files.

    A shard appears complete or not at all, and one that is there already is kept: an interrupted command is given again
    and goes on. `progress` is called with the number of examples done. Raises InputError when a file cannot be written,
    when other shards are in the folder, and when webdataset is missing.
    """
    spans = [(first, min(count, first + per_shard)) for first in range(0, count, per_shard)]
    paths = {folder / f"{source.name}-{first:08d}-{last:08d}.tar": range(first, last) for first, last in spans}
    foreign = sorted(path.name for path in folder.glob("*.tar") if path not in paths)
    if foreign:
        raise InputError(f"{folder}: {foreign[0]} is no part of this. Choose another folder, or remove what is there.")
    for path, numbers in paths.items():
        if not path.exists():
            _write_shard(path, source, numbers, progress)
        elif not _is_of(path, source, numbers[0]):
            raise InputError(f"{path}: was written with other options. Choose another folder, or remove what is there.")
        progress(numbers[-1] + 1)
    return list(paths)


def _is_of(path: Path, source: ExampleSource, number: int) -> bool:
    found = ShardSource(path, source.name)
    expected = members(source.example(number))
    return all(name in found.names(0) and found.media(0, name).data == data for name, data in expected.items())


def _write_shard(path: Path, source: ExampleSource, numbers: range, progress: Callable[[int], None]) -> None:
    with needed("Writing shards needs webdataset", "webdataset>=0.2.100"):
        from webdataset import TarWriter

    with write_aside(path) as file, TarWriter(file, encoder=False, mtime=0) as shard:
        for number in numbers:
            shard.write({"__key__": f"{number:08d}", **members(source.example(number))})
            progress(number + 1)


def members(example: Example) -> dict[str, bytes]:
    """An example's files by extension: pictures as PNG, clips as FFV1 in Matroska, the rest as JSON."""
    settings = {"id": example.id, "task": example.task, "prompt": example.prompt, "fps": example.fps}
    if example.base_image:
        settings["base_image"] = True
    found = {"json": json.dumps(settings).encode()}
    if len(example.target) == 1:
        found["target.png"] = _png(example.target[0])
    else:
        found["target.mkv"] = _ffv1(example.target, example.fps)
    found |= {f"image{number}.png": _png(image) for number, image in enumerate(example.images, start=1)}
    found |= {f"video{number}.mkv": _ffv1(clip, example.fps) for number, clip in enumerate(example.videos, start=1)}
    return found


def _png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


def _ffv1(frames: Tensor, fps: float) -> bytes:
    file = io.BytesIO()
    # Without the flag Matroska stores a random number and the time of writing.
    with av.open(file, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for pixels in frames.numpy():
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    return file.getvalue()
