"""The command line: statuses, messages, and no slow import before it is needed."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module

import pytest
from paths import ROOT

from vino_core import __version__
from vino_core.cli import COMMANDS, main
from vino_core.commands import doctor
from vino_core.errors import InputError


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"vino {__version__}"


@pytest.mark.parametrize("arguments", [[], ["paint"], ["doctor", "--paint"], ["convert", "vino.ckpt"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: vino" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture) -> None:
    assert callable(import_module(f"vino_core.commands.{command}").run)
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"vino {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [(InputError("width: 7. Use 16."), 1, "vino doctor: width: 7. Use 16."), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_mistakes_end_without_a_traceback(
    raised: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(_: object) -> int:
        raise raised

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("raised", [None, InputError("x"), RuntimeError("a defect")])
def test_signals_are_left_as_they_were(raised: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    during = []

    def work(_: object) -> int:
        during.append(signal.getsignal(signal.SIGTERM))
        if raised is not None:
            raise raised
        return 0

    monkeypatch.setattr(doctor, "run", work)
    before = signal.getsignal(signal.SIGTERM)
    with suppress(RuntimeError):
        main(["doctor"])
    assert signal.getsignal(signal.SIGTERM) is before is not during[0]


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["doctor"])


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys; from vino_core.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'transformers', 'diffusers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
