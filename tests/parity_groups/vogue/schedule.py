"""Noise levels and timesteps of VOGUE against the index of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from vino_core.sampling.schedule import sigmas
from vino_core.systems import get_system

from .. import Row, compare, equal

INDEX = "pipeline_index.json"
SYSTEM = get_system("vogue")
LEVEL_LIMIT, TIME_LIMIT = 2.0**-23, 2.0**-13
"""The published schedule is rounded at other places: two steps of float32, below 1 and below 1024."""


def check(folder: Path) -> Iterator[Row]:
    index = json.loads((folder / INDEX).read_text())
    yield equal("schedule", "guidance", SYSTEM.guidance_input, index["embedded_guidance"])
    shift = index["scheduler"]["shift"]
    yield equal("schedule", "shift", {preset.shift for preset in SYSTEM.presets.values()}, {shift})
    for steps, table in index["schedule_tables"].items():
        levels = sigmas(int(steps), shift)
        timesteps = levels[:-1] * SYSTEM.timestep_scale
        yield compare(f"{steps} steps", "sigmas", levels, torch.tensor(table["sigmas"]), LEVEL_LIMIT)
        yield compare(f"{steps} steps", "timesteps", timesteps, torch.tensor(table["timesteps"]), TIME_LIMIT)
        rounded = timesteps.bfloat16().float()
        yield compare(f"{steps} steps", "timesteps_bf16", rounded, torch.tensor(table["timesteps_bf16"]))
