"""Clips grow shorter and references fewer where the packed sequence would cost more than a run can pay."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import Numbers, config, tasks
from training_runs import parts as make_parts

from vino_core.errors import InputError
from vino_core.training.dropout import Dropped
from vino_core.training.prepare import prepare


def test_a_clip_is_shortened_by_its_references(tmp_path: Path) -> None:
    """Four tokens a latent frame, two boundary tokens a reference; a target of five frames is two latent frames."""
    lengths = {}
    for budget in (24, 23, 16):
        data = {"tasks": tasks("t2v", "tiv2v"), "max_tokens": budget}
        run = config(tmp_path, data=data)
        system = make_parts(run).system
        for task in data["tasks"]:
            sample = prepare(Numbers(task).example(0), Dropped(), run.data, system)
            lengths[task, budget] = len(sample.target)
            assert all(len(video.frames) == len(sample.target) for video in sample.references.videos)
    assert lengths == {
        ("t2v", 24): 5, ("tiv2v", 24): 5, ("t2v", 23): 5, ("tiv2v", 23): 1, ("t2v", 16): 5, ("tiv2v", 16): 1,
    }  # fmt: skip


def test_an_example_beyond_the_limits_is_refused_by_name(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("select_image", images=2)})
    with pytest.raises(InputError, match=r"select_image-0: 3 pictures; data\.tasks\.select_image\.images is 2"):
        prepare(Numbers("select_image").example(0), Dropped(), run.data, make_parts(run).system)
    run = config(tmp_path, data={"tasks": tasks("tiv2v"), "max_tokens": 15})
    with pytest.raises(InputError, match="tiv2v-0: 1 pictures and 1 clips need more than data.max_tokens = 15"):
        prepare(Numbers("tiv2v").example(0), Dropped(), run.data, make_parts(run).system)
