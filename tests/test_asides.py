"""What a killed process leaves half written goes with the next write, and nobody else's file does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paths import ROOT

from vino_core.asides import held_asides
from vino_core.checkpoints.header import TensorInfo
from vino_core.checkpoints.writing import Plan, write_safetensors
from vino_core.media.output import check_folder, write_text
from vino_core.toyworld.tasks import ToySource
from vino_core.training.data.shard_writing import write_shards

_WRITE = """
import os, sys
from pathlib import Path
from vino_core.asides import held_asides
target = Path(sys.argv[1])
with held_asides([target]) as (aside,):
    aside.write_text("half")
    print(aside.name, flush=True)
    sys.stdin.readline()
    aside.write_text("a whole file")
    os.replace(aside, target)
"""


def writing(target: Path) -> tuple[subprocess.Popen, Path]:
    """A process in the middle of writing `target`, which ends when it reads a line, and its half of a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(target)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, target.parent / process.stdout.readline().strip()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def save(path: Path) -> None:
    tensor = torch.zeros(3)
    write_safetensors([Plan(path, {"a": TensorInfo(tensor.dtype, (3,))}, lambda name: [tensor], {})], overwrite=True)


NEXT = {
    "the same text": lambda folder: write_text(folder / "target", "x"),
    "another text": lambda folder: write_text(folder / "other", "x"),
    "weights": lambda folder: save(folder / "other"),
    "shards": lambda folder: write_shards(folder, ToySource("t2i"), 1),
    "an encoding that begins": check_folder,
}


@pytest.mark.parametrize("name", NEXT)
def test_what_a_kill_left_goes_with_the_next_write(tmp_path: Path, name: str) -> None:
    process, aside = writing(tmp_path / "target")
    kill(process)
    assert aside.read_text() == "half"
    NEXT[name](tmp_path)
    assert not aside.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("write", [lambda path: write_text(path, "ours"), save])
def test_a_process_that_writes_is_left_alone(tmp_path: Path, write: Callable[[Path], None]) -> None:
    process, aside = writing(tmp_path / "target")
    try:
        write(tmp_path / "other")
        write(tmp_path / "target")
        check_folder(tmp_path)
        assert aside.read_text() == "half"
        process.communicate("go on\n", timeout=60)
        assert process.returncode == 0
    finally:
        kill(process)
    assert (tmp_path / "target").read_text() == "a whole file"
    assert sorted(os.listdir(tmp_path)) == ["other", "target"]


def test_two_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with held_asides([tmp_path / "a", tmp_path / "b"]) as (one, other), held_asides([tmp_path / "a"]) as (third,):
        assert len({one, other, third}) == 3 and one.exists() and other.exists()
    assert not list(tmp_path.iterdir())


def test_parts_of_other_machines_go_when_they_are_old(tmp_path: Path) -> None:
    young, old = tmp_path / f".{'0' * 16}.part", tmp_path / f".{'1' * 16}.part"
    others = [tmp_path / name for name in (".step_00000001.part", ".losses.jsonl.12.part", "0123456789abcdef.part")]
    for path in (young, old, *others):
        path.touch()
    for path in (old, *others):
        os.utime(path, (1, 1))
    check_folder(tmp_path)
    assert not old.exists() and young.exists() and all(path.exists() for path in others)
