"""`vino eval toy`: how well a model does in the toy world, as a table, JSON and a contact sheet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..media.output import check_folder
from .loading import add_file_arguments, add_machine_arguments, choose_system, given_files, load_pipeline

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..systems.base import System
    from ..toyworld.evaluate import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", choices=("toy",), help="what to measure on: the procedural world of sprites")
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help="the same as --model")
    what = parser.add_argument_group("what to measure")
    what.add_argument("--tasks", nargs="+", metavar="TASK", help="of the toy world, or as the model's system calls "
                      "them (default: every task that it has)")  # fmt: skip
    what.add_argument("--count", type=int, default=100, help="examples of each task (default: 100)")
    what.add_argument("--split", choices=("heldout", "train"), default="heldout", help="default: heldout")
    what.add_argument("--captions", choices=("both", "long", "short"), default="both", help="of t2i and t2v")
    what.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    what.add_argument("--frames", type=int, default=9, help="frames of the clips, 4n+1 (default: 9)")
    what.add_argument("--seed", type=int, default=0, help="of the examples and of the noise (default: 0)")
    how = parser.add_argument_group("how results are made")
    how.add_argument("--steps", type=int, default=8, help="default: 8, which suffice for this world")
    how.add_argument("--text-scale", type=float, help="text guidance; 1 or less: off (default: the task's preset)")
    how.add_argument("--image-scale", type=float, help="image guidance; 1 or less: off (default: the task's preset)")
    how.add_argument("--shift", type=float, help="of the noise levels (default: the task's preset)")
    how.add_argument("--understand", action="store_true", help="let the text encoder write out first what the result "
                     "should show: understand, then generate")  # fmt: skip
    how.add_argument("--negative", default="", help="negative prompt (default: none)")
    how.add_argument("--batch", type=int, default=32, help="results that are made together (default: 32)")
    parts = add_file_arguments(parser, required=False)
    parts.add_argument("--out", type=Path, default=Path("output/eval_toy"), help="default: output/eval_toy")
    add_machine_arguments(parser)


def own_names(system: System) -> dict[str, str]:
    """The toy world's tasks that `system` has, each with what it calls it: with one picture, or with several."""
    from ..training.example import GENERATION_TASKS

    return {
        task: " or ".join(dict.fromkeys(system.training_tasks[task]))
        for task in GENERATION_TASKS
        if task in system.training_tasks
    }


def toy_tasks(system: System, asked: Iterable[str]) -> tuple[str, ...]:
    """The toy world's tasks of these names, which may also be the system's own; of a name that several go by, all.

    Raises InputError for a name that is neither.
    """
    known = own_names(system)
    found: dict[str, None] = {}
    for name in asked:
        tasks = [name] if name in known else [task for task in known if name in system.training_tasks[task]]
        if not tasks:
            own = [task for task in system.presets if any(task in system.training_tasks[toy] for toy in known)]
            choice = ", ".join(dict.fromkeys((*known, *own)))
            raise InputError(f"--tasks {name}: unknown to {system.name}. Choose from {choice}.")
        found.update(dict.fromkeys(tasks))
    return tuple(found)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..media.output import write_image, write_text
    from ..toyworld.evaluate import evaluate
    from ..toyworld.requests import Settings, from_pipeline
    from ..toyworld.sheet import contact_sheet

    if (arguments.checkpoint is None) == (arguments.model is None):
        raise InputError("which model? Give its folder or file, once: `vino eval toy models/vino-tiny`, or --model.")
    arguments.model = arguments.model or arguments.checkpoint
    system = choose_system(arguments)
    names = own_names(system)
    tasks = toy_tasks(system, arguments.tasks or names)
    check_folder(arguments.out)
    settings = Settings(
        steps=arguments.steps,
        text_scale=arguments.text_scale,
        image_scale=arguments.image_scale,
        shift=arguments.shift,
        negative=arguments.negative,
        seed=arguments.seed,
        understand=arguments.understand,
    )

    @cache
    def pipeline() -> Pipeline:
        """Loaded once the rest of the options is known to be right."""
        return load_pipeline(arguments, system)

    report = arguments.out / "report.json"
    sheet = arguments.out / "sheet.png"

    def keep(evaluation: Evaluation) -> None:
        """After each task: what takes hours is not lost when the rest is given up."""
        write_text(report, json.dumps(evaluation.report.as_json(), indent=2))
        write_image(sheet, contact_sheet(evaluation.samples))

    with tqdm(total=arguments.count * len(tasks), unit="result", leave=False) as bar:
        evaluation = evaluate(
            lambda examples: from_pipeline(pipeline(), settings)(examples),
            tasks,
            arguments.count,
            arguments.split,
            arguments.seed,
            size=arguments.size,
            frames=arguments.frames,
            captions=arguments.captions,
            batch=arguments.batch,
            settings={
                **vars(settings),
                "system": system.name,
                "named": {task: names[task] for task in tasks},
                **{name: path.name for name, path in given_files(arguments).items() if name in ("model", "tokens")},
            },
            progress=lambda done, total: bar.update(done - bar.n),
            finished=keep,
        )
    print(evaluation.report.table())
    if called := [f"{task} is {names[task]}" for task in tasks if names[task] != task]:
        print(f"To {system.name}, {'; '.join(called)}.")
    print(f"{report}\n{sheet}")
    return 0
