"""Training and testing of variants, in pieces of minutes; what is finished is not done again."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vino_core.checkpoints.files import load_mmdit, load_tokens
from vino_core.checkpoints.folder import PARTS
from vino_core.encoder.transformers_engine import load_engine
from vino_core.errors import InputError
from vino_core.media.output import write_text
from vino_core.pipeline import Pipeline
from vino_core.systems import get_system
from vino_core.toyworld.evaluate import evaluate
from vino_core.toyworld.requests import Settings, from_pipeline
from vino_core.toyworld.tasks import ToySource
from vino_core.training.config import Files, RunConfig, load_config
from vino_core.training.export import MODEL, TOKENS
from vino_core.training.identity import comparable
from vino_core.training.loop import Trainer
from vino_core.training.parts import load_parts
from vino_core.training.sources import training_sources
from vino_core.training.team import Team
from vino_core.vae import VAE

from .definition import Course, Exam, Stage, Variant
from .measures import exam_file, read_report
from .systems import as_system, registered

_START = "start.safetensors"
"""The model that a variant of another system starts from, in its folder."""
_BATCH = 32
_SETTINGS = Settings(text_scale=2.0, image_scale=1.0, shift=2.0)
"""Of all exams, whatever presets become."""


class OutOfTime(Exception):
    """The minutes are over; everything that was done is kept."""


class Clock:
    """Says when `minutes` are over; None: never."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def check(self) -> None:
        if self.is_over:
            raise OutOfTime


@dataclass(frozen=True)
class Place:
    """A series of runs of one course, and where it lies. `changes` apply to every run, after the variant's own.

    `base` and `steps` are the course's own where they are None. `count`: test no more than so many examples of each
    task.
    """

    course: Course
    out: Path
    configs: Path
    base: Path | None = None
    steps: tuple[int, int, int] | None = None
    changes: tuple[str, ...] = ()
    count: int | None = None

    def folder(self, name: str, seed: int) -> Path:
        return self.out / name / f"seed{seed}"

    def config(self, stage: int) -> Path:
        return self.configs / self.course.config.format(stage)

    def limited(self, exam: Exam) -> Exam:
        return exam if self.count is None else replace(exam, count=min(exam.count, self.count))


Say = Callable[[str], None]


def run_variants(place: Place, variants: Iterable[Variant], seeds: Sequence[int], clock: Clock, say: Say) -> None:
    """Train and test every variant with every seed, a seed of all variants before the next one.

    Raises OutOfTime when the clock says so, and InputError for runs of other settings in the same place.
    """
    chosen = list(variants)
    with registered():
        for seed in seeds:
            for variant in chosen:
                before = None
                for run in stage_configs(place, variant, seed):
                    _prepare_start(place, run, before)
                    train_stage(place, variant, run, clock, say)
                    before = run
                run_exams(place, variant, before, seed, clock, say)


def stage_configs(place: Place, variant: Variant, seed: int) -> list[RunConfig]:
    """The configs of all stages that make a variant, those that it shares with another one first."""
    runs: list[RunConfig] = []
    if variant.after is not None:
        shared = stage_configs(place, place.course.variant(variant.after), seed)
        runs = [run for run in shared if run.stage < variant.stages[0].number]
    for stage in variant.stages:
        runs.append(_stage_config(place, variant, stage, seed, runs[-1] if runs else None))
    return runs


def _stage_config(place: Place, variant: Variant, stage: Stage, seed: int, before: RunConfig | None) -> RunConfig:
    """The config of one stage, which starts from the result of the stage `before` or from the base."""
    course, folder = place.course, place.folder(variant.name, seed)
    system = variant.system or course.system
    changes = [*course.changes, *stage.settings(place.steps or course.steps)]
    changes += [f"out={folder / f'stage{stage.number}'}", f"seed={seed}", f"system={system.name}"]
    if before is None:
        start, tokens = place.base or course.base, "null"
    else:
        start, *others = exported(before)
        tokens = str(others[0]) if others else "null"
    if load_config(place.config(stage.number)).files.base is not None:
        changes.append(f"files.base={start}")
    else:
        differs = system.name != (course.system.name if before is None else before.system)
        changes += [f"files.model={folder / _START if differs else start}", f"files.tokens={tokens}"]
    return load_config(place.config(stage.number), [*changes, *place.changes])


def _prepare_start(place: Place, run: RunConfig, before: RunConfig | None) -> None:
    """Write the model that a stage of another system than the one before starts from."""
    source = (place.base or place.course.base) if before is None else exported(before)[0]
    if not source.is_file():
        raise InputError(f"{source}: there is no such base. Train stage 0, or name its result with --base.")
    start = Path(run.files.model or run.files.base)
    if start.name == _START:
        as_system(source, start, get_system(run.system))


def exported(run: RunConfig) -> list[Path]:
    """The files that the run ends with: the model and, where it has any, the learnable tokens."""
    folder = Path(run.out) / "export"
    return [folder / MODEL] if run.tokens == 0 else [folder / MODEL, folder / TOKENS]


