"""A miniature run for the training tests: random networks of a few thousand weights and pictures made from numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_vlm
import tiny_vogue_vlm
import torch

from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.errors import InputError
from vino_core.systems import get_system
from vino_core.systems.base import PixelLimits
from vino_core.training import draws
from vino_core.training.config import Fresh, RunConfig
from vino_core.training.example import Example
from vino_core.training.loop import Report, Trainer
from vino_core.training.metrics import read_record
from vino_core.training.parts import Parts, fresh_config, fresh_mmdit, fresh_tokens
from vino_core.training.team import Team
from vino_core.training.typed import build
from vino_core.vae import VAE, HunyuanVAE

LIMIT = 1e-4
"""Between losses of the same steps, whose sums are taken in other orders."""
FRESH = {
    "hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single": 1, "depth_refiner": 1, "text_dim": 24,
    "rope_axes": [4, 6, 6],
}  # fmt: skip
IMAGES = {"i2v": 1, "ti2i": 1, "ti2i_baseimg": 2, "ti2v": 2, "reconstruct_image": 1, "select_image": 3, "tiv2v": 1}
VIDEOS = {"tv2v": 1, "tiv2v": 1}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one thread, on a busy machine by far. Test files import this to use it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Numbers:
    """Examples of one task whose pixels are noise of their number; the `bad` ones cannot be used."""

    def __init__(self, task: str, size: int = 32, length: int | None = None, bad: tuple[int, ...] = ()) -> None:
        self.name, self.size, self.length, self.bad = task, size, length, bad
        self.asked: list[int] = []

    @property
    def count(self) -> int | None:
        return self.length

    def example(self, index: int) -> Example:
        self.asked.append(index)
        if index in self.bad:
            raise InputError(f"{self.name}-{index}: damaged")
        generator = draws.tensors(index, self.name)
        frames = 5 if self.name.endswith("v") else 1

        def pixels(*shape: int) -> torch.Tensor:
            return torch.randint(0, 256, (*shape, self.size, self.size, 3), generator=generator, dtype=torch.uint8)

        return Example(
            id=f"{self.name}-{index}",
            task=self.name,
            prompt=f"number {index % 7}",
            target=pixels(frames),
            images=tuple(pixels() for _ in range(IMAGES.get(self.name, 0))),
            videos=tuple(pixels(5) for _ in range(VIDEOS.get(self.name, 0))),
            base_image=self.name == "ti2i_baseimg",
        )


def config(out: Path, **changes: Any) -> RunConfig:
    """A short run of stage 2 in float32 without checkpointing; `changes` replace whole groups or single values."""
    values: dict[str, Any] = {
        "out": str(out),
        "stage": 2,
        "any_order": True,
        "steps": 4,
        "train": ["connectors", "tokens", "mmdit"],
        "files": {"text_encoder": "-", "vae": "-"},
        "fresh": FRESH,
        "tokens": 4,
        "optimizer": {"learning_rate": 1e-3},
        "flow": {"shift": 3},
        "data": {"tasks": {name: {"weight": 1, "source": "toy"} for name in ("t2i", "ti2i")}, "area": 1024,
                 "frames": 5, "workers": 0},
        "parallel": {"dtype": "float32", "checkpointing": False, "device": "cpu", "timeout": 60},
        "watch": {"tensorboard": False, "progress": False, "peak_tflops": 1.0},
        "save": {"every": 2, "keep": 2},
    }  # fmt: skip
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **value} if both else value
    return build(RunConfig, values)


def tasks(*names: str, **settings: Any) -> dict[str, Any]:
    """`data.tasks` with equal weights."""
    return {name: {"weight": 1, "source": "toy", **settings} for name in names}


def frozen(system: str = "vino") -> tuple[TransformersEngine, VAE]:
    """Text encoder of the system and VAE, which no run changes."""
    return _frozen(tiny_vogue_vlm if system == "vogue" else tiny_vlm)


@lru_cache(maxsize=2)
def _frozen(vlm: ModuleType) -> tuple[TransformersEngine, VAE]:
    from diffusers import AutoencoderKLHunyuanVideo

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    return vlm.small_engine(), HunyuanVAE(vae)


def parts(run: RunConfig) -> Parts:
    """Networks for `run`: the same for the same seed. Pictures are shown small to the VLM."""
    engine, vae = frozen(run.system)
    tokens = None
    if run.stage != 0 and (run.tokens is None or run.tokens):
        count = run.tokens or 4
        tokens = fresh_tokens(count + get_system(run.system).for_tokens(count).marks, engine.hidden_size, run.seed)
    system = get_system(run.system).for_tokens(tokens)
    side = system.vision.patch * system.vision.merge
    small = PixelLimits(side, 1024, 4096)
    vision = replace(system.vision, image_first=small, video_first=small)
    if vision.image_second is not None:
        vision = replace(vision, image_second=small, video_second=PixelLimits(side, 1024, 65536))
    system = replace(system, vision=vision)
    fresh = build(Fresh, FRESH)
    mmdit = fresh_mmdit(fresh_config(fresh, system, engine.hidden_size), system, run.seed)
    with torch.no_grad():  # what starts at zero would hide most gradients
        for name, parameter in mmdit.named_parameters():
            if not parameter.any():
                noise = torch.randn(parameter.shape, generator=draws.tensors(1, name))
                parameter.copy_(0.05 * noise)
    return Parts(system, engine, vae, mmdit, tokens)


def sources(run: RunConfig, **options: Any) -> dict[str, Numbers]:
    return {name: Numbers(name, **options) for name in run.data.tasks}


def train(
    run: RunConfig, report: Report | None = None, given: dict[str, Numbers] | None = None
) -> list[dict[str, Any]]:
    """Train `run` in this process to its end, and return the rows of its losses.jsonl."""
    with Team(run.parallel) as team:
        Trainer(run, parts(run), given or sources(run), team, validation=sources(run)).train(report)
    return read_record(Path(run.out))


class Stopped(Exception):
    """What stops a run in `stop_at`."""


def stop_at(step: int) -> Report:
    """A report that stops the run after `step`."""

    def report(done: int, steps: int, record: Mapping[str, Any]) -> None:
        if done == step:
            raise Stopped

    return report


def assert_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The same tasks, and losses and norms that differ by no more than sums taken in another order do."""
    for one, other in zip(ours, theirs, strict=True):
        assert one["task"] == other["task"]
        assert one["loss"] == pytest.approx(other["loss"], abs=LIMIT)
        assert one["norm"] == pytest.approx(other["norm"], abs=LIMIT)


def exact(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    return [(row["task"], row["loss"], row["norm"]) for row in rows]
