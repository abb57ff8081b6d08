"""Seconds that vino-tiny takes for a picture and for clips on this machine, loading not included.

    python benchmarks/tiny_generate.py [--model models/vino-tiny] [--repeats 5] [--threads N]

The first held-out examples of each task, at 64 x 64 pixels with 20 steps and the guidance of the presets; targets: a
picture in under 1 s, a clip of 9 frames in under 10 s on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from comparison.jobs import TITLES  # noqa: E402
from comparison.measuring import load  # noqa: E402

from vino_core.toyworld.requests import Settings, from_pipeline  # noqa: E402
from vino_core.toyworld.tasks import ToySource  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/vino-tiny")
    parser.add_argument("--tasks", nargs="+", default=["t2i", "ti2i", "t2v", "tv2v"], choices=TITLES, metavar="TASK")
    parser.add_argument("--repeats", type=int, default=5, choices=range(1, 100), metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generate = from_pipeline(load(arguments.model, "cpu"), Settings(steps=20))
    print(f"{arguments.threads} threads, 20 steps, 64 x 64 pixels, clips of 9 frames")
    for task in arguments.tasks:
        source = ToySource(task, size=64, frames=9, split="heldout")
        taken = []
        for index in range(arguments.repeats + 1):
            example = source.example(index)
            started = time.perf_counter()
            generate([example])
            taken.append(time.perf_counter() - started)
        known = sorted(taken[1:])  # the first one warms up
        print(f"{TITLES[task]}: {median(known):.2f} s ({known[0]:.2f} to {known[-1]:.2f})")


if __name__ == "__main__":
    main()
