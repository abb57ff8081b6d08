"""The main job, from files to files: shipped workflows through a real ComfyUI server, with the miniature vino-tiny.

    python tools/demo.py          (or: make demo)

Pictures, clips and prompts are those of the toy world, drawn now. Results and a contact sheet come to output/demo/.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]

from comfy_server import ComfyServer  # noqa: E402
from contact_sheet import Row, draw, frames_of  # noqa: E402
from miniature import NOTICE, TINY_VINO  # noqa: E402
from toy_runs import ToyRun  # noqa: E402

TARGET = ROOT / "output" / "demo"

RUNS = (
    ToyRun("vino_text_to_image", "t2i", "two sprites"),
    ToyRun("vino_text_to_video", "t2v", "one sprite"),
    ToyRun("vino_image_to_video", "i2v", "motion"),
    ToyRun("vino_edit_image", "ti2i", "recolour"),
    ToyRun("vino_edit_image", "ti2i", "remove"),
    ToyRun("vino_edit_image", "ti2i", "add"),
    ToyRun("vino_edit_image", "ti2i", "replace"),
    ToyRun("vino_edit_image", "ti2i", "style"),
    ToyRun("vino_edit_image", "ti2i", "move"),
    ToyRun("vino_references_to_video", "ti2v", "2 subjects"),
    ToyRun("vino_edit_video", "tv2v", "recolour"),
)


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
        TINY_VINO.write(server.models)
        print("Starting ComfyUI ...", flush=True)
        with server:
            for number, run in enumerate(RUNS, start=1):
                print(f"{number}/{len(RUNS)} {run.title} ... ", end="", flush=True)
                example = run.example()
                inputs = run.write_inputs(example, Path(folder))
                graph = run.graph(example, [server.upload(path) for path in inputs])
                started = time.monotonic()
                (result,) = server.run(graph).files()
                name = f"{run.workflow.removeprefix('vino_')}_{run.kind.replace(' ', '_')}{result.suffix}"
                target = publish(result, name)
                print(f"{time.monotonic() - started:.1f} s, {target.relative_to(ROOT)}", flush=True)
                given = [frames_of(path, 1)[0] for path in inputs]
                rows.append(Row(run.title, example.prompt, given, frames_of(target, 4)))
            sheet = Path(folder) / "contact_sheet.png"
            draw(rows, NOTICE).save(sheet)
            target = publish(sheet, sheet.name)
    print(f"Contact sheet: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
