"""What a study is made of. The studies themselves are data: one file for each system, gathered in `courses`.

Every variant takes the shipped configs of its system with a few changes. A variant that several studies need is trained
once, and one that differs from another only late goes on from that one's stages. Training is short, so the learning
rate falls to zero over the last third of every stage and no average of the weights is kept (0.998 would still hold the
start after some hundred steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vino_core.systems.base import System

from .measures import LAST, held_out_loss, scored

HELD_OUT = 64
"""Examples of each task that the loss after training is a mean of; the same ones, with the same noise, for all."""
SEEDS = (0, 1, 2)
"""Of the weights that start at random, of the order of the data, of the noise, in training and in sampling."""

_SHORT = ("ema=null", "watch.preview=0", "watch.tensorboard=false", "watch.progress=false",
          "watch.peak_tflops=1.0", "save.every=100", "save.keep=1")  # fmt: skip


def batches(of: Mapping[str, int]) -> tuple[str, ...]:
    """Changes that give these tasks these batches."""
    return tuple(f"data.tasks.{task}.batch={batch}" for task, batch in of.items())


def weights(of: Mapping[str, float]) -> tuple[str, ...]:
    """Changes that give these tasks these shares of the steps."""
    return tuple(f"data.tasks.{task}.weight={weight}" for task, weight in of.items())


@dataclass(frozen=True)
class Stage:
    """One of the shipped configs with `changes` (as --set). It lasts as long as the stages `lasts`; None: its own."""

    number: int
    changes: tuple[str, ...] = ()
    lasts: tuple[int, ...] | None = None

    def steps(self, each: tuple[int, int, int]) -> int:
        """Its steps where stages 1, 2 and 3 have so many."""
        return sum(each[number - 1] for number in self.lasts or (self.number,))

    def settings(self, each: tuple[int, int, int]) -> tuple[str, ...]:
        """All changes of the shipped config but the files it starts from."""
        steps = self.steps(each)
        rate = f"steps={steps}", f"optimizer.warmup={min(50, steps // 4)}", f"optimizer.decay={steps // 3}"
        validate = f"watch.validate={steps if self.number == LAST else 0}", f"watch.validation_examples={HELD_OUT}"
        return (*_SHORT, *rate, *validate, *self.changes)


@dataclass(frozen=True)
class Exam:
    """The first `count` held-out examples of a task; the result is kept under `name`."""

    name: str
    task: str
    count: int
    captions: str = "both"


@dataclass(frozen=True)
class Variant:
    """A way to train, and what is tested afterwards (names of exams).

    It goes on from the variant `after`, whose stages before its own first one it shares; None: from the base. `system`:
    what it runs as, where that is not its course's.
    """

    name: str
    title: str
    stages: tuple[Stage, ...]
    exams: tuple[str, ...]
    after: str | None = None
    system: System | None = None


@dataclass(frozen=True)
class Measure:
    """A number of one trained variant: `of` takes the folder of a variant and seed. `scale` 100 shows rates in percent.

    `digits` behind the point; `higher` says which direction is better, None where neither is. `exam`: the exam that it
    is read from; variants that do not take it have no such number.
    """

    title: str
    of: Callable[[Path], float | None]
    scale: float = 1.0
    digits: int = 3
    higher: bool | None = True
    exam: str | None = None


def share(title: str, exam: str, value: str, kinds: tuple[str, ...] = (), higher: bool = True) -> Measure:
    """A rate of an exam in percent, over all its examples or those of some kinds."""
    return Measure(f"{title}, %", scored(exam, value, kinds), 100, 1, higher, exam)


def held_out(title: str, *tasks: str) -> Measure:
    """The loss on held-out examples after training, the mean over tasks."""
    return Measure(f"{title}, held-out loss", held_out_loss(tasks), 1, 4, False)


def graded(title: str, exam: str, value: str, digits: int = 2, kinds: tuple[str, ...] = ()) -> Measure:
    """A quantity of an exam that is no rate: its mean over examples."""
    return Measure(title, scored(exam, value, kinds), 1, digits, True, exam)


def first_frame(exam: str) -> Measure:
    """How near the first frame of a clip comes to the picture that it starts from."""
    return graded("first frame, dB", exam, "first_frame")


@dataclass(frozen=True)
class Study:
    """Variants that are compared, in the order of the table; the first one is the reference."""

    name: str
    title: str
    about: str
    variants: tuple[str, ...]
    measures: tuple[Measure, ...]
    curves: bool = True
    """Whether the losses of stage 3 are drawn."""
    reading: str = ""
    """What the runs that were made say, in words; to be written anew when they are."""


@dataclass(frozen=True)
class Sweep:
    """A trained model asked for the same clips with several scales of image guidance."""

    name: str
    title: str
    scales: tuple[float, ...]
    exam: Exam
    text_scale: float = 2.0
    reading: str = ""
    """As a study's."""


@dataclass(frozen=True)
class Course:
    """The studies of one system.

    `config`: name of its shipped configs, with {} for the stage; `base`: what its variants start from; `steps` of
    stages 1, 2 and 3; `changes` apply to all variants, before their own.
    """

    system: System
    about: str
    config: str
    base: Path
    steps: tuple[int, int, int]
    exams: tuple[Exam, ...]
    variants: tuple[Variant, ...]
    studies: tuple[Study, ...]
    changes: tuple[str, ...] = ()
    sweep: Sweep | None = None

    def variant(self, name: str) -> Variant:
        return {variant.name: variant for variant in self.variants}[name]

    def exam(self, name: str) -> Exam:
        return {exam.name: exam for exam in self.exams}[name]

    def study(self, name: str) -> Study | None:
        """The study of that name; None where it is another course's, or a sweep."""
        return {study.name: study for study in self.studies}.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all studies, the sweep's last."""
        return (*(study.name for study in self.studies), *((self.sweep.name,) if self.sweep else ()))
