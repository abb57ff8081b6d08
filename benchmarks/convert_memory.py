"""Peak memory of `vino convert`, there and back, on checkpoints with every published name, shape and byte count.

    python benchmarks/convert_memory.py FOLDER [--system vogue]

Inputs are sparse files that take almost no space; outputs are real, one at a time (VINO 26 and 26 GB, VOGUE 42 and
42), and removed at once. A step that was finished is not repeated: its figures are in FOLDER/convert_memory.json, so
the command can be stopped and given again. Needs Linux, for /proc. Prints the peaks of the converting process: RssAnon
is what it allocates, RssFile the pages of mapped files that the system may take back at any time, VmHWM their greatest
sum.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.convert import plan_conversion  # noqa: E402
from vino_core.checkpoints.header import read_header  # noqa: E402
from vino_core.checkpoints.manifest import official_manifest  # noqa: E402
from vino_core.checkpoints.writing import header  # noqa: E402
from vino_core.systems import get_system  # noqa: E402
from vino_core.systems.base import System  # noqa: E402

FIELDS = ("RssAnon", "RssFile", "VmHWM")
SPARE = 4e9
"""Bytes of the disk that are left alone."""


def sparse_official(folder: Path, system: System) -> list[Path]:
    """The system's published files in bf16, zeros that the file system stores as holes."""
    paths = []
    for file in system.published.files:
        shapes = {n: shape for n, shape in official_manifest(system.name).items() if n.startswith(file.holds)}
        with FakeTensorMode():
            state = {
                file.writes + name.removeprefix(file.holds): torch.empty(shape, dtype=torch.bfloat16)
                for name, shape in shapes.items()
            }
        paths.append(folder / file.name)
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(state, paths[-1])
    return paths


def sparse_converted(official: Sequence[Path], folder: Path) -> dict[str, Path]:
    """What `vino convert` makes of them, by kind, as holes too."""
    made = {}
    for plan in plan_conversion(official, folder):
        start, _ = header(plan)
        folder.mkdir(exist_ok=True)
        with plan.path.open("wb") as file:
            file.write(start)
            file.truncate(len(start) + plan.size)
        read_header(plan.path)
        made[plan.metadata["kind"]] = plan.path
    return made


def memory(pid: int) -> dict[str, int]:
    """The process's figures in bytes, empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {field: int(values[field].split()[0]) * 1024 for field in FIELDS if field in values}


def watch(command: list[str]) -> tuple[int, dict[str, int], float]:
    """Run `command`; its exit status, the peak of each figure, and its seconds."""
    peaks = dict.fromkeys(FIELDS, 0)
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while process.poll() is None:
            for field, value in memory(process.pid).items():
                peaks[field] = max(peaks[field], value)
            time.sleep(0.02)
    finally:
        process.terminate()
    return process.returncode, peaks, time.perf_counter() - start


def measured(folder: Path, inputs: Sequence[Path], needed: int, command: Sequence[object]) -> dict[str, Any]:
    """The figures of one run of `vino convert`, whose output of about `needed` bytes is removed; its path ends
    `command`."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        sys.exit(f"{folder}: {needed / 1e9:.0f} GB of output and {SPARE / 1e9:.0f} GB to spare, {free / 1e9:.0f} free.")
    out = Path(str(command[-1]))
    status, peaks, seconds = watch([sys.executable, "-m", "vino_core.cli", "convert", *map(str, command)])
    files = [out] if out.is_file() else sorted(out.glob("*")) if out.exists() else []
    written = sum(path.stat().st_size for path in files)
    for path in files:
        path.unlink()
    read = sum(path.stat().st_size for path in inputs)
    return {"status": status, "input": read, "output": written, "seconds": round(seconds), "peaks": peaks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where inputs and outputs may lie for the time being")
    parser.add_argument("--system", choices=("vino", "vogue"), default="vino")
    options = parser.parse_args()
    folder, system = options.folder, get_system(options.system)
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "convert_memory.json"
    figures: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        official = sparse_official(work, system)
        made = sparse_converted(official, work / "converted")
        needed = sum(path.stat().st_size for path in made.values())
        back = ["--back", made["model"], made["tokens"]]
        back += ["--vlm", made["text encoder"]] if "text encoder" in made else []
        out = "back.ckpt" if len(official) == 1 else "back"
        steps = {
            f"{system.name} there": (official, [*official, "--out", work / "out"]),
            f"{system.name} back": (list(made.values()), [*back, "--out", work / out]),
        }
        _, idle, _ = watch([sys.executable, "-c", "import torch, vino_core.cli, vino_core.commands.convert"])
        for name, (inputs, command) in steps.items():
            if figures.get(name, {}).get("status") != 0:
                figures[name] = {**measured(work, inputs, needed, command), "idle": idle}
                record.write_text(json.dumps(figures, indent=1))
            found = figures[name]
            print(f"{name}: {found['input'] / 1e9:.2f} GB to {found['output'] / 1e9:.2f} GB in {found['seconds']} s")
            for field in FIELDS:
                peak, without = found["peaks"][field] / 1e9, found["idle"][field] / 1e9
                print(f"  {field:8}{peak:6.2f} GB peak, {without:.2f} GB with the imports alone")
    return max(found["status"] for found in figures.values())


if __name__ == "__main__":
    sys.exit(main())
