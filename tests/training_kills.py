"""A run that dies by SIGKILL before each change that it makes to its folder, one after the other, and goes on."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_runs import config, train

CHANGES = ("mkdir", "rename", "replace", "rmdir", "unlink")
"""Functions of `os` that change a folder; pathlib, shutil and tempfile call them."""


def killed_before_every_change(out: Path) -> None:
    """Writes kills.json: of each kill the change that was about to come, and the losses of the run that went on."""
    _in_a_child(lambda: _train(out / "whole"))
    kills: list[dict[str, Any]] = []
    while True:
        place = out / f"kill_{len(kills) + 1}"
        place.mkdir()
        note = place / "about_to.txt"
        code = _in_a_child(lambda place=place, note=note: (_die_before(len(kills) + 1, note), _train(place / "run")))
        if code == 0:  # it had no more changes to make
            break
        again = _in_a_child(lambda place=place: _train(place / "run"))
        kills.append({"code": code, "again": again, "before": note.read_text(), "losses": _losses(place / "run")})
    (out / "kills.json").write_text(json.dumps({"whole": _losses(out / "whole"), "kills": kills}))


def _train(out: Path) -> None:
    train(config(out, steps=2, ema=0.9, save={"every": 1, "keep": 1}))


def _losses(out: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    return [[row["step"], row["loss"], row["norm"]] for row in rows]


def _in_a_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_before(number: int, note: Path) -> None:
    """Kill this process before change number `number`, the first being 1, and note which one that was."""
    left = number
    write = open

    def counted(usual: Callable[..., Any], name: str) -> Callable[..., Any]:
        def change(*given: Any, **more: Any) -> Any:
            nonlocal left
            reads = name == "open" and not set("wax+") & set(str(more.get("mode", given[1] if len(given) > 1 else "r")))
            if not reads:
                left -= 1
                if left == 0:
                    with write(note, "w") as file:
                        file.write(f"{name} {given[0]}")
                    os.kill(os.getpid(), signal.SIGKILL)
            return usual(*given, **more)

        return change

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name), name))
    builtins.open = io.open = counted(open, "open")
