"""Shipped workflows set up for an example of the toy world and a miniature."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
from miniature import MINIATURES, Miniature
from workflows.build import build
from workflows.graph import Graph
from workflows.shipped import TASKS

from tools.tiny.vlm_drawings import drawing_of
from vino_core.media.output import write_image, write_video
from vino_core.systems.base import Preset
from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.tasks import ToySource
from vino_core.training.example import Example

GRAPHS: dict[str, Graph] = {task.name: build(task).api() for task in TASKS}
_TASKS = {task.name: task for task in TASKS}
_LOADERS = {"LoadImage": "image", "LoadVideo": "file"}


@dataclass(frozen=True)
class ToyRun:
    """A shipped workflow, and the task and kind of the toy examples that it gets."""

    workflow: str
    task: str
    kind: str

    @property
    def title(self) -> str:
        return f"{_TASKS[self.workflow].title}: {self.kind}"

    @property
    def miniature(self) -> Miniature:
        """The one that runs this workflow."""
        return next(miniature for miniature in MINIATURES if miniature.kit is _TASKS[self.workflow].kit)

    @property
    def preset(self) -> Preset:
        """The miniature's settings for what the workflow does."""
        return self.miniature.system.presets[_TASKS[self.workflow].preset]

    def examples(self) -> Iterator[ToyExample]:
        """Examples of this kind, of the combinations that training never shows."""
        source = ToySource(self.task, split="heldout", captions="short")
        found = (source.toy(number) for number in count() if source.plan(number).kind == self.kind)
        kind = _TASKS[self.workflow].think
        return found if kind is None else _drawings(kind, found)

    def example(self) -> Example:
        """The first of them."""
        return next(self.examples()).example

    def write_inputs(self, example: Example, folder: Path) -> list[Path]:
        """The example's pictures and clips as files in `folder`, pictures first."""
        paths = []
        for number, image in enumerate(example.images, start=1):
            paths.append(folder / f"{example.id}-image-{number}.png")
            write_image(paths[-1], image, {})
        for number, video in enumerate(example.videos, start=1):
            paths.append(folder / f"{example.id}-video-{number}.mp4")
            write_video(paths[-1], video, self.miniature.system.frame_rate, {})
        return paths

    def graph(self, example: Example, files: list[str]) -> Graph:
        """The shipped graph for `example`, whose pictures and clips were uploaded as `files`.

        Load nodes that are left over go, and so does what was connected to them.
        """
        graph = copy.deepcopy(GRAPHS[self.workflow])
        changes = _changes(self.miniature, self.preset, example)
        waiting = iter(files)
        for name, node in list(graph.items()):
            if node["class_type"] == "CLIPLoader":
                # It knows published sizes only.
                node.update(class_type="VINOTextEncoderLoader", inputs={"text_encoder_name": "", "device": "default"})
            inputs, kind = node["inputs"], node["class_type"]
            inputs.update({key: value for key, value in changes.get(kind, {}).items() if key in inputs})
            if kind in _LOADERS:
                file = next(waiting, None)
                if file is None:
                    del graph[name]
                inputs[_LOADERS[kind]] = file
        for node in graph.values():
            inputs = node["inputs"]
            for key in [key for key, value in inputs.items() if isinstance(value, list) and value[0] not in graph]:
                del inputs[key]
        return graph


def _drawings(kind: str, examples: Iterator[ToyExample]) -> Iterator[ToyExample]:
    """Drawings that ask for the clips of `examples`, for those that can be asked for in that way."""
    for toy in examples:
        drawing = drawing_of(Random(toy.example.id), kind, toy.truth.target)
        if drawing is not None:
            images = (torch.from_numpy(drawing.pixels),)
            yield replace(toy, example=replace(toy.example, prompt=drawing.words, images=images))


def _changes(miniature: Miniature, preset: Preset, example: Example) -> dict[str, dict[str, Any]]:
    """Inputs to set, by node type: the miniature's files, the settings of the task, the size of the example."""
    frames, height, width, _ = example.target.shape
    return {
        **miniature.loaders,
        "VINOReferences": {"length": frames, "size.width": width, "size.height": height},
        "PrimitiveStringMultiline": {"value": example.prompt},
        **dict.fromkeys(("VINOPromptRewriter", "VINOAsk", "VINOThink"), {"max_new_tokens": 48}),
        "VINOEncoder": {"negative": "auto", "image_scale": preset.image_scale},
        "VINOSampler": {
            "steps": preset.steps,
            "shift": preset.shift,
            "text_scale": preset.text_scale,
            "image_scale": preset.image_scale,
        },
        "VINODualCFGGuider": {"text_scale": preset.text_scale, "image_scale": preset.image_scale},
        "VINOScheduler": {"steps": preset.steps, "shift": preset.shift},
        "CreateVideo": {"fps": miniature.system.frame_rate},
    }
