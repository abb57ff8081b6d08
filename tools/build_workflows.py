"""Write workflows/: each example in API format, in UI format as ComfyUI's frontend saves it, and as a picture.

    python tools/build_workflows.py [NAME ...]

starts a ComfyUI with miniature random weights, opens every graph of tools/workflows/shipped.py in the real frontend,
lays it out and saves it (or only those named). Run it after changing a task or a node's inputs. Needs Chromium.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]

from comfy_server import ComfyServer  # noqa: E402
from tiny_vogue_weights import write_tiny_vogue_weights  # noqa: E402
from tiny_weights import write_tiny_weights  # noqa: E402
from workflows.frontend import frontend  # noqa: E402
from workflows.samples import write_dataset, write_samples  # noqa: E402
from workflows.shipped import workflows  # noqa: E402
from workflows.training import FOLDER  # noqa: E402

TARGET = ROOT / "workflows"


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    (TARGET / "api").mkdir(parents=True, exist_ok=True)
    names = sys.argv[1:]
    flows = [flow for flow in workflows() if not names or flow.name in names]
    for flow in flows:
        write_json(TARGET / "api" / f"{flow.name}.json", flow.api())
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server:
        write_tiny_weights(server.models)
        write_tiny_vogue_weights(server.models)
        write_samples(server.folders["input"])
        write_dataset(server.folders["input"] / FOLDER)
        with frontend(server.url) as page:
            for flow in flows:
                drawn = page.draw(flow)
                if problems := page.problems():
                    raise SystemExit(f"{flow.name}: " + "; ".join(problems))
                write_json(TARGET / f"{flow.name}.json", drawn)
                page.picture(TARGET / f"{flow.name}.jpg")
                print(flow.name)


if __name__ == "__main__":
    main()
