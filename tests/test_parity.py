"""The project's own copy of the reference numbers, through the same check that anybody can run on other folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from parity import groups_of, main, rows

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens"
REFERENCE = GOLDENS / "vino"


@pytest.mark.parametrize(
    ("system", "group"), [(system, group) for system in ("vino", "vogue") for group in groups_of(GOLDENS / system)]
)
def test_group_agrees_with_reference(system: str, group: str) -> None:
    checked = [row for _, row in rows(GOLDENS / system, (group,))]
    assert checked, "no quantity was compared"
    assert [row for row in checked if not row.ok] == []


def test_command_line_fails_on_a_wrong_number(tmp_path: Path) -> None:
    scheduler = (REFERENCE / "scheduler.json").read_text()
    (tmp_path / "scheduler.json").write_text(scheduler.replace("0.9959349632263184", "0.9959350228309631"))
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "parity.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "scheduler/50 steps, shift 5.0 timesteps" in done.stdout and "FAILED" in done.stdout


def test_command_line_fails_on_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["parity.py", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="none of the index files"):
        main()
