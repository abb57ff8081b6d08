"""Toy examples as requests to a pipeline."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..encoder.encode import encode_visuals
from ..encoder.understand import rewrite_prompt
from ..errors import InputError
from ..media.references import Clip
from ..request import Request
from ..systems.base import System
from ..tasks import prepare_references
from ..training.example import Example
from .batches import generate_batch

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True)
class Settings:
    """How results are made. Eight steps suffice for a picture of this world; guidance of 1 or less is off.

    Scales and shift that are None are those of the system's preset for each task. With `understand` the text encoder
    first writes out what the result should show, and that is the prompt ("understand, then generate").
    """

    steps: int = 8
    text_scale: float | None = None
    image_scale: float | None = None
    shift: float | None = None
    negative: str = ""
    seed: int = 0
    understand: bool = False


def request_of(example: Example, settings: Settings, system: System) -> Request:
    """The request whose result should be the example's target. Its seed depends on the example's name.

    Raises InputError for a task that the system does not have.
    """
    frames, height, width, _ = example.target.shape
    task = system.trained_as(example.task, len(example.images))
    clips = [Clip(video, example.fps) for video in example.videos]
    size, area = (height, width), height * width
    references = prepare_references(system, task, example.images, clips, frames, size, area)
    preset = system.presets[task]
    return Request(
        prompt=example.prompt,
        width=width,
        height=height,
        frames=frames,
        negative=settings.negative,
        references=references,
        text_scale=preset.text_scale if settings.text_scale is None else settings.text_scale,
        image_scale=preset.image_scale if settings.image_scale is None else settings.image_scale,
        shift=preset.shift if settings.shift is None else settings.shift,
        steps=settings.steps,
        seed=zlib.crc32(f"{settings.seed} {example.id}".encode()),
        base_image=example.base_image,
        task=task,
    )


def from_pipeline(pipeline: Pipeline, settings: Settings) -> Callable[[list[Example]], list[Tensor]]:
    """A generator of results uint8 [T, H, W, 3] for `evaluate`, all requests of a call in one batch."""

    def generate(examples: list[Example]) -> list[Tensor]:
        requests = [request_of(example, settings, pipeline.system) for example in examples]
        if settings.understand:
            requests = [understood(pipeline, request) for request in requests]
        return generate_batch(pipeline, requests)

    return generate


def understood(pipeline: Pipeline, request: Request) -> Request:
    """The request with the prompt that the text encoder writes for it; with none where it has nothing to say."""
    engine, system = pipeline.engine, pipeline.system
    with pipeline.resident(engine.model), torch.inference_mode():
        visuals = encode_visuals(engine, request.references, system.vision, understanding=True)
        try:
            prompt = rewrite_prompt(engine, system, request.prompt, visuals)
        except InputError:  # in an evaluation a failure of this example, not the end
            prompt = ""
    return replace(request, prompt=prompt)
