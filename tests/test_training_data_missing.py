"""Packages of the extra [training] that are not there: the message says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vino_core.cli import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("module", "command", "advice"),
    [
        ("webdataset", "data toy toy --task t2i --count 1", "pip install 'webdataset>=0.2.100'"),
        ("yaml", f"data check {ROOT}/configs/vino_stage1.yaml", "pip install 'pyyaml>=6.0'"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    module: str,
    command: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(command.split()) == 1
    told = capsys.readouterr().err
    assert advice in told and advice.split("'")[1] in (ROOT / "pyproject.toml").read_text()
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_to_install() -> None:
    assert "pip install -e '.[torch,headless,training]'" in (ROOT / "docs" / "training.md").read_text()
