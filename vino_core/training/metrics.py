"""What a run writes while it goes on: losses.jsonl, validation.jsonl, TensorBoard, a progress bar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.writing import reported
from ..errors import InputError
from ..media.output import write_text
from .config import Watch

RECORD, VALIDATION = "losses.jsonl", "validation.jsonl"


class Metrics:
    """Writes for the first process only (`folder` None writes nothing). `step` is the last one already done.

    Raises InputError where something cannot be written: a full disk ends a run as one does that hits a checkpoint.
    """

    def __init__(self, folder: Path | None, watch: Watch, steps: int, step: int) -> None:
        self.watch, self.folder = watch, folder
        self._board = self._bar = None
        if folder is None:
            return
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (RECORD, VALIDATION):
                _forget_after(folder / name, step)
            if watch.tensorboard:
                self._board = _writer(folder / "tensorboard", step + 1)
        if watch.progress:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=step, unit="step", desc="training", dynamic_ncols=True)

    def step(self, step: int, record: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """One finished step: `record` goes to the file, `scalars` to TensorBoard every `watch.log` steps."""
        self._append(RECORD, {"step": step, **record})
        if step % self.watch.log == 0:
            for name, value in scalars.items():
                self._scalar(name, value, step)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{record['loss']:.4f}", task=record["task"], refresh=False)
            self._bar.update(step - self._bar.n)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Losses on held-out examples, by task."""
        self._append(VALIDATION, *({"step": step, "task": task, "loss": loss} for task, loss in losses.items()))
        for task, loss in losses.items():
            self._scalar(f"validation/{task}", loss, step)

    def validated(self, step: int) -> bool:
        """Whether this step's losses on held-out examples are written, as the first process sees it."""
        return self.folder is not None and any(row["step"] == step for row in read_record(self.folder, VALIDATION))

    def frames(self, name: str, frames: Tensor, step: int) -> None:
        """A preview, uint8 [T, H, W, 3]: its frames side by side."""
        if self._board is not None:
            with reported(self.folder / "tensorboard"):
                self._board.add_image(name, frames.permute(1, 0, 2, 3).flatten(1, 2), step, dataformats="HWC")

    def close(self) -> None:
        """Finish all files."""
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            with reported(self.folder / "tensorboard"):
                self._board.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            with reported(self.folder / "tensorboard"):
                self._board.add_scalar(name, value, step)

    def _append(self, name: str, *rows: Mapping[str, Any]) -> None:
        if self.folder is not None:
            with reported(self.folder / name), (self.folder / name).open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_record(folder: Path, name: str = RECORD) -> list[dict[str, Any]]:
    """The rows of a run's losses.jsonl or validation.jsonl; a last line that a kill cut short is left out."""
    rows = []
    path = folder / name
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _forget_after(path: Path, step: int) -> None:
    """Drop what was written after the checkpoint that a run goes on from: it is about to happen again."""
    if not path.exists():
        return
    rows = [row for row in read_record(path.parent, path.name) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _writer(folder: Path, purge: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"watch.tensorboard is on, but tensorboard does not load ({error}). Install it "
            "(pip install 'tensorboard>=2.16') or set watch.tensorboard to false."
        ) from error
    return SummaryWriter(str(folder), purge_step=purge)
