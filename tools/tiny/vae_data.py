"""Pictures and clips of the toy world for the VAE's training, drawn once and kept in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vino_core.toyworld.tasks import ToySource  # noqa: E402

PICTURE_TASKS = ("t2i", "ti2i", "ti2i_baseimg", "select_image")
CLIP_TASKS = ("t2v", "i2v", "ti2v", "tv2v", "tiv2v", "tiv2v_clone", "tiv2v_camclone")


def pictures(count: int, split: str, tasks: tuple[str, ...] = PICTURE_TASKS) -> Tensor:
    """uint8 [count, 1, 64, 64, 3]: targets and references of the tasks by turns."""
    found: list[Tensor] = []
    index = 0
    sources = [ToySource(task, split=split) for task in tasks]
    while len(found) < count:
        for source in sources:
            example = source.example(index)
            found += [example.target, *(image[None] for image in example.images)]
        index += 1
    return torch.stack(found[:count])


def clips(count: int, split: str, frames: int = 9) -> Tensor:
    """uint8 [count, frames, 64, 64, 3]: targets and references of the tasks by turns."""
    found: list[Tensor] = []
    index = 0
    sources = [ToySource(task, split=split, frames=frames) for task in CLIP_TASKS]
    while len(found) < count:
        for source in sources:
            example = source.example(index)
            found += [example.target, *example.videos]
        index += 1
    return torch.stack(found[:count])


def kept(folder: Path, kind: str, count: int, split: str) -> Tensor:
    """`pictures` or `clips`, from a file of an earlier call if there is one."""
    path = folder / f"{kind}_{split}_{count}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {"pictures": pictures, "clips": clips}[kind](count, split)
        np.save(path, drawn.numpy())
    return torch.from_numpy(np.load(path, mmap_mode="r"))


if __name__ == "__main__":
    kept(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
