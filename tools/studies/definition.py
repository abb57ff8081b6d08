"""The studies as data: which variants of vino-tiny's stages are trained, and what is measured on each.

Every variant starts from the same stage 0 base and takes the shipped configs with a few changes. A variant that several
studies need is trained once. Training is short, so the learning rate falls to zero over the last third of every stage
and no average of the weights is kept (0.998 would still hold the start after some hundred steps).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vino_core.systems.base import System
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.toyworld.edits import EDITS

from .measures import final_loss, norm_variance, norm_variation, scored
from .unbounded import UNBOUNDED

STEPS = (200, 200, 600)
"""Of stages 1, 2 and 3, with the batches of the shipped configs: 64 pictures, 16 or 24 clips, 48 picture edits."""
SEEDS = (0, 1, 2)
"""Of the weights that start at random, of the order of the data, of the noise, in training and in sampling."""

_SHORT = ("ema=null", "watch.preview=0", "watch.validate=0", "watch.tensorboard=false", "watch.progress=false",
          "watch.peak_tflops=1.0", "save.every=100", "save.keep=1")  # fmt: skip
_MIXTURE = {"t2i": 0.25, "t2v": 0.05, "i2v": 0.15, "ti2v": 0.2, "ti2i": 0.25, "ti2i_baseimg": 0.1,
            "tv2v": 0, "tiv2v": 0, "tiv2v_clone": 0, "tiv2v_camclone": 0}  # fmt: skip
"""Stage 3 within so few steps: what the studies measure, and the two tasks that carry it."""
_EDIT_KINDS = tuple(EDITS)
_PAIR = ("2 subjects",)


@dataclass(frozen=True)
class Stage:
    """One of the shipped configs, `configs/tiny_stageNUMBER.yaml`, for `steps` steps and with `changes` (as --set)."""

    number: int
    steps: int
    changes: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """All changes of the shipped config but the files it starts from."""
        mixture = [f"data.tasks.{task}.weight={weight}" for task, weight in _MIXTURE.items() if self.number == 3]
        rate = (f"steps={self.steps}", f"optimizer.warmup={min(50, self.steps // 4)}",
                f"optimizer.decay={self.steps // 3}")  # fmt: skip
        return (*_SHORT, *rate, *mixture, *self.changes)


@dataclass(frozen=True)
class Exam:
    """The first `count` held-out examples of a task; the result is kept under `name`."""

    name: str
    task: str
    count: int
    captions: str = "both"


EXAMS = {
    exam.name: exam
    for exam in (
        Exam("t2i_long", "t2i", 100, "long"),
        Exam("t2i_short", "t2i", 100, "short"),
        Exam("ti2i", "ti2i", 256),
        Exam("i2v", "i2v", 64),
        Exam("ti2v", "ti2v", 96),
    )
}


@dataclass(frozen=True)
class Variant:
    """A way to train, and what is tested afterwards (names in EXAMS)."""

    name: str
    title: str
    stages: tuple[Stage, ...]
    exams: tuple[str, ...]
    system: System = VINO_TINY


def variants(steps: tuple[int, int, int] = STEPS) -> dict[str, Variant]:
    """All variants by name, with that many steps in stages 1, 2 and 3."""

    def stages(*changes: tuple[str, ...]) -> tuple[Stage, ...]:
        return tuple(map(Stage, (1, 2, 3), steps, changes or ((), (), ())))

    def captions(folder: str) -> tuple[str, ...]:
        return tuple(f"data.tasks.{task}.path={folder}/{task}" for task in ("t2i", "t2v"))

    none, shortened = ("tokens=0", "train=[connectors]"), ("tokens=0", "train=[connectors, mmdit]")
    long, short = captions("data/toy-long"), captions("data/toy-short")
    every = tuple(EXAMS)
    alone = Stage(3, sum(steps), ("any_order=true", "tokens=8"))
    found = (
        Variant("full", "as shipped", stages(), every),
        Variant("no_tokens", "no learnable tokens", stages(none, shortened, shortened), ("ti2i",)),
        Variant("no_boundaries", "no boundary tokens", stages(), ("ti2i", "i2v", "ti2v"), system=UNBOUNDED),
        Variant("long", "long captions", stages(long, long, ()), ("t2i_long", "t2i_short", "ti2i")),
        Variant("short", "short captions", stages(short, short, ()), ("t2i_long", "t2i_short", "ti2i")),
        Variant("stage3_alone", "stage 3 alone", (alone,), every),
    )
    return {variant.name: variant for variant in found}


@dataclass(frozen=True)
class Measure:
    """A number of one trained variant: `of` takes the folder of a variant and seed. `scale` 100 shows rates in percent.

    `digits` behind the point; `higher` says which direction is better, None where neither is.
    """

    title: str
    of: Callable[[Path], float | None]
    scale: float = 1.0
    digits: int = 3
    higher: bool | None = True


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


_EDITS_DONE = Measure("edits done, %", scored("ti2i", "passed", _EDIT_KINDS), 100, 1)
_LONG = Measure("long prompts followed, %", scored("t2i_long", "passed"), 100, 1)
_BRIEF = Measure("short prompts followed, %", scored("t2i_short", "passed"), 100, 1)
_LOSS = Measure("loss at the end", final_loss, 1, 4, False)
_FIRST = Measure("first frame, dB", scored("i2v", "first_frame"), 1, 2)
_OWN = Measure("own surface, clips, %", scored("ti2v", "identity", _PAIR), 100, 1)

STUDIES = {
    study.name: study
    for study in (
        Study(
            "tokens",
            "With and without learnable tokens",
            "Without them the MMDiT reads the text encoder's states of prompt and references only. The gradient norm "
            "is that of all trained weights before clipping, in stage 3 after the first tenth; its variance is taken "
            "within each task, so that the mixture does not count, and averaged over tasks.",
            ("full", "no_tokens"),
            (
                _LOSS,
                Measure("gradient-norm variance", norm_variance, 1, 4, False),
                Measure("deviation / mean of the norm", norm_variation, 1, 3, False),
                _EDITS_DONE,
            ),
        ),
        Study(
            "boundaries",
            "With and without boundary tokens",
            "Without them references stand one behind the other on the timeline, and nothing marks where one ends. "
            "First frame: PSNR between the picture an i2v clip starts from and its first frame. Confused: of results "
            "with two reference pictures, how many show on one subject the surface of the other's reference; own "
            "surface: how many show on every subject that of its own.",
            ("full", "no_boundaries"),
            (
                _FIRST,
                Measure("confused, pictures, %", scored("ti2i", "confused", _PAIR), 100, 1, False),
                Measure("confused, clips, %", scored("ti2v", "confused", _PAIR), 100, 1, False),
                Measure("own surface, pictures, %", scored("ti2i", "identity", _PAIR), 100, 1),
                _OWN,
            ),
        ),
        Study(
            "captions",
            "Long against short captions in stages 1 and 2",
            "The shipped configs train stage 1 on long captions and stage 2 on both. Stage 3 is the same for all.",
            ("full", "long", "short"),
            (_LONG, _BRIEF, _EDITS_DONE, _LOSS),
        ),
        Study(
            "stages",
            "Stages 1 to 3 against stage 3 alone",
            "The same number of steps in all, from the same base.",
            ("full", "stage3_alone"),
            (_LONG, _BRIEF, _EDITS_DONE, _FIRST, _OWN, _LOSS),
            curves=False,
        ),
    )
}


@dataclass(frozen=True)
class Sweep:
    """A trained model asked for the same clips with several scales of image guidance."""

    name: str = "image_scale"
    title: str = "Scale of image guidance"
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    exam: Exam = Exam("ti2v", "ti2v", 48)
    text_scale: float = 2.0


SWEEP = Sweep()
