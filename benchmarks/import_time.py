"""What the pack adds to ComfyUI's start: seconds to import it and list its nodes, in a process that has ComfyUI.

Run: `COMFYUI_PATH=... python benchmarks/import_time.py [--repeats 5]`; target: under 0.5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.5
CHILD = """
import asyncio, importlib.util, json, sys, time
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, COMFYUI)
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, comfy_api.latest, comfy_extras.nodes_hunyuan  # what ComfyUI itself has imported by then

def load():
    spec = importlib.util.spec_from_file_location("vino_pack", ROOT + "/__init__.py", submodule_search_locations=[ROOT])
    module = importlib.util.module_from_spec(spec)
    sys.modules["vino_pack"] = module
    spec.loader.exec_module(module)
    async def listed():
        return await (await module.comfy_entrypoint()).get_node_list()
    return asyncio.run(listed())

started = time.perf_counter()
found = load()
print(json.dumps({"seconds": time.perf_counter() - started, "nodes": len(found)}))
"""


def once(comfyui: str) -> dict[str, float]:
    code = CHILD.replace("COMFYUI)", f"{comfyui!r})").replace("ROOT", repr(str(ROOT)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=comfyui)
    if done.returncode:
        raise SystemExit(f"the measurement failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    comfyui = os.environ.get("COMFYUI_PATH") or str(ROOT / ".cache" / "comfyui")
    runs = [once(comfyui) for _ in range(arguments.repeats)]
    best, worst = (pick(run["seconds"] for run in runs) for pick in (min, max))
    print(f"import of {runs[0]['nodes']} nodes: best {best:.3f} s, worst {worst:.3f} s, target under {TARGET} s")


if __name__ == "__main__":
    main()
