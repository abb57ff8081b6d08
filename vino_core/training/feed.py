"""The examples of a step: by number, so that what a run reads depends on seed and step and not on who reads it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..checkpoints.writing import reported
from ..errors import InputError
from . import draws
from .example import TASKS, Example, ExampleSource
from .prepare import Prepared
from .sources import place

log = logging.getLogger(__name__)
_TRIES = 50
"""Examples in a row that may be unusable before the data counts as broken."""

Prepare = Callable[[Example, int, int], Prepared]
"""(example, step, number of the sample in the step's whole batch) -> the sample."""


class Noted(dict[tuple[str, int], str]):
    """Why examples (task, index) were not used as they are; each is also written to `file`, a line each.

    What the file has already, of a run that goes on, is known. Raises InputError where it cannot be written.
    """

    def __init__(self, what: str, file: Path | None) -> None:
        super().__init__()
        self.what, self.file = what, file
        if file is not None and file.is_file():
            self._read(file)

    def _read(self, file: Path) -> None:
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # a kill cut the last line short: the next one must not be glued to it
            with reported(file):
                os.truncate(file, len(whole))
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # two rows in one, from before what was cut short was removed
            self[row["task"], row["index"]] = row["reason"]

    def add(self, task: str, index: int, reason: str) -> None:
        """Note example number `index` unless it is known."""
        if (task, index) in self:
            return
        self[task, index] = reason
        log.warning("%s: %s, example %d: %s", self.what, task, index, reason)
        if self.file is not None:
            with reported(self.file), self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"task": task, "index": index, "reason": reason}) + "\n")


class Feed:
    """Samples for any step. `positions` counts, per task, the examples that all processes have taken together.

    A finite source is walked through in a new order each epoch. An example that cannot be used is replaced by another,
    and written with its reason to `skipped_file`; one whose references had to be made smaller, to `adapted_file`.
    """

    def __init__(
        self,
        sources: Mapping[str, ExampleSource],
        prepare: Prepare,
        seed: int,
        workers: int = 0,
        skipped_file: Path | None = None,
        adapted_file: Path | None = None,
    ) -> None:
        self.sources, self.prepare, self.seed = sources, prepare, seed
        self.positions: dict[str, int] = dict.fromkeys(sources, 0)
        self.skipped = Noted("skipped", skipped_file)
        self.adapted = Noted("adapted", adapted_file)
        self._pool = ThreadPoolExecutor(workers, "examples") if workers else None
        self._ahead: dict[tuple[str, int, int, int], Future[Prepared]] = {}
        for name, source in sources.items():
            if source.count == 0:
                raise InputError(f"data.tasks.{name}: there are no examples. Check its path with `vino data check`.")

    def take(self, task: str, step: int, numbers: Sequence[int]) -> list[Prepared]:
        """The samples with these numbers of step `step`'s whole batch. Raises InputError when the data is broken."""
        keys = [(task, self.positions[task], step, number) for number in numbers]
        return [self._ahead.pop(key).result() if key in self._ahead else self._sample(*key) for key in keys]

    def advance(self, task: str, count: int) -> None:
        """Note that a step took `count` examples, over all processes."""
        self.positions[task] += count

    def read_ahead(self, task: str, step: int, numbers: Sequence[int]) -> None:
        """Start preparing what `take` will be asked for next."""
        if self._pool is not None:
            keys = [(task, self.positions[task], step, number) for number in numbers]
            self._ahead.update({key: self._pool.submit(self._sample, *key) for key in keys if key not in self._ahead})

    def named(self, task: str, index: int, name: str) -> str:
        """What messages call example number `index`, known as `name`: its number, and where it lies if it is stored."""
        return f"example {index} ({place(self.sources[task], index) or name})"

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, task: str, position: int, step: int, number: int) -> Prepared:
        place = position + number
        reason = ""
        for attempt in range(_TRIES):
            index = self._index(task, place, attempt)
            try:
                sample = self.prepare(self.sources[task].example(index), step, number)
            except InputError as error:
                reason = str(error)
                self.skipped.add(task, index, reason)
            except Exception as error:
                raise RuntimeError(f"data.tasks.{task}, example {index}: {type(error).__name__}: {error}") from error
            else:
                if sample.adapted:
                    self.adapted.add(task, index, sample.adapted)
                return replace(sample, index=index)
        raise InputError(f"data.tasks.{task}: {_TRIES} examples in a row cannot be used, the last because: {reason}")

    def _index(self, task: str, place: int, attempt: int) -> int:
        length = self.sources[task].count
        if attempt:
            return int(draws.numbers(self.seed, "spare", task, place, attempt).integers(length or 2**40))
        return place if length is None else int(_order(self.seed, task, place // length, length)[place % length])


@lru_cache(maxsize=2 * len(TASKS))  # of each task the epoch that ends and the one that is read ahead
def _order(seed: int, task: str, epoch: int, length: int) -> np.ndarray:
    return draws.numbers(seed, "order", task, epoch).permutation(length)
