"""The command `vino`: generate, convert, train, data, eval, doctor."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from . import __version__
from .errors import InputError

COMMANDS = {
    "generate": "make or edit pictures and videos, one request or a task list",
    "convert": "turn the official checkpoint into the files that are used here, or back",
    "train": "train a stage, or fine-tune, from a config; goes on where it stopped",
    "data": "write, check and encode training data",
    "eval": "measure a model on the toy world: a table, JSON and a contact sheet",
    "doctor": "say what is installed, which files were found and what will fit in memory",
}


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave through the ordinary way, so that half-written files are removed."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status.

    0: done. 1: a mistake in the input, explained on stderr. 2: unknown options. 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="vino", description="Unified image and video generation and editing.")
    parser.add_argument("--version", action="version", version=f"vino {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in given if not word.startswith("-")), None)
    run = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:
            # Only now: a command's own imports (torch and more) take seconds that --help need not pay.
            module = import_module(f".commands.{name}", __package__)
            module.add_arguments(subparser)
            run = module.run
    options = parser.parse_args(given)
    if run is None:
        raise AssertionError("argparse accepted a command that was not imported")
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return run(options)
    except InputError as error:
        print(f"vino {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"vino {options.command}: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
