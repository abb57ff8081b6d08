"""What a run writes while it goes on: losses.jsonl, TensorBoard, a progress bar."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from .config import Watch

RECORD = "losses.jsonl"


class Metrics:
    """Writes for the first process only (`folder` None writes nothing). `step` is the last one already done."""

    def __init__(self, folder: Path | None, watch: Watch, steps: int, step: int) -> None:
        self.watch = watch
        self._file = self._board = self._bar = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _forget_after(folder / RECORD, step)
        self._file = (folder / RECORD).open("a", encoding="utf-8")
        if watch.tensorboard:
            self._board = _writer(folder / "tensorboard", step + 1)
        if watch.progress:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=step, unit="step", desc="training", dynamic_ncols=True)

    def step(self, step: int, record: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """One finished step: `record` goes to the file, `scalars` to TensorBoard every `watch.log` steps."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **record}) + "\n")
            self._file.flush()
        if self._board is not None and step % self.watch.log == 0:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{record['loss']:.4f}", task=record["task"], refresh=False)
            self._bar.update(step - self._bar.n)

    def scalar(self, name: str, value: float, step: int) -> None:
        """One number, such as a validation loss."""
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def frames(self, name: str, frames: Tensor, step: int) -> None:
        """A preview, uint8 [T, H, W, 3]: its frames side by side."""
        if self._board is not None:
            self._board.add_image(name, frames.permute(1, 0, 2, 3).flatten(1, 2), step, dataformats="HWC")

    def close(self) -> None:
        """Finish all files."""
        for part in (self._file, self._board, self._bar):
            if part is not None:
                part.close()


def read_record(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's losses.jsonl; a last line that a kill cut short is left out."""
    rows = []
    path = folder / RECORD
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _forget_after(path: Path, step: int) -> None:
    """Drop what was written after the checkpoint that a run goes on from: it is about to happen again."""
    rows = [row for row in read_record(path.parent) if row["step"] <= step]
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(aside, path)


def _writer(folder: Path, purge: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"watch.tensorboard is on, but tensorboard does not load ({error}). Install it "
            "(pip install 'tensorboard>=2.16') or set watch.tensorboard to false."
        ) from error
    return SummaryWriter(str(folder), purge_step=purge)
