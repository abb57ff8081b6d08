"""Shipped workflows set up for an example of the toy world and the miniature."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from miniature import LOADERS, SYSTEM
from workflows.build import build
from workflows.graph import Graph
from workflows.vino import VINO_TASKS as TASKS

from vino_core.media.output import write_image, write_video
from vino_core.systems.base import Preset
from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.tasks import ToySource
from vino_core.training.example import Example

GRAPHS: dict[str, Graph] = {task.name: build(task).api() for task in TASKS}
TITLES = {task.name: task.title for task in TASKS}


@dataclass(frozen=True)
class ToyRun:
    """A shipped workflow, and the task and kind of the toy examples that it gets."""

    workflow: str
    task: str
    kind: str

    @property
    def title(self) -> str:
        return f"{TITLES[self.workflow]}: {self.kind}"

    def examples(self) -> Iterator[ToyExample]:
        """Examples of this kind, of the combinations that training never shows."""
        source = ToySource(self.task, split="heldout", captions="short")
        return (source.toy(number) for number in count() if source.plan(number).kind == self.kind)

    def example(self) -> Example:
        """The first of them."""
        return next(self.examples()).example

    def graph(self, example: Example, files: list[str]) -> Graph:
        """The shipped graph for `example`, whose pictures and clips were uploaded as `files`.

        Load nodes that are left over go, and so does what was connected to them.
        """
        graph = copy.deepcopy(GRAPHS[self.workflow])
        changes = _changes(SYSTEM.presets[self.task], example)
        waiting = iter(files)
        for name, node in list(graph.items()):
            inputs, kind = node["inputs"], node["class_type"]
            inputs.update({key: value for key, value in changes.get(kind, {}).items() if key in inputs})
            if kind in ("LoadImage", "LoadVideo"):
                file = next(waiting, None)
                if file is None:
                    del graph[name]
                inputs["image" if kind == "LoadImage" else "file"] = file
        for node in graph.values():
            inputs = node["inputs"]
            for key in [key for key, value in inputs.items() if isinstance(value, list) and value[0] not in graph]:
                del inputs[key]
        return graph


def _changes(preset: Preset, example: Example) -> dict[str, dict[str, Any]]:
    """Inputs to set, by node type: the miniature's files, the settings of the task, the size of the example."""
    frames, height, width, _ = example.target.shape
    return {
        **LOADERS,
        "VINOReferences": {"length": frames, "size.width": width, "size.height": height},
        "PrimitiveStringMultiline": {"value": example.prompt},
        "VINOPromptRewriter": {"max_new_tokens": 48},
        "VINOEncoder": {"negative": "auto", "image_scale": preset.image_scale},
        "VINOSampler": {
            "steps": preset.steps,
            "shift": preset.shift,
            "text_scale": preset.text_scale,
            "image_scale": preset.image_scale,
        },
        "VINODualCFGGuider": {"text_scale": preset.text_scale, "image_scale": preset.image_scale},
        "VINOScheduler": {"steps": preset.steps, "shift": preset.shift},
        "CreateVideo": {"fps": SYSTEM.frame_rate},
    }


def write_inputs(example: Example, folder: Path) -> list[Path]:
    """The example's pictures and clips as files in `folder`, pictures first."""
    paths = []
    for number, image in enumerate(example.images, start=1):
        paths.append(folder / f"{example.id}-image-{number}.png")
        write_image(paths[-1], image, {})
    for number, video in enumerate(example.videos, start=1):
        paths.append(folder / f"{example.id}-video-{number}.mp4")
        write_video(paths[-1], video, SYSTEM.frame_rate, {})
    return paths
