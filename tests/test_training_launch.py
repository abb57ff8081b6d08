"""`vino train` under the launchers, as the docs give the commands: two processes that share one run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_files import write_tiny_files

from vino_core.training.metrics import read_record

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = {
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0",
    "torchrun": "torch.distributed.run --standalone --nproc_per_node 2",
}


THREADS = """
import gc, pathlib, sys
import vino_core.training.team
import torch.distributed as dist
from torch import nn, ones
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
nn.parallel.DistributedDataParallel(nn.Linear(2, 2))(ones(1, 2)).sum().backward()
dist.destroy_process_group()
gc.collect()
print([name for path in pathlib.Path("/proc/self/task").glob("*/comm") if "gloo" in (name := path.read_text())])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux only")
def test_nothing_keeps_the_threads_of_a_group_that_is_left(tmp_path: Path) -> None:
    """One that frees a tensor while the interpreter shuts down aborts the process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", THREADS, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.stdout == "[]\n", done.stderr[-2000:]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_share_a_run(tmp_path: Path, launcher: str) -> None:
    files = write_tiny_files(tmp_path)
    values = {
        "stage": 3,
        "any_order": True,
        "out": str(tmp_path / "out"),
        "steps": 2,
        "train": ["connectors", "tokens", "mmdit"],
        "files": {
            name: str(files[f"--{name.replace('_', '-')}"]) for name in ("text_encoder", "vae", "model", "tokens")
        },
        "optimizer": {"learning_rate": 1e-3},
        "flow": {"shift": 3},
        "data": {"area": 4096, "tasks": {"t2i": {"weight": 1, "source": "toy"}}},
        "parallel": {"dtype": "float32"},
        "watch": {"progress": False, "peak_tflops": 1.0, "tensorboard": False},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", "vino_core.cli", "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es), cpu" in done.stdout and done.stdout.count("begin, 2 steps") == 1
    assert len(read_record(tmp_path / "out")) == 2
