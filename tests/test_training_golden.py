"""The first 20 losses of each stage, recorded: a change that should not change the numbers must reproduce them.

    OMP_NUM_THREADS=1 python tests/test_training_golden.py

records them again, after a change that is meant to change them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tests", ROOT / "tools"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from training_runs import config, one_thread, tasks, train  # noqa: E402, F401

RECORDED = ROOT / "tests" / "goldens" / "training" / "losses.json"
STEPS = 20
LIMIT = 1e-3
"""Machines and thread counts differ in the last digits; on one machine the losses are the same to the bit."""
STAGES = {
    "0": (["mmdit", "plain_text"], tasks("t2i", "t2v")),
    "1": (["connectors", "tokens"], tasks("t2i", "t2v", "reconstruct_image")),
    "2": (["connectors", "tokens", "mmdit"], tasks("t2i", "t2v", "select_image")),
    "3": (["connectors", "tokens", "mmdit"], tasks("t2i", "ti2i", "ti2v", "tv2v", "tiv2v")),
}


def losses(stage: str, out: Path) -> list[list]:
    trained, mixture = STAGES[stage]
    tokens = None if stage == "0" else 4
    run = config(
        out, stage=int(stage), train=trained, tokens=tokens, steps=STEPS, data={"tasks": mixture, "batch": 2},
        save={"every": STEPS},
    )  # fmt: skip
    return [[row["task"], row["loss"]] for row in train(run)]


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_the_recorded_ones(stage: str, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())[stage]
    found = losses(stage, tmp_path / "once")
    assert [task for task, _ in found] == [task for task, _ in recorded]
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, recorded, strict=True)) < LIMIT
    if stage == "3":
        assert found == losses(stage, tmp_path / "twice")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recorded = {stage: losses(stage, Path(folder) / stage) for stage in STAGES}
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f' "{stage}": {json.dumps(values)}' for stage, values in recorded.items())
    RECORDED.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
