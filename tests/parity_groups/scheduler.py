"""Noise levels and step sizes against scheduler.json: equal to the last bit of float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from vino_core.sampling.schedule import sigmas

from . import Row, compare

INDEX = "scheduler.json"


def check(folder: Path) -> Iterator[Row]:
    for entry in json.loads((folder / INDEX).read_text()):
        case = f"{entry['steps']} steps, shift {entry['shift']}"
        levels = sigmas(entry["steps"], entry["shift"])
        yield compare(case, "timesteps", levels[:-1], torch.tensor(entry["timesteps"]))
        yield compare(case, "dts", levels[:-1] - levels[1:], torch.tensor(entry["dts"]))
