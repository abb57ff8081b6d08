"""What a cache of latents depends on, and what it does not: limits and captions of a run, files that were exchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_files import AverageVAE, by_name, data_config, picture, write_manifest

from vino_core.errors import InputError
from vino_core.systems import get_system
from vino_core.toyworld.tasks import ToySource
from vino_core.training.config import RunConfig
from vino_core.training.data import encode as encoding
from vino_core.training.data.encode import Outcome, encode, jobs, single
from vino_core.training.data.latents import INDEX
from vino_core.training.data.shard_writing import write_shards
from vino_core.training.dropout import Dropped
from vino_core.training.example import Example
from vino_core.training.feed import Feed
from vino_core.training.prepare import Prepared, prepare
from vino_core.training.sources import training_sources


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A VAE that needs no weights."""
    monkeypatch.setattr(encoding, "VAE", AverageVAE)
    yield


def make(run: RunConfig) -> Outcome:
    (outcome,) = [encode(job, single("cpu")) for job in jobs(run)]
    return outcome


def feed(run: RunConfig, task: str) -> Feed:
    def sized(example: Example, step: int, number: int) -> Prepared:
        return prepare(example, Dropped(), run.data, get_system(run.system))

    return Feed(training_sources(run), sized, seed=0)


def edits(folder: Path, images: int | None) -> RunConfig:
    """Edits with one, two and three references."""
    task = {"weight": 1, "path": str(folder / "data"), "frames": 1, "images": images, "latents": True}
    return data_config(folder, {"ti2i": task})


def test_the_limit_of_pictures_may_change(tmp_path: Path) -> None:
    """A later, higher limit finds the latents of the examples that the lower one kept out of a run."""
    names = [picture(tmp_path / f"data/{n}.png", n) for n in range(4)]
    rows = [
        {"index": n, "task": "ti2i", "caption": "a", "ref_image_paths": names[:n], "target_path": names[3]}
        for n in (1, 2, 3)
    ]
    write_manifest(tmp_path / "data", rows)
    first = make(edits(tmp_path, 1))
    assert (first.examples, first.skipped, first.made) == (3, {}, 1)
    strict = feed(edits(tmp_path, 1), "ti2i")
    assert {sample.id for sample in strict.take("ti2i", 1, range(3))} == {"1"}
    assert set(strict.skipped) == {("ti2i", 1), ("ti2i", 2)}
    assert "3 pictures; data.tasks.ti2i.images is 1" in strict.skipped["ti2i", 2]
    assert make(edits(tmp_path, 4)).made == 0
    loose = feed(edits(tmp_path, 4), "ti2i")
    assert {sample.id for sample in loose.take("ti2i", 1, range(3))} == {"1", "2", "3"} and not loose.skipped


def captions(folder: Path, wanted: str) -> RunConfig:
    task = {"weight": 1, "path": str(folder / "data"), "frames": 1, "captions": wanted, "latents": True}
    return data_config(folder, {"t2i": task})


def test_captions_may_change_where_some_lack_theirs(tmp_path: Path) -> None:
    name = picture(tmp_path / "data/a.png", 1)
    row = {"task": "t2i", "target_path": name}
    rows = [{"index": 0, **row, "caption_long": "long"}, {"index": 1, **row, "caption_short": "short"}]
    write_manifest(tmp_path / "data", rows)
    assert make(captions(tmp_path, "long")).skipped == {}
    assert make(captions(tmp_path, "short")).made == 0
    for index, wanted in enumerate(("long", "short")):
        source = training_sources(captions(tmp_path, wanted))["t2i"]
        assert source.example(index).prompt == wanted and source.example(index).latents is not None
        with pytest.raises(
            InputError, match=f"the {wanted} caption is missing or empty. Write one as caption_{wanted}"
        ):
            source.example(1 - index)
    manifest = tmp_path / "data/manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"caption_long": "long"', '"caption": ""'))
    both = Feed(training_sources(captions(tmp_path, "both")), by_name, seed=0)
    assert {sample.id for sample in both.take("t2i", 1, range(2))} == {"1"} and set(both.skipped) == {("t2i", 0)}


def test_a_file_of_the_same_size_is_noticed_by_a_run(tmp_path: Path) -> None:
    path = tmp_path / "data/a.png"
    write_manifest(
        path.parent, [{"index": 0, "task": "t2i", "caption": "a", "target_path": picture(path, 1)}]
    )  # fmt: skip
    run = captions(tmp_path, "both")
    make(run)
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(InputError, match="examples 0 to 0 have changed.*run vino data encode again"):
        training_sources(run)
    assert make(run).made == 0  # it is the same picture
    training_sources(run)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert path.stat().st_size == stat.st_size
    with pytest.raises(InputError, match="examples 0 to 0 have changed"):
        training_sources(run)
    assert make(run).made == 1


def test_a_shard_that_was_written_again_is_noticed_by_a_run(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path / "data", ToySource("t2i"), 2)
    task = {"weight": 1, "source": "shards", "path": str(tmp_path / "data"), "frames": 1, "latents": True}
    run = data_config(tmp_path, {"t2i": task})
    outcome = make(run)
    index = outcome.folder / INDEX
    values = json.loads(index.read_text())
    assert values["made_of"] == {path.name: [path.stat().st_size, path.stat().st_mtime_ns]}
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=f"{path.name} changed since.*run vino data encode again"):
        training_sources(run)
    assert make(run).made == 0
    training_sources(run)
    del values["made_of"]  # as earlier versions wrote it
    index.write_text(json.dumps(values))
    training_sources(run)


def test_a_task_of_weight_0_needs_no_latents_but_of_its_held_out_examples(tmp_path: Path) -> None:
    latents = {"latents": True, "path": "nowhere"}
    tasks = {"t2i": {"weight": 1, **latents}, "t2v": {"weight": 0, "validation": "held_out", **latents}}
    assert [(job.task, job.held_out) for job in jobs(data_config(tmp_path, tasks))] == [("t2i", False), ("t2v", True)]
