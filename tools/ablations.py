"""The papers' claims on the miniatures: train variants, test them, write docs/ablations.md.

    python tools/ablations.py list
    python tools/ablations.py run --minutes 20 [--studies tokens boundaries] [--seeds 0 1 2]
    python tools/ablations.py plot

`run` may be given again and again: it goes on where it stopped, and skips what is finished. It needs what the variants
start from (see `list`) and the toy shards of the configs with their latents (tools/tiny/README.md); data/toy-long and
data/toy-short too where captions are compared. What is compared, and with how many steps, stands in
tools/studies/vino.py and vogue.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from studies.courses import COURSES, NAMES  # noqa: E402
from studies.definition import SEEDS  # noqa: E402
from studies.report import write_report  # noqa: E402
from studies.running import Clock, OutOfTime, Place, run_sweep, run_variants  # noqa: E402

from vino_core.errors import InputError  # noqa: E402


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="studies, their variants and steps")
    run = commands.add_parser("run", help="train and test")
    run.add_argument("--studies", nargs="+", choices=NAMES, default=list(NAMES), help="default: all")
    run.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    run.add_argument("--minutes", type=float, help="stop after so many minutes; default: when all is done")
    run.add_argument("--base", type=Path, help="file that all variants start from, where the studies "
                     "are of one system (default: its own under runs/)")  # fmt: skip
    run.add_argument("--trained", type=Path, default=Path("models/vino-tiny"),
                     help="folder of the trained model for image_scale (default: %(default)s)")  # fmt: skip
    run.add_argument("--configs", type=Path, default=ROOT / "configs", help="folder of the shipped configs")
    run.add_argument("--steps", nargs=3, type=int, metavar=("S1", "S2", "S3"),
                     help="of stages 1 to 3 (default: see list)")  # fmt: skip
    run.add_argument("--count", type=int, help="test at most so many examples of each task")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of every run")
    plot = commands.add_parser("plot", help="write docs/ablations.md and its plots")
    plot.add_argument("--docs", type=Path, default=ROOT / "docs", help="default: docs")
    for command in (run, plot):
        command.add_argument("--out", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    return root


def show() -> None:
    for course in COURSES:
        print(f"{course.system.name}, from {course.base}")
        for study in course.studies:
            print(f"  {study.name}: {study.title}")
            for variant in map(course.variant, study.variants):
                stages = [f"stage {stage.number} {stage.steps(course.steps)} steps" for stage in variant.stages]
                stages += [] if variant.after is None else [f"after {variant.after}"]
                exams = ", ".join(f"{course.exam(exam).count} {exam}" for exam in variant.exams)
                print(f"    {variant.name}: {variant.title}; {', '.join(stages)}; tested on {exams}")
        if sweep := course.sweep:
            scales = ", ".join(map(str, sweep.scales))
            print(f"  {sweep.name}: {sweep.title} {scales}; {sweep.exam.count} {sweep.exam.task}")


def run(arguments: argparse.Namespace) -> None:
    chosen = [course for course in COURSES if set(course.names) & set(arguments.studies)]
    if arguments.base is not None and len(chosen) > 1:
        raise InputError(
            f"--base: the studies are of {' and '.join(course.system.name for course in chosen)}, which start from "
            "bases of their own. Choose those of one system with --studies."
        )
    clock = Clock(arguments.minutes)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        for course in chosen:
            place = Place(
                course,
                arguments.out / course.system.name,
                arguments.configs,
                arguments.base,
                None if arguments.steps is None else tuple(arguments.steps),
                tuple(arguments.set),
                arguments.count,
            )
            studies = [study for name in arguments.studies if (study := course.study(name))]
            needed = dict.fromkeys(name for study in studies for name in study.variants)
            run_variants(place, map(course.variant, needed), arguments.seeds, clock, say)
            if course.sweep is not None and course.sweep.name in arguments.studies:
                run_sweep(place, arguments.trained, arguments.seeds, clock, say)
        say("everything is done")
    except OutOfTime:
        say("out of time; the same command goes on from here")


def main(given: list[str] | None = None) -> int:
    arguments = parser().parse_args(given)
    try:
        if arguments.command == "list":
            show()
        elif arguments.command == "run":
            run(arguments)
        else:
            for path in write_report(arguments.out, arguments.docs):
                print(path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
