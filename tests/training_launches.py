"""`vino train` under the launchers, as the docs give the commands: two processes that share one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from paths import ROOT
from tiny_files import write_tiny_files

LAUNCHERS = {
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0",
    "torchrun": "torch.distributed.run --standalone --nproc_per_node 2",
}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def launch(launcher: str, folder: Path) -> None:
    """Train two steps under a launcher into `folder`/out; its exit code and what it says go to launched.json."""
    folder.mkdir()
    files = write_tiny_files(folder)
    values = {
        "stage": 3,
        "any_order": True,
        "out": str(folder / "out"),
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
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", "vino_core.cli", "train", str(path)]
    options = {"capture_output": True, "text": True, "env": {**os.environ, **ENVIRONMENT}, "cwd": ROOT}
    try:
        done = subprocess.run(command, timeout=600, **options)
        said = {"code": done.returncode, "out": done.stdout, "error": done.stderr}
    except subprocess.TimeoutExpired as error:  # a failure of this launcher, not of all that runs behind it
        said = {"code": None, "out": "", "error": str(error)}
    (folder / "launched.json").write_text(json.dumps(said))
