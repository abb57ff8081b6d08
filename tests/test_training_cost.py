"""Clips grow shorter and references smaller where the packed sequence would cost more than a run can pay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import data_config, picture, write_manifest
from training_runs import Numbers, config, tasks, train
from training_runs import parts as make_parts

from vino_core.errors import InputError
from vino_core.training.config import RunConfig
from vino_core.training.data.check import check_config
from vino_core.training.dropout import Dropped
from vino_core.training.example import Example
from vino_core.training.prepare import Prepared, prepare


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
            assert sample.adapted.startswith("one frame of 5: otherwise") == (len(sample.target) == 1)
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


def subjects(task: str, sizes: list[tuple[int, int]], **changes: object) -> Example:
    """An example of 64 x 64 pixels with reference pictures of these sizes."""
    pictures = tuple(torch.full((*size, 3), 10 * number, dtype=torch.uint8) for number, size in enumerate(sizes))
    return replace(Numbers(task, size=64).example(0), images=pictures, **changes)


def packed_tokens(sample: Prepared) -> int:
    """Patches of 16 x 16 pixels per latent frame, and two boundary tokens a reference."""
    clips = [sample.target, *sample.pixels]
    latents = sum(((len(clip) - 1) // 4 + 1) * (clip.shape[1] // 16) * (clip.shape[2] // 16) for clip in clips)
    return latents + 2 * len(sample.pixels)


def cost(tmp_path: Path, task: str, budget: int | None) -> RunConfig:
    return config(tmp_path, data={"tasks": tasks(task), "area": 4096, "max_tokens": budget})


def test_many_pictures_get_smaller_before_a_clip_stands_still(tmp_path: Path) -> None:
    """Sixteen tokens a frame of whole size, and eight for boundaries. Two of four pictures are wider than high."""
    example = subjects("ti2v", [(64, 64), (40, 80), (64, 64), (40, 80)])
    found = {}
    for budget in (108, 107, 74, 73, 52, 51, 36):
        run = cost(tmp_path, "ti2v", budget)
        sample = prepare(example, Dropped(), run.data, make_parts(run).system)
        assert len(sample.references.images) == 4 and packed_tokens(sample) <= budget
        found[budget] = len(sample.target), sample.adapted.partition(":")[0].removeprefix("4 reference pictures at ")
        alone = prepare(example, Dropped(text=True), run.data, make_parts(run).system)
        assert [each.shape for each in alone.pixels] == [each.shape for each in sample.pixels]
    still = 1, "0.25 of data.area and one frame of 5"
    three_quarters, quarter = (5, "0.75 of data.area"), (5, "0.25 of data.area")
    assert found == {
        108: (5, ""), 107: three_quarters, 74: three_quarters, 73: quarter, 52: quarter, 51: still, 36: still,
    }  # fmt: skip
    run = cost(tmp_path, "ti2v", 35)
    with pytest.raises(InputError, match="4 pictures and 0 clips need more than data.max_tokens = 35"):
        prepare(example, Dropped(), run.data, make_parts(run).system)


def test_what_is_edited_keeps_the_targets_scale(tmp_path: Path) -> None:
    run = cost(tmp_path, "ti2i_baseimg", 46)
    system = make_parts(run).system
    example = subjects("ti2i_baseimg", [(64, 64), (64, 64), (64, 64)], base_image=True)
    sizes = [tuple(image.pixels.shape[:2]) for image in prepare(example, Dropped(), run.data, system).references.images]
    assert sizes == [(32, 32), (32, 32), (64, 64)]
    # Without its pictures the base stays, at the same size.
    (base,) = prepare(example, Dropped(images=True), run.data, system).references.images
    assert torch.equal(base.pixels, example.images[-1])
    run = cost(tmp_path, "i2v", 33)
    with pytest.raises(InputError, match="1 pictures and 0 clips need more"):
        prepare(subjects("i2v", [(64, 64)]), Dropped(), run.data, system)


def test_a_run_lists_what_it_made_smaller(tmp_path: Path) -> None:
    source = Numbers("ti2v", size=64, length=3)
    run = cost(tmp_path, "ti2v", 40)
    rows = train(replace(run, steps=6), given={"ti2v": source})
    assert len(rows) == 6 and not (tmp_path / "skipped_00000.jsonl").exists()
    listed = [json.loads(line) for line in (tmp_path / "adapted_00000.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in listed) == [0, 1, 2]
    assert all("2 reference pictures at 0.75 of data.area" in row["reason"] for row in listed)


def test_the_check_lists_it_beforehand(tmp_path: Path) -> None:
    names = [picture(tmp_path / f"{number}.png", number, *size) for number, size in enumerate([(64, 64), (80, 40)])]
    rows = [
        {"index": 1, "task": "ti2i", "caption": "both", "ref_image_paths": names, "target_path": names[0]},
        {"index": 2, "task": "ti2i", "caption": "one", "ref_image_paths": names[:1], "target_path": names[0]},
    ]
    write_manifest(tmp_path, rows)
    (finding,) = check_config(data_config(tmp_path, {"ti2i": {"weight": 1, "path": str(tmp_path)}}, max_tokens=150))
    assert not finding.problems and sum(finding.buckets.counts.values()) == 2
    (line,) = finding.adapted
    assert "example 0 (1)" in line and "2 reference pictures at" in line
    assert "2 examples, nothing wrong, 1 adapted" in str(finding) and line in str(finding)
