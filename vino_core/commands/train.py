"""`vino train`: one run from its config, alone or as one of several processes."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a YAML file; the shipped ones are under configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, for example optimizer.learning_rate=1e-4; repeat for more",
    )
    parser.add_argument("--check", action="store_true", help="check config, files and data, then leave")


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
    sources, validation = training_sources(config), validation_sources(config)
    with Team(config.parallel) as team:
        trainer = Trainer(config, load_parts(config, team.device), sources, team, validation)
        if team.first:
            done = trainer.state.step
            print(
                f"{arguments.config}: {f'on from step {done}' if done else 'begin'}, {config.steps} steps", flush=True
            )
            print(
                f"{team.size} process(es), {team.device}, {config.parallel.dtype}, output in {config.out}", flush=True
            )
        if arguments.check:
            return 0
        for path in trainer.train():
            if team.first:
                print(path)
    return 0
