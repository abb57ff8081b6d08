"""Small data sets for the tests, and a VAE that is quick: averages of pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from media_files import moving_bar, write_clip
from PIL import Image
from torch import Tensor

from vino_core.training.config import RunConfig
from vino_core.training.example import Example
from vino_core.training.typed import build


class AverageVAE:
    """Stands in for VAE. `before_batch` is called with the number of the batch; all loaded ones count together."""

    batches = 0
    before_batch: Callable[[int], None] = staticmethod(lambda number: None)

    @classmethod
    def load(cls, path: str, dtype: torch.dtype, device: str) -> AverageVAE:
        return cls()

    def encode_batch(self, pixels: Tensor) -> Tensor:
        """[B, T, H, W, 3] -> [B, 16, t, h, w]: every fourth frame, blocks of 8 x 8, the channels repeated."""
        AverageVAE.before_batch(AverageVAE.batches)
        AverageVAE.batches += 1
        frames = pixels[:, ::4].float().permute(0, 1, 4, 2, 3)
        small = F.avg_pool2d(frames.flatten(0, 1), 8).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return small.repeat(1, 6, 1, 1, 1)[:, :16] / 255


def data_config(folder: Path, tasks: dict[str, Any], **changes: Any) -> RunConfig:
    """A config of vino-tiny whose VAE is a file of a few bytes; `changes` are of `data`."""
    vae = folder / "vae.bin"
    if not vae.exists():
        vae.write_bytes(b"a VAE")
    values = {
        "system": "vino-tiny",
        "out": str(folder / "run"),
        "stage": None,
        "steps": 1,
        "train": ["mmdit"],
        "files": {"text_encoder": "-", "vae": str(vae), "model": "-"},
        "optimizer": {"learning_rate": 1e-3},
        "flow": {"shift": 1},
        "parallel": {"dtype": "float32"},
        "data": {"tasks": tasks, "area": 4096, "frames": 9, **changes},
    }
    return build(RunConfig, values)


@dataclass(frozen=True)
class ByName:
    """A sample of which nothing but its name is asked for."""

    id: str
    adapted: str = ""
    index: int = -1


def by_name(example: Example, step: int, number: int) -> ByName:
    """What a Feed prepares, where a test asks only which examples it takes."""
    return ByName(example.id)


def picture(path: Path, value: int, width: int = 64, height: int = 64) -> str:
    """Write a PNG of one colour, whose size in bytes depends on nothing but its own; returns its name.

    Its time of change is always the same, so that what is written twice counts as unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value % 256, 255 - value % 256, 30)).save(path)
    os.utime(path, (0, 0))
    return path.name


def clip(path: Path, frames: int = 9) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, moving_bar(frames))
    return path.name


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pictures_folder(folder: Path, count: int) -> Path:
    """A folder of text-to-image examples, each of its own colour."""
    rows = [
        {
            "index": n,
            "task": "t2i",
            "caption": f"colour {n}",
            "target_path": picture(folder / f"{n}.png", n),
        }
        for n in range(count)
    ]
    write_manifest(folder, rows)
    return folder
