"""Training with several processes, which goes on while the session runs other tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SCRIPT = Path(__file__).with_name("training_worker.py")


def _beside_the_tests() -> None:
    """In the new process: a group of its own, so that all of it can be ended, and behind the tests that go on."""
    os.setpgid(0, 0)
    os.nice(5)


class Worker:
    """Scenarios of training_worker.py, running in a process of their own, which writes what they say to log.txt."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder, self._log = folder, folder / "log.txt"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), *names], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=_beside_the_tests,
            )  # fmt: skip

    def results(self, timeout: float = 1800) -> Path:
        """The folder, when all have ended. Raises AssertionError when the process itself fails."""
        code = self._process.wait(timeout)
        assert code == 0, self._log.read_text()[-3000:]
        return self._folder

    def stop(self) -> None:
        """End it with everything that it started, if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
