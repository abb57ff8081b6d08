"""`vino train`: one run from its config, alone or as one of several processes."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.config import RunConfig
    from ..training.loop import Trainer
    from ..training.team import Team


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a YAML file; the shipped ones are under configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, for example optimizer.learning_rate=1e-4; repeat for more",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--check", action="store_true", help="load config and files, prepare an example of each task, then leave"
    )
    instead.add_argument(
        "--export", action="store_true", help="write what the last checkpoint holds to the folder export, then leave"
    )


def run(arguments: argparse.Namespace) -> int:
    """Go on from the last checkpoint under the config's `out`, or begin. The same command under `accelerate launch` or
    `torchrun` is one process of many."""
    done = _train(arguments)
    # Trainer and network refer to themselves. Collected now, they let go of the process group, which waits for its
    # threads. One of them that frees a tensor while the interpreter shuts down would abort the process.
    gc.collect()
    return done


def _train(arguments: argparse.Namespace) -> int:
    from ..training.config import load_config
    from ..training.loop import Trainer
    from ..training.parts import load_parts
    from ..training.sources import training_sources, validation_sources
    from ..training.team import Team

    config = load_config(arguments.config, arguments.set)
    with Team(config.parallel) as team:
        if arguments.export:
            _export(arguments.config, config, team)
            return 0
        with team.together():
            sources, validation = training_sources(config), validation_sources(config)
            parts = load_parts(config, team.device)
        trainer = Trainer(config, parts, sources, team, validation)
        if team.first:
            done = trainer.state.step
            print(
                f"{arguments.config}: {f'on from step {done}' if done else 'begin'}, {config.steps} steps", flush=True
            )
            processes = "1 process" if team.size == 1 else f"{team.size} processes"
            print(f"{processes}, {team.device}, {config.parallel.dtype}, output in {config.out}", flush=True)
        if arguments.check:
            for line in _tried(trainer):
                if team.first:
                    print(line, flush=True)
            return 0
        for path in trainer.train():
            if team.first:
                print(path)
    return 0


def _export(path: Path, config: RunConfig, team: Team) -> None:
    from ..training.finish import export_last, last_checkpoint
    from ..training.parts import load_parts

    with team.together():
        last_checkpoint(config)  # before large files are loaded
        parts = load_parts(config, team.device)
    step, written = export_last(config, parts, team)
    if team.first:
        print(f"{path}: step {step} of {config.steps}{'' if config.ema is None else ', averaged weights'}", flush=True)
        for file in written:
            print(file)


def _tried(trainer: Trainer) -> Iterator[str]:
    """Read and size the first example of each task that the next step could take, and the first held-out one that can
    be used; says what it is. Raises InputError when there is none."""
    from ..training.validation import first_held_out

    try:
        for task in trainer.feed.sources:
            (sample,) = trainer.feed.take(task, trainer.state.step + 1, [trainer.team.rank])
            frames, height, width, _ = sample.target.shape
            references = len(sample.references.images), len(sample.references.videos)
            yield (
                f"{task}: {sample.id}, {width} x {height}, {frames} frames, {references[0]} pictures and "
                f"{references[1]} clips as references"
            )
        for task, source in trainer.validation.items():
            sample = first_held_out(trainer.run, task, source, trainer.parts.system, trainer.unusable)
            yield f"{task}, held out: {sample.id}"
    finally:
        trainer.feed.close()
