"""The main job on real input: six of the shipped workflows through a real ComfyUI server.

    python tools/demo.py          (or: make demo)

Input is the published example media where it lies beside the project (../shared/media), else the small pictures and
the clip of the tests. Results and a contact sheet come to output/demo/. The weights are miniature and random: the demo
shows that every part runs, from a file on disk to a file on disk, and not what VINO can do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]

from comfy_server import ComfyServer, Graph  # noqa: E402
from contact_sheet import Row, draw, frames_of  # noqa: E402
from tiny_weights import write_tiny_weights  # noqa: E402
from workflows.tasks import TASKS  # noqa: E402

TARGET = ROOT / "output" / "demo"
PUBLISHED = ROOT.parent / "shared" / "media" / "vino_test_data"
SMALL = ROOT / "tests" / "goldens" / "vino" / "media"
WIDTH, HEIGHT, LENGTH, STEPS = 320, 192, 9, 4
NOTICE = "Random miniature weights: this shows that everything runs, not what VINO can do."


@dataclass(frozen=True)
class Item:
    """One workflow on one input. Media are (published, small) file names in the order of its Load nodes."""

    workflow: str
    media: tuple[tuple[str, str], ...] = ()
    prompt: str | None = None

    def files(self, published: bool) -> list[Path]:
        """The input files."""
        if published:
            kinds = {".mp4": "videos"}
            return [PUBLISHED / kinds.get(Path(name).suffix, "images") / name for name, _ in self.media]
        return [SMALL / name for _, name in self.media]


ITEMS = (
    Item("vino_text_to_image"),
    Item("vino_image_to_video", (("i2v_1.jpg", "img_c.png"),)),
    Item("vino_edit_image", (("ti2i_1.jpg", "img_a.png"),)),
    Item(
        "vino_edit_image_with_reference",
        (("ti2i_baseimg_1.png", "img_b.png"), ("ti2i_baseimg_2.jpg", "img_a.png")),
        "Put the sunglasses from Image 1 on the man in Image 2.",
    ),
    Item(
        "vino_references_to_video",
        (("ti2v_1.jpg", "img_d.png"), ("ti2v_2.jpg", "img_b.png"), ("ti2v_3.jpg", "img_c.png")),
    ),
    Item("vino_edit_video_with_reference", (("tiv2v_1.jpg", "img_d.png"), ("tiv2v_1.mp4", "clip_a.mp4"))),
)

# Settings that take seconds on a processor, by node type.
QUICK = {
    "VINOReferences": {"size": "custom", "size.width": WIDTH, "size.height": HEIGHT},
    "VINOSampler": {"steps": STEPS},
    "VINOScheduler": {"steps": STEPS},
    "VAEDecodeTiled": {"tile_size": 1024},
}


@dataclass
class Prepared:
    """A graph ready to queue, its prompt and where its inputs are."""

    graph: Graph
    prompt: str
    inputs: list[Path] = field(default_factory=list)


def prepare(item: Item, server: ComfyServer, published: bool) -> Prepared:
    """The item's shipped graph with quick settings and its own files, uploaded."""
    path = ROOT / "workflows" / "api" / f"{item.workflow}.json"
    graph: Graph = json.loads(path.read_text(encoding="utf-8"))
    prepared = Prepared(graph, "", item.files(published))
    names = iter([server.upload(file) for file in prepared.inputs])
    for node in graph.values():
        inputs = node["inputs"]
        inputs.update(QUICK.get(node["class_type"], {}))
        if node["class_type"] == "VINOReferences":
            inputs["length"] = min(inputs["length"], LENGTH)
        elif node["class_type"] == "LoadImage":
            inputs["image"] = next(names)
        elif node["class_type"] == "LoadVideo":
            inputs["file"] = next(names)
        elif node["class_type"] == "PrimitiveStringMultiline":
            inputs["value"] = item.prompt or inputs["value"]
            prepared.prompt = inputs["value"]
    return prepared


def publish(source: Path, name: str) -> Path:
    """Copy a finished file to the target folder, whole or not at all."""
    TARGET.mkdir(parents=True, exist_ok=True)
    aside = TARGET / f".{name}.part"
    shutil.copy(source, aside)
    os.replace(aside, TARGET / name)
    return TARGET / name


def main() -> None:
    published = all(file.exists() for item in ITEMS for file in item.files(published=True))
    print(NOTICE)
    print(f"Input: {PUBLISHED if published else SMALL}")
    titles = {task.name: task.title for task in TASKS}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vino-demo-") as folder:
        server = ComfyServer(Path(folder))
        write_tiny_weights(server.models)
        print("Starting ComfyUI ...", flush=True)
        with server:
            for number, item in enumerate(ITEMS, start=1):
                title = titles[item.workflow]
                print(f"{number}/{len(ITEMS)} {title} ... ", end="", flush=True)
                started = time.monotonic()
                prepared = prepare(item, server, published)
                (result,) = server.run(prepared.graph).files()
                target = publish(result, item.workflow + result.suffix)
                print(f"{time.monotonic() - started:.1f} s, {target.relative_to(ROOT)}", flush=True)
                inputs = [frames_of(file, 1)[0] for file in prepared.inputs]
                rows.append(Row(title, prepared.prompt, inputs, frames_of(target, 4)))
            sheet = Path(folder) / "contact_sheet.png"
            draw(rows, NOTICE).save(sheet)
            target = publish(sheet, sheet.name)
    print(f"Contact sheet: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
