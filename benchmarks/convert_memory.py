"""Peak memory of `vino convert` on a checkpoint with every published name, shape and byte count.

    python benchmarks/convert_memory.py FOLDER

FOLDER needs 27 GB of free space: the input (35 GB) is a sparse file that takes almost none, the output is real. Both
are removed at the end. Needs Linux, for /proc. Prints the peaks of the converting process: RssAnon is what it
allocates, RssFile the pages of mapped files that the system may take back at any time, VmHWM their greatest sum.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.manifest import official_manifest  # noqa: E402

FIELDS = ("RssAnon", "RssFile", "VmHWM")


def write_sparse_checkpoint(path: Path) -> int:
    """Write a bf16 checkpoint of zeros that the file system stores as holes; returns the number of tensors."""
    with FakeTensorMode():
        state = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in official_manifest("vino").items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, path)
    return len(state)


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
    while process.poll() is None:
        for field, value in memory(process.pid).items():
            peaks[field] = max(peaks[field], value)
        time.sleep(0.005)
    return process.returncode, peaks, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where input and output may lie for the time being")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, out = Path(temporary) / "vino.ckpt", Path(temporary) / "out"
        count = write_sparse_checkpoint(source)
        imports = "import torch, vino_core.cli, vino_core.commands.convert"
        _, idle, _ = watch([sys.executable, "-c", imports])
        vino = [sys.executable, "-m", "vino_core.cli", "convert", str(source), "--out", str(out)]
        status, peaks, seconds = watch(vino)
        written = sum(path.stat().st_size for path in out.glob("*"))
        print(f"input   {source.stat().st_size / 1e9:6.2f} GB, {count} tensors")
        print(f"output  {written / 1e9:6.2f} GB in {seconds:.0f} s, exit status {status}")
        for field in FIELDS:
            print(f"{field:8}{peaks[field] / 1e9:6.2f} GB peak, {idle[field] / 1e9:.2f} GB with the imports alone")
    return status


if __name__ == "__main__":
    sys.exit(main())
