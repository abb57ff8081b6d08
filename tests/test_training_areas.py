"""Where the resolution is a range, each sample's area is drawn from it, by seed, step and number alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from paths import ROOT
from training_runs import Numbers, config, tasks
from training_runs import parts as make_parts

from vino_core.errors import InputError
from vino_core.training.config import load_config
from vino_core.training.dropout import Dropped
from vino_core.training.fitting import AREA_STEPS, at_drawn_area
from vino_core.training.loop import Trainer
from vino_core.training.prepare import prepare
from vino_core.training.team import Team

VOGUE_STAGES = {1: (240 * 240, 240 * 480, 1, 1), 2: (480 * 480, 480 * 854, 129, 8), 3: (480 * 480, 480 * 854, 129, 8)}
"""Table 7: a square of the least side, the most and the least side, frames, frames to the MLLM."""


@pytest.mark.parametrize("stage", VOGUE_STAGES)
def test_vogues_stages_draw_from_the_published_range(stage: int) -> None:
    data = load_config(ROOT / "configs" / f"vogue_stage{stage}.yaml").data
    assert (data.smallest_area, data.area, data.frames, data.vlm_frames) == VOGUE_STAGES[stage]
    drawn = Counter(at_drawn_area(data, 0, step, number).area for step in range(1, 300) for number in range(4))
    assert min(drawn) == data.smallest_area and max(drawn) == data.area
    assert len(drawn) == AREA_STEPS + 1 and min(drawn.values()) > 0.7 * 1196 / (AREA_STEPS + 1)


def test_an_area_depends_on_seed_step_and_number_alone() -> None:
    data = load_config(ROOT / "configs" / "vogue_stage2.yaml").data

    def drawn(seed: int = 3, step: int = 5) -> list[int]:
        return [at_drawn_area(data, seed, step, number).area for number in range(64)]

    assert drawn() == drawn()[:10] + drawn()[10:]
    assert drawn() != drawn(seed=4) and drawn() != drawn(step=6)
    assert [at_drawn_area(data, 3, 5, number).area for number in reversed(range(64))] == drawn()[::-1]
    assert replace(at_drawn_area(data, 3, 5, 7), area=data.area) == data


def test_without_a_range_nothing_changes(tmp_path: Path) -> None:
    """A run from before there were ranges can be resumed."""
    run = config(tmp_path)
    assert at_drawn_area(run.data, 0, 1, 1) is run.data
    assert "smallest_area" not in run.identity()["data"]
    assert config(tmp_path, data={"smallest_area": 256}).identity()["data"]["smallest_area"] == 256


@pytest.mark.parametrize("system", ["vino", "vogue"])
def test_a_sample_and_its_references_have_the_drawn_area(tmp_path: Path, system: str) -> None:
    data = {"tasks": tasks("ti2i"), "area": 4096, "smallest_area": 1024, "dropout": 0.0}
    run = config(tmp_path, system=system, data=data)
    source = Numbers("ti2i", size=64)
    with Team(run.parallel) as team:
        trainer = Trainer(run, make_parts(run), {"ti2i": source}, team)
        made = [trainer.feed.take("ti2i", 1, [number])[0] for number in range(12)]
        again = trainer.feed.take("ti2i", 1, list(range(12)))
    sides = set()
    for number, (sample, other) in enumerate(zip(made, again, strict=True)):
        chosen = at_drawn_area(run.data, run.seed, 1, number)
        plain = prepare(source.example(number), Dropped(), replace(chosen, smallest_area=None), trainer.parts.system)
        assert sample.target.shape == other.target.shape == plain.target.shape
        assert [tuple(pixels.shape) for pixels in sample.pixels] == [tuple(sample.target.shape)]
        sides.add(sample.target.shape[1])
    assert {32, 64} <= sides and len(sides) > 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"smallest_area": 2000}, "smallest_area is 2000 pixels; it lies between 256 and data.area, 1024"),
        ({"smallest_area": 100}, "smallest_area is 100 pixels; it lies between 256"),
        (
            {"smallest_area": 512, "tasks": tasks("t2i", source="folder", path="x", latents=True)},
            r"data\.smallest_area: latents made beforehand \(data\.tasks\.t2i\) have one size each. Leave one",
        ),
    ],
)
def test_ranges_that_cannot_be(tmp_path: Path, data: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, data=data)
