"""The main job, from files to files: shipped workflows through a real ComfyUI server, with the miniature vino-tiny.

    python tools/demo.py          (or: make demo)

Pictures, clips and prompts are those of the toy world, drawn now. Results and a contact sheet come to output/demo/.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]

from comfy_server import ComfyServer, Graph  # noqa: E402
from contact_sheet import Row, draw, frames_of  # noqa: E402
from miniature import LOADERS, NOTICE, SYSTEM, write_miniature  # noqa: E402
from workflows.tasks import TASKS, build  # noqa: E402

from vino_core.media.output import write_image, write_video  # noqa: E402
from vino_core.systems.base import Preset  # noqa: E402
from vino_core.toyworld.tasks import ToySource  # noqa: E402
from vino_core.training.example import Example  # noqa: E402

TARGET = ROOT / "output" / "demo"


@dataclass(frozen=True)
class Item:
    """A shipped workflow, and the kind of toy example that it gets."""

    workflow: str
    task: str
    kind: str

    def example(self) -> Example:
        """The first example of its kind, of the combinations that training never shows."""
        source = ToySource(self.task, split="heldout", captions="short")
        return next(source.example(number) for number in count() if source.plan(number).kind == self.kind)


ITEMS = (
    Item("vino_text_to_image", "t2i", "two sprites"),
    Item("vino_text_to_video", "t2v", "one sprite"),
    Item("vino_image_to_video", "i2v", "motion"),
    Item("vino_edit_image", "ti2i", "recolour"),
    Item("vino_edit_image", "ti2i", "remove"),
    Item("vino_edit_image", "ti2i", "add"),
    Item("vino_edit_image", "ti2i", "replace"),
    Item("vino_edit_image", "ti2i", "style"),
    Item("vino_edit_image", "ti2i", "move"),
    Item("vino_references_to_video", "ti2v", "2 subjects"),
    Item("vino_edit_video", "tv2v", "recolour"),
)
GRAPHS: dict[str, Graph] = {task.name: build(task).api() for task in TASKS}
TITLES = {task.name: task.title for task in TASKS}


def settings_of(preset: Preset, example: Example) -> dict[str, dict[str, object]]:
    """Inputs to set, by node type: the miniature's files, the settings of its task, the size of its world."""
    frames, height, width, _ = example.target.shape
    return {
        **LOADERS,
        "VINOReferences": {"length": frames, "size.width": width, "size.height": height},
        "PrimitiveStringMultiline": {"value": example.prompt},
        "VINOEncoder": {"negative": "auto", "image_scale": preset.image_scale},
        "VINOSampler": {
            "steps": preset.steps,
            "shift": preset.shift,
            "text_scale": preset.text_scale,
            "image_scale": preset.image_scale,
        },
        "CreateVideo": {"fps": SYSTEM.frame_rate},
    }


def graph_of(item: Item, example: Example, files: list[str]) -> Graph:
    """The shipped graph on the uploaded `files`. Load nodes and sockets that are left over go."""
    graph = copy.deepcopy(GRAPHS[item.workflow])
    changes = settings_of(SYSTEM.presets[item.task], example)
    waiting = iter(files)
    for name, node in list(graph.items()):
        inputs = node["inputs"]
        for key, value in changes.get(node["class_type"], {}).items():
            if key in inputs:
                inputs[key] = value
        if node["class_type"] in ("LoadImage", "LoadVideo"):
            file = next(waiting, None)
            inputs["image" if node["class_type"] == "LoadImage" else "file"] = file
            if file is None:
                del graph[name]
    for node in graph.values():
        dangling = [key for key, value in node["inputs"].items() if isinstance(value, list) and value[0] not in graph]
        for key in dangling:
            del node["inputs"][key]
    return graph


def write_inputs(example: Example, folder: Path) -> list[Path]:
    """The example's pictures and clips as files, images first."""
    paths = []
    for number, image in enumerate(example.images, start=1):
        paths.append(folder / f"{example.id}-image-{number}.png")
        write_image(paths[-1], image, {})
    for number, video in enumerate(example.videos, start=1):
        paths.append(folder / f"{example.id}-video-{number}.mp4")
        write_video(paths[-1], video, SYSTEM.frame_rate, {})
    return paths


def publish(source: Path, name: str) -> Path:
    """Copy a finished file to the target folder, whole or not at all."""
    TARGET.mkdir(parents=True, exist_ok=True)
    aside = TARGET / f".{name}.part"
    shutil.copy(source, aside)
    os.replace(aside, TARGET / name)
    return TARGET / name


def main() -> None:
    print(NOTICE)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vino-demo-") as folder:
        server = ComfyServer(Path(folder))
        write_miniature(server.models)
        print("Starting ComfyUI ...", flush=True)
        with server:
            for number, item in enumerate(ITEMS, start=1):
                title = f"{TITLES[item.workflow]}: {item.kind}"
                print(f"{number}/{len(ITEMS)} {title} ... ", end="", flush=True)
                example = item.example()
                inputs = write_inputs(example, Path(folder))
                graph = graph_of(item, example, [server.upload(path) for path in inputs])
                started = time.monotonic()
                (result,) = server.run(graph).files()
                name = f"{item.workflow.removeprefix('vino_')}_{item.kind.replace(' ', '_')}{result.suffix}"
                target = publish(result, name)
                print(f"{time.monotonic() - started:.1f} s, {target.relative_to(ROOT)}", flush=True)
                rows.append(
                    Row(title, example.prompt, [frames_of(path, 1)[0] for path in inputs], frames_of(target, 4))
                )
            sheet = Path(folder) / "contact_sheet.png"
            draw(rows, NOTICE).save(sheet)
            target = publish(sheet, sheet.name)
    print(f"Contact sheet: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
