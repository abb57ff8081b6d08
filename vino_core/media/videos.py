"""Reading clips with PyAV."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import torch
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from ..errors import InputError
from ..interruption import may_go_on
from .cut_off import is_cut_off
from .encoded import Encoded, Source, readable, usable
from .excerpt import Excerpt, excerpt_indices
from .sizing import check_source

_LOG = logging.getLogger(__name__)

_ENOUGH = 0.8
"""Share of its frames that is enough of a file whose end is missing."""
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)$")
"""What Matroska says of each stream."""

# Filters that bring a frame upright, by its rotation in degrees (counter-clockwise, from the display matrix).
_UPRIGHT = {
    0: (),
    90: (("transpose", "cclock"),),
    180: (("hflip", None), ("vflip", None)),
    270: (("transpose", "clock"),),
}


class VideoInfo(NamedTuple):
    """What a clip is, as it is displayed: `width` and `height` already take `rotation` (degrees) into account."""

    width: int
    height: int
    frames: int
    """Number of coded frames, counted in the file rather than read from its header."""
    fps: float
    """Average frame rate; clips with a variable rate have no other."""
    rotation: int


class Selection(NamedTuple):
    """Frames to take from a clip: `indices`, given the number of frames, names them in presentation order.

    Repeats are allowed. `size` is (height, width), or None for the clip's own size.
    """

    indices: Callable[[int], Sequence[int]]
    size: tuple[int, int] | None = None


def probe(source: Source) -> VideoInfo:
    """Size, frame count and rate of a clip, from its packets and first frame.

    Raises InputError for a file that is missing, empty, damaged or without video, and for one that is cut off and
    holds less than 80% of the frames that it states.
    """
    path = usable(source, "video")
    with _opened(path) as (container, stream):
        frames = 0
        for packet in container.demux(stream):
            may_go_on()
            frames += bool(packet.size and not packet.is_discard)
        rate = stream.average_rate or stream.guessed_rate
        # Of a whole file it says nothing: one frame may be shown for long, another left out by an edit list.
        stated = _stated_frames(container, stream) if is_cut_off(path) else 0
    if frames < _ENOUGH * stated:
        raise InputError(
            f"{path}: the file is cut off. It states {stated} frames and holds {frames}. Copy or export it again."
        )
    with _opened(path) as (container, stream):
        first = next(_decoded(container, stream, path), None)
    if first is None or not frames:
        raise InputError(f"{path}: the video has no frames. Export it again.")
    rotation = round(first.rotation / 90) * 90 % 360
    size = (first.height, first.width) if rotation in (90, 270) else (first.width, first.height)
    check_source(*size, name=str(path))
    if not rate or rate <= 0:
        raise InputError(f"{path}: the video states no frame rate. Convert it to MP4 with a constant frame rate.")
    return VideoInfo(*size, frames, float(rate), rotation)


def read_video(source: Source, selections: Sequence[Selection], info: VideoInfo | None = None) -> list[Tensor]:
    """Decode the frames of every selection as uint8 [T, H, W, 3] RGB, reading the clip once.

    Frames count in presentation order, whatever their time stamps: a variable frame rate is not resampled. Only
    selected frames are converted and kept. When the file holds another number of decodable frames than `info`
    (`probe(path)`) counted, it is read a second time with the number found. Scaling is bilinear from the clip's own
    pixel format to RGB in one step, as the published code's decoder does.
    Raises InputError for a file that cannot be read or has no frames.
    """
    path = usable(source, "video")
    info = info or probe(path)
    found, clips = _read_pass(path, selections, info)
    if found != info.frames:
        _LOG.warning("%s: %d of %d frames could be decoded.", path, found, info.frames)
        if found == 0:
            raise InputError(f"{path}: no frame of the video can be decoded. Export it again.")
        _, clips = _read_pass(path, selections, info._replace(frames=found))
    return clips


def read_clip(source: Source, most: int | None = None) -> tuple[Tensor, float]:
    """All frames of a clip, or the first `most`, uint8 [T, H, W, 3] RGB at its own size, and its average rate.

    The file is opened once, which for short clips is most of the time. Raises InputError as `probe` does, and when one
    of these frames is damaged.
    """
    path = usable(source, "video")
    kept: list[Tensor] = []
    with _opened(path) as (container, stream):
        if is_cut_off(path):
            probe(path)
        # Threads take longer to start than a small frame to decode.
        stream.thread_type = "AUTO" if (stream.width or 0) * (stream.height or 0) > 128 * 128 else "NONE"
        rate = stream.average_rate or stream.guessed_rate
        converter: _Converter | None = None
        for frame in _decoded(container, stream, path):
            _check_whole(frame, len(kept), path)
            if converter is None:
                converter = _Converter(frame, None, round(frame.rotation / 90) * 90 % 360)
            kept.append(converter(frame, f"{path}, frame {len(kept)}"))
            if len(kept) == most:
                break
    if not kept:
        raise InputError(f"{path}: the video has no frames. Export it again.")
    check_source(kept[0].shape[1], kept[0].shape[0], name=str(path))
    if not rate or rate <= 0:
        raise InputError(f"{path}: the video states no frame rate. Convert it to MP4 with a constant frame rate.")
    return torch.stack(kept), float(rate)


def read_excerpt(source: Source, first: int, spread: int) -> tuple[Tensor | Excerpt, float]:
    """The frames of `read_clip` that training looks at: the `first` ones and `spread` more over the whole clip.

    Clips that hardly have more come whole. Longer ones are decoded to their end, but no other frames are kept. Raises
    InputError as `read_clip` does, wherever the clip is damaged.
    """
    frames, rate = read_clip(source, first + spread + 1)
    if len(frames) <= first + spread:
        return frames, rate
    path = usable(source, "video")
    info = probe(path)
    selection = Selection(lambda count: excerpt_indices(count, first, spread))
    found, clips = _read_pass(path, [selection], info, strict=True)
    if found != info.frames:
        info = info._replace(frames=found)
        _, clips = _read_pass(path, [selection], info, strict=True)
    return Excerpt(info.frames, selection.indices(info.frames), clips[0]), rate


def count_damaged(source: Source) -> tuple[int, int]:
    """Decode a clip to its end: how many frames came out, and how many of them the decoder calls damaged."""
    path = usable(source, "video")
    frames = damaged = 0
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream, path):
            frames += 1
            damaged += frame.is_corrupt
    return frames, damaged


def _read_pass(
    path: Path | Encoded, selections: Sequence[Selection], info: VideoInfo, strict: bool = False
) -> tuple[int, list[Tensor]]:
    """Number of decodable frames (up to the last one needed) and the selections for a clip of `info.frames`.

    `strict`: raises InputError where the decoder calls a frame damaged.
    """
    wanted = [list(selection.indices(info.frames)) for selection in selections]
    last = max(index for indices in wanted for index in indices)
    kept: list[dict[int, Tensor]] = [{} for _ in selections]
    found = 0
    with _opened(path) as (container, stream):
        frames = _decoded(container, stream, path)
        converters: list[_Converter] = []
        for index, frame in enumerate(frames):
            if index > last and last < info.frames - 1:
                found = info.frames  # the rest is not needed, so nobody asks how long it is
                break
            found = index + 1
            if strict:
                _check_whole(frame, index, path)
            converters = converters or [_Converter(frame, selection.size, info.rotation) for selection in selections]
            for converter, indices, pixels in zip(converters, wanted, kept, strict=True):
                if index in indices:
                    pixels[index] = converter(frame, f"{path}, frame {index}")
    if found != info.frames:
        return found, []
    return found, [torch.stack([pixels[i] for i in indices]) for indices, pixels in zip(wanted, kept, strict=True)]


class _Converter:
    """Turns decoded frames upright, scales them and converts them to RGB."""

    def __init__(self, first: VideoFrame, size: tuple[int, int] | None, rotation: int) -> None:
        self._source = (first.width, first.height, first.format.name)
        graph = Graph()
        nodes = [
            graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 1))
        ]
        nodes += [graph.add(name, argument) for name, argument in _UPRIGHT[rotation]]
        if size is not None:
            nodes.append(graph.add("scale", f"w={size[1]}:h={size[0]}:flags=bilinear"))
        nodes += [graph.add("format", "rgb24"), graph.add("buffersink")]
        for before, after in zip(nodes, nodes[1:], strict=False):
            before.link_to(after)
        graph.configure()
        self._graph = graph

    def __call__(self, frame: VideoFrame, name: str) -> Tensor:
        """uint8 [H, W, 3] of one frame. Raises InputError when the clip changes its size or format on the way."""
        if (frame.width, frame.height, frame.format.name) != self._source:
            raise InputError(f"{name}: the video changes its size or pixel format here. Convert it to one size.")
        self._graph.push(frame)
        return torch.from_numpy(self._graph.pull().to_ndarray())


@contextmanager
def _opened(path: Path | Encoded) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(readable(path))
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: this is not a video that can be read ({reason}). Export it as MP4.") from error
    with container:
        # A cover picture of a sound file is a video stream too, in FFmpeg's eyes.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise InputError(f"{path}: the file has no video, it holds {_kinds(container)}. Choose another file.")
        if streams[0].codec_context is None:
            raise InputError(f"{path}: nothing can decode the video in it, or the file is damaged. Export it as MP4.")
        streams[0].thread_type = "AUTO"
        try:
            yield container, streams[0]
        except av.FFmpegError as error:  # of reading packets or converting frames; _decoded knows more of its own
            raise InputError(f"{path}: the video is damaged ({error.strerror}). Export it again.") from error


def _stated_frames(container: InputContainer, stream: VideoStream) -> int:
    """How many frames the file says that the video has; 0 when it says nothing of it."""
    if stream.frames:
        return stream.frames
    length = (container.duration or 0) / av.time_base  # of the longest stream
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    elif found := _DURATION.match(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, found.groups())
        length = hours * 3600 + minutes * 60 + seconds
    return round(length * float(stream.average_rate or 0))


def _kinds(container: InputContainer) -> str:
    return (
        " and ".join(sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams}))
        or "no streams"
    )


def _decoded(container: InputContainer, stream: VideoStream, path: Path | Encoded) -> Iterator[VideoFrame]:
    count = 0
    try:
        for frame in container.decode(stream):
            may_go_on()
            yield frame
            count += 1
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: the video is damaged after frame {count} ({error.strerror}). Export it again."
        ) from error


def _check_whole(frame: VideoFrame, index: int, path: Path | Encoded) -> None:
    if frame.is_corrupt:
        raise InputError(f"{path}: the video is damaged in frame {index}. Export it again.")


def check_clip(frames: Tensor, name: str) -> None:
    """Raise InputError unless `frames` is a usable uint8 [T, H, W, 3] clip; `name` is what the user calls it."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InputError(
            f"{name}: expected uint8 frames [time, height, width, 3], got {frames.dtype} {list(frames.shape)}. "
            "Convert them to 8-bit RGB."
        )
    if len(frames) < 1:
        raise InputError(f"{name}: the clip has no frames. At least 1 is needed.")
    check_source(frames.shape[2], frames.shape[1], name)
