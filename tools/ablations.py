"""The paper's claims on vino-tiny: train variants, test them, write docs/ablations.md.

    python tools/ablations.py list
    python tools/ablations.py run --minutes 20 [--studies tokens boundaries] [--seeds 0 1 2]
    python tools/ablations.py plot

`run` may be given again and again: it goes on where it stopped, and skips what is finished. It needs the stage 0 base
and the toy shards of the configs with their latents (see docs/training.md); data/toy-long and data/toy-short too where
captions are compared. What is compared, and with how many steps, stands in tools/studies/definition.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from studies.definition import EXAMS, SEEDS, STEPS, STUDIES, SWEEP, variants  # noqa: E402
from studies.report import write_report  # noqa: E402
from studies.running import Clock, OutOfTime, Place, run_sweep, run_variants  # noqa: E402

from vino_core.errors import InputError  # noqa: E402


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="studies, their variants and steps")
    run = commands.add_parser("run", help="train and test")
    names = (*STUDIES, SWEEP.name)
    run.add_argument("--studies", nargs="+", choices=names, default=list(names), help="default: all")
    run.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    run.add_argument("--minutes", type=float, help="stop after so many minutes; default: when all is done")
    run.add_argument("--base", type=Path, default=Path("runs/tiny_stage0_clips/export/model.safetensors"),
                     help="result of stage 0 that all variants start from (default: %(default)s)")  # fmt: skip
    run.add_argument("--trained", type=Path, default=Path("models/vino-tiny"),
                     help=f"folder of the trained model for {SWEEP.name} (default: %(default)s)")  # fmt: skip
    run.add_argument("--configs", type=Path, default=ROOT / "configs", help="folder of tiny_stage*.yaml")
    run.add_argument("--steps", nargs=3, type=int, default=list(STEPS), metavar=("S1", "S2", "S3"),
                     help="of stages 1 to 3 (default: {} {} {})".format(*STEPS))  # fmt: skip
    run.add_argument("--count", type=int, help="test at most so many examples of each task")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of every run")
    plot = commands.add_parser("plot", help="write docs/ablations.md and its plots")
    plot.add_argument("--docs", type=Path, default=ROOT / "docs", help="default: docs")
    for command in (run, plot):
        command.add_argument("--out", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    return root


def show() -> None:
    known = variants()
    for study in STUDIES.values():
        print(f"{study.name}: {study.title}")
        for name in study.variants:
            stages = ", ".join(f"stage {stage.number} {stage.steps} steps" for stage in known[name].stages)
            exams = ", ".join(f"{EXAMS[exam].count} {exam}" for exam in known[name].exams)
            print(f"  {name}: {known[name].title}; {stages}; tested on {exams}")
    print(f"{SWEEP.name}: {SWEEP.title} {', '.join(map(str, SWEEP.scales))}; {SWEEP.exam.count} {SWEEP.exam.task}")


def run(arguments: argparse.Namespace) -> None:
    place = Place(arguments.out, arguments.base, arguments.configs, tuple(arguments.set), arguments.count)
    known = variants(tuple(arguments.steps))
    needed = [name for study in arguments.studies if study in STUDIES for name in STUDIES[study].variants]
    clock = Clock(arguments.minutes)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        run_variants(place, [known[name] for name in dict.fromkeys(needed)], arguments.seeds, clock, say)
        if SWEEP.name in arguments.studies:
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
