"""DeepSpeed's ZeRO-2, an optional extra: two processes on the CPU, where it is installed and can be compiled."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import bootstrap
import pytest
import torch
from beside_the_tests import Worker
from training_runs import LIMIT, assert_alike, exact
from training_worker import DEEPSPEED

from vino_core.errors import InputError
from vino_core.training.config import Optimizer
from vino_core.training.metrics import read_record
from vino_core.training.zero import spread_by_deepspeed

MISSING = os.environ.get("VINO_SKIP_DEEPSPEED") or (
    None if importlib.util.find_spec("deepspeed") else "DeepSpeed is not installed"
)
WORKS = () if MISSING else ("ddp", "ddp_uneven", "ddp_accumulated", *DEEPSPEED)
"""What the session's worker runs for these tests."""
installed = pytest.mark.skipif(MISSING is not None, reason=f"DeepSpeed tests: {MISSING}")


@pytest.fixture(scope="module")
def folder(worker: Worker) -> Path:
    """What DDP does, which test_training_processes.py compares with one process, and DeepSpeed's scenarios."""
    folder = worker.results()
    for name in DEEPSPEED:
        assert json.loads((folder / f"{name}.json").read_text())["codes"] == [0, 0], (folder / "log.txt").read_text()
    return folder


@installed
@pytest.mark.parametrize("data", ["", "_uneven"])
def test_the_losses_are_those_of_ddp(folder: Path, data: str) -> None:
    ours, theirs = read_record(folder / f"deepspeed{data}"), read_record(folder / f"ddp{data}")
    assert len(ours) == 10
    assert_alike(ours, theirs)


@installed
def test_so_are_those_of_accumulated_steps_which_resume_bit_for_bit(folder: Path) -> None:
    runs = (("deepspeed_accumulated", "whole"), ("deepspeed_accumulated", "part"), ("ddp_accumulated", "whole"))
    whole, part, theirs = (read_record(folder / scenario / name) for scenario, name in runs)
    assert len(whole) == 5 and exact(part) == exact(whole)
    assert_alike(whole, theirs)


@installed
def test_so_is_the_result(folder: Path) -> None:
    from safetensors.torch import load_file

    reference = load_file(folder / "ddp" / "export" / "model.safetensors")
    for name, tensor in load_file(folder / "deepspeed" / "export" / "model.safetensors").items():
        assert (tensor - reference[name]).abs().max() < LIMIT, name


@installed
@pytest.mark.parametrize("scenario", ["deepspeed_resumed", "deepspeed_watched"])
def test_resume_previews_and_validation_leave_no_trace(folder: Path, scenario: str) -> None:
    assert exact(read_record(folder / scenario)) == exact(read_record(folder / "deepspeed"))


@installed
def test_its_last_checkpoint_is_exported_as_the_end_was(folder: Path) -> None:
    for name in ("model.safetensors", "tokens.safetensors"):
        ours, theirs = ((folder / of / "export" / name).read_bytes() for of in ("deepspeed_exported", "deepspeed"))
        assert ours == theirs


@installed
def test_each_process_keeps_its_share_of_the_optimizer(folder: Path) -> None:
    from safetensors import safe_open

    sizes = []
    for rank in range(2):
        with safe_open(folder / f"deepspeed/checkpoints/step_00000010/rank_{rank:05d}.safetensors", "pt") as file:
            moments = [file.get_slice(name).get_shape() for name in file.keys() if name.startswith("exp_avg/")]
            weights = sum(name.startswith("weight/") for name in file.keys())
        assert bool(weights) == (rank == 0) and all(len(shape) == 1 for shape in moments)
        sizes.append(sum(shape[0] for shape in moments))
    assert sizes[0] == sizes[1] > 0


def test_without_it_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    team = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(InputError, match=r"parallel\.mode is deepspeed.*vino\[deepspeed\].*or choose zero2"):
        spread_by_deepspeed(torch.nn.Linear(1, 1), None, Optimizer(1e-3), team)


def test_where_nothing_can_be_compiled_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "VENV_PYTHON", sys.executable)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert bootstrap.prepare_deepspeed().endswith("there is no C++ compiler on PATH (no-such-compiler)")
    monkeypatch.setenv("CXX", "false")
    assert "and false cannot" in bootstrap.prepare_deepspeed()