def train_stage(place: Place, variant: Variant, run: RunConfig, clock: Clock, say: Say) -> None:
    """Begin, or go on from the last checkpoint, until the run's or the clock's end. Held-out losses are the exams'."""
    _note(run)
    if all(path.is_file() for path in exported(run)):
        return
    clock.check()
    # Data and latents are those of the course's system, whatever a variant of it makes of them.
    sources = training_sources(replace(run, system=place.course.system.name))
    held_out = dict.fromkeys(place.course.exam(name).task for name in variant.exams)
    validation = {task: ToySource(task, 0, split="heldout") for task in held_out}
    with Team(run.parallel) as team:
        trainer = Trainer(run, load_parts(run, team.device), sources, team, validation)
        say(f"{run.out}: from step {trainer.state.step} of {run.steps}")

        def report(step: int, steps: int, record: object) -> None:
            if clock.is_over and step < steps:
                trainer.save()
                raise OutOfTime

        trainer.train(report)
    shutil.rmtree(Path(run.out) / "checkpoints")


def _note(run: RunConfig) -> None:
    """Write down what the run is, or compare with what was written."""
    path = Path(run.out) / "run.json"
    start = Path(run.files.model or run.files.base)
    wanted = {**run.identity(), "steps": run.steps, "files": asdict(run.files), "start": _digest(start)}
    wanted = json.loads(json.dumps(wanted))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted, indent=1))
        return
    found = comparable(json.loads(path.read_text(encoding="utf-8")))
    names = ", ".join(sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)))
    if names:
        raise InputError(
            f"{run.out} holds a run with other settings ({names}). Choose another --out, or remove that folder."
        )


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_exams(place: Place, variant: Variant, run: RunConfig, seed: int, clock: Clock, say: Say) -> None:
    """Score the trained variant on held-out examples, and keep the reports beside the run."""
    folder = place.folder(variant.name, seed)

    @cache
    def pipeline() -> Pipeline:
        model, *tokens = exported(run)
        return load_pipeline(run.system, model, tokens[0] if tokens else None, run.files, run)

    for name in variant.exams:
        exam = place.limited(place.course.exam(name))
        _take(exam, exam_file(folder, name), pipeline, replace(_SETTINGS, seed=seed), clock, say)


def run_sweep(place: Place, trained: Path, seeds: Sequence[int], clock: Clock, say: Say) -> None:
    """Ask the model in the folder `trained` for the same clips with every scale; seeds are those of the noise.

    Nothing is done for a course without a sweep.
    """
    sweep, system = place.course.sweep, place.course.system
    if sweep is None:
        return
    files = {name: trained / f"{name}.safetensors" for name in PARTS}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(f"--trained {trained}: {', '.join(missing)} missing. Name a folder such as models/vino-tiny.")
    run = load_config(place.config(3), place.changes)

    @cache
    def pipeline() -> Pipeline:
        others = Files(text_encoder=str(files["text_encoder"]), vae=str(files["vae"]))
        return load_pipeline(system.name, files["model"], files["tokens"], others, run)

    model = _digest(files["model"])
    for seed in seeds:
        for scale in sweep.scales:
            settings = replace(_SETTINGS, seed=seed, text_scale=sweep.text_scale, image_scale=scale)
            path = exam_file(place.folder(sweep.name, seed), str(scale))
            _take(place.limited(sweep.exam), path, pipeline, settings, clock, say, {"model": model})


def _take(
    exam: Exam,
    path: Path,
    pipeline: Callable[[], Pipeline],
    settings: Settings,
    clock: Clock,
    say: Say,
    more: dict[str, Any] | None = None,
) -> None:
    wanted = {"count": exam.count, "captions": exam.captions, **vars(settings), **(more or {})}
    found = read_report(path)
    if found is not None and all(found["settings"].get(name) == value for name, value in wanted.items()):
        return
    clock.check()
    say(str(path))
    made = evaluate(
        from_pipeline(pipeline(), settings), (exam.task,), exam.count, captions=exam.captions, batch=_BATCH, shown=0,
        settings={**vars(settings), **(more or {})},
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(made.report.as_json(), indent=1))


def load_pipeline(system: str, model: Path, tokens: Path | None, files: Files, run: RunConfig) -> Pipeline:
    """What `evaluate` asks for results; `tokens` None for a model without learnable tokens."""
    free = run.parallel.device == "auto" and torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if free else torch.device("cpu")
    dtype = getattr(torch, run.parallel.dtype)
    engine = load_engine(files.text_encoder, dtype, device)
    mmdit, _ = load_mmdit(model, dtype, device)
    return Pipeline(
        system=get_system(system),
        engine=engine,
        tokens=torch.empty(0, engine.hidden_size) if tokens is None else load_tokens(tokens),
        model=mmdit,
        vae=VAE.load(files.vae, dtype, device),
        device=device,
    )
