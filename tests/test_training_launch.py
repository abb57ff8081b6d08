"""`vino train` under the launchers, as the docs give the commands: two processes that share one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from beside_the_tests import Worker
from training_launches import ENVIRONMENT, LAUNCHERS

from vino_core.training.metrics import read_record

WORKS = tuple(LAUNCHERS)
"""What the session's worker runs for these tests."""
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
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-c", THREADS, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.stdout == "[]\n", done.stderr[-2000:]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_share_a_run(worker: Worker, launcher: str) -> None:
    folder = worker.results() / launcher
    done = json.loads((folder / "launched.json").read_text())
    assert done["code"] == 0, done["error"][-3000:]
    assert "2 processes, cpu" in done["out"] and done["out"].count("begin, 2 steps") == 1
    assert len(read_record(folder / "out")) == 2
