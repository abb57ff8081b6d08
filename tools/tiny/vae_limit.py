"""The most that a generator behind the miniature's VAE can score: true results that went through it and nothing else.

    python -m tools.tiny.vae_limit [models/vino-tiny/vae.safetensors] [--count 60]

docs/tiny.md has the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from vino_core.toyworld.evaluate import evaluate
from vino_core.training.example import GENERATION_TASKS, Example
from vino_core.vae import VAE


def through(vae: VAE, examples: list[Example]) -> list[Tensor]:
    """What the VAE makes of the examples' targets, uint8 [T, H, W, 3] each."""
    return list(vae.decode(vae.encode_batch(torch.stack([example.target for example in examples]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("models/vino-tiny/vae.safetensors"))
    parser.add_argument("--tasks", nargs="+", default=GENERATION_TASKS, choices=GENERATION_TASKS, metavar="TASK")
    parser.add_argument("--count", type=int, default=60, help="held-out examples of each task")
    arguments = parser.parse_args()
    vae = VAE.load(arguments.file)
    print(evaluate(lambda examples: through(vae, examples), arguments.tasks, arguments.count).report.table())


if __name__ == "__main__":
    main()
