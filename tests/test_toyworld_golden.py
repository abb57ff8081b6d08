"""The toy world as it was when models were trained on it: its words and pixels must not change unnoticed.

    python tests/test_toyworld_golden.py

records them again, after a change that is meant to change them: models trained before it have to be trained anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from vino_core.toyworld.sampling import SPLITS  # noqa: E402
from vino_core.toyworld.tasks import ToySource  # noqa: E402
from vino_core.training.example import TASKS, Example  # noqa: E402

RECORDED = ROOT / "tests" / "goldens" / "toyworld" / "examples.json"
WORDS, PICTURES = 30, 3
LIMIT = 0.15
"""Machines may round a few pixels differently; these are means over many."""


def words(source: ToySource) -> str:
    """A hash of the kinds and prompts of the first examples."""
    plans = [source.plan(index) for index in range(WORDS)]
    told = [f"{plan.kind}|{plan.prompt}|{plan.is_open}" for plan in plans]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def pixels(example: Example) -> list[float]:
    """Means over 16 parts of the picture and three channels; later pictures and frames count more than early ones."""
    frames = torch.cat([*(image[None] for image in example.images), *example.videos, example.target]).float()
    weights = torch.arange(1, len(frames) + 1, dtype=torch.float32)
    mixed = (frames * (weights / weights.sum())[:, None, None, None]).sum(0)
    side = len(mixed) // 4
    means = mixed.reshape(4, side, 4, side, 3).mean((1, 3))
    return [round(float(value), 2) for value in means.flatten()]


def found(task: str) -> dict[str, dict]:
    sources = {split: ToySource(task, seed=1, split=split) for split in SPLITS}
    return {
        split: {"words": words(source), "pixels": [pixels(source.example(index)) for index in range(PICTURES)]}
        for split, source in sources.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_words_and_pixels_are_the_recorded_ones(task: str) -> None:
    recorded = json.loads(RECORDED.read_text())[task]
    for split, entry in found(task).items():
        assert entry["words"] == recorded[split]["words"], split
        gap = torch.tensor(entry["pixels"]) - torch.tensor(recorded[split]["pixels"])
        assert float(gap.abs().max()) < LIMIT, split


def main() -> None:
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f' "{task}": {json.dumps(found(task))}' for task in TASKS)
    RECORDED.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
