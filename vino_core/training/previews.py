"""Pictures and clips of a run under way: the same prompts and noise each time, and no trace in the run's randomness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..media.output import write_image, write_video
from ..pipeline import Pipeline
from .config import Flow, Preview


def previews(pipeline: Pipeline, wanted: Sequence[Preview], flow: Flow) -> Iterator[Tensor]:
    """Frames uint8 [T, H, W, 3] of each preview."""
    devices = [pipeline.device] if torch.device(pipeline.device).type == "cuda" else []
    for preview in wanted:
        request = preview.request(flow.shift)
        # Not `generate`: a tensor that is first made in its inference mode could not be trained on afterwards.
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield pipeline.decode(pipeline.sample(request, pipeline.encode(request)))[0]


def written(folder: Path, step: int, count: int) -> bool:
    """Whether all `count` previews of a step are there."""
    return all(any(folder.glob(f"{_name(step, number)}.*")) for number in range(count))


def write_preview(folder: Path, step: int, number: int, frames: Tensor, rate: float) -> Path:
    """Save one preview as PNG or MP4."""
    folder.mkdir(parents=True, exist_ok=True)
    name = _name(step, number)
    if len(frames) == 1:
        path = folder / f"{name}.png"
        write_image(path, frames[0], {"step": step})
    else:
        path = folder / f"{name}.mp4"
        write_video(path, frames, rate, {"step": step})
    return path


def _name(step: int, number: int) -> str:
    return f"step_{step:08d}_{number}"
