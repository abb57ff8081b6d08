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
