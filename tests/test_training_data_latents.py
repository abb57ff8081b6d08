"""Latents made beforehand: the same as those of a run without them, restartable, and never stale unnoticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_files import AverageVAE, by_name, clip, data_config, picture, pictures_folder, write_manifest

from vino_core.errors import InputError
from vino_core.media import output
from vino_core.systems import get_system
from vino_core.toyworld.tasks import ToySource
from vino_core.training.config import RunConfig
from vino_core.training.data import encode as encoding
from vino_core.training.data import latents
from vino_core.training.data.adopt import adopt
from vino_core.training.data.check import check_config
from vino_core.training.data.encode import Outcome, encode, jobs, single
from vino_core.training.data.shard_writing import write_shards
from vino_core.training.dropout import Dropped
from vino_core.training.example import Example
from vino_core.training.feed import Feed
from vino_core.training.prepare import Prepared, prepare
from vino_core.training.sources import training_sources, validation_sources

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A VAE that needs no weights, and pieces of a few examples."""
    monkeypatch.setattr(encoding, "VAE", AverageVAE)
    monkeypatch.setattr(AverageVAE, "batches", 0)
    monkeypatch.setattr(latents, "_PIECE_BYTES", 5 * 4 * 16 * 64)
    yield


def pictures(folder: Path, count: int = 12, **settings: object) -> RunConfig:
    path = pictures_folder(folder / "data", count)
    return data_config(folder, {"t2i": {"weight": 1, "path": str(path), "frames": 1, "latents": True, **settings}})


def make(run: RunConfig) -> Outcome:
    (outcome,) = [encode(job, single("cpu")) for job in jobs(run)]
    return outcome


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def sized(run: RunConfig, example: Example, dropped: Dropped) -> Prepared:
    return prepare(example, dropped, run.data, get_system(run.system))


@pytest.mark.parametrize("task", ["t2i", "ti2i_baseimg", "tiv2v", "reconstruct_image"])
@pytest.mark.parametrize("dropped", [Dropped(), Dropped(text=True, images=True), Dropped(videos=True)])
def test_samples_equal_those_that_the_vae_encodes_in_the_run(tmp_path: Path, task: str, dropped: Dropped) -> None:
    write_shards(tmp_path / "shards", ToySource(task, seed=1, frames=9), 4)
    settings = {"weight": 1, "source": "shards", "path": str(tmp_path / "shards")}
    run = data_config(tmp_path, {task: {**settings, "latents": True}})
    make(run)
    ready, plain = training_sources(run)[task], training_sources(data_config(tmp_path, {task: settings}))[task]
    vae = AverageVAE()
    for index in range(4):
        one, other = (sized(run, source.example(index), dropped) for source in (ready, plain))
        assert (one.id, one.text, one.packed) == (other.id, other.text, other.packed)
        assert one.target.shape == other.target.shape and one.target.is_meta
        assert torch.equal(one.latents.target, vae.encode_batch(other.target[None])[0])
        assert len(one.latents.references) == len(other.pixels)
        for made, pixels, shape in zip(one.latents.references, other.pixels, one.pixels, strict=True):
            assert torch.equal(made, vae.encode_batch(pixels[None])[0])
            assert shape.shape == pixels.shape
        for image, same in zip(one.references.images, other.references.images, strict=True):
            assert torch.equal(image.pixels, same.pixels)
        for video, same in zip(one.references.videos, other.references.videos, strict=True):
            assert torch.equal(video.vlm_frames, same.vlm_frames)


def test_targets_of_other_sizes_and_frames_get_their_buckets(tmp_path: Path) -> None:
    rows = [
        {"index": n, "task": "t2i", "caption": "a", "target_path": picture(tmp_path / f"data/{n}.png", n, width, high)}
        for n, (width, high) in enumerate([(64, 64), (200, 50), (90, 60), (50, 200), (64, 64)])
    ]
    write_manifest(tmp_path / "data", rows)
    run = data_config(tmp_path, {"t2i": {"weight": 1, "path": str(tmp_path / "data"), "latents": True}})
    make(run)
    source = training_sources(run)["t2i"]
    shapes = [tuple(sized(run, source.example(n), Dropped()).target.shape) for n in range(5)]
    assert shapes == [(1, 64, 64, 3), (1, 32, 128, 3), (1, 48, 80, 3), (1, 128, 32, 3), (1, 64, 64, 3)]


def test_targets_are_never_opened(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    make(run)
    source = training_sources(run)["t2i"]
    for path in (tmp_path / "data").glob("*.png"):
        path.unlink()
    assert sized(run, source.example(3), Dropped()).latents.target.shape == (16, 1, 8, 8)


def test_a_second_time_nothing_is_done(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    first = make(run)
    assert (first.examples, first.made) == (12, 3)
    before, times = hashes(first.folder), [path.stat().st_mtime_ns for path in first.folder.iterdir()]
    batches = AverageVAE.batches
    assert make(run).made == 0 and AverageVAE.batches == batches
    assert hashes(first.folder) == before
    assert [path.stat().st_mtime_ns for path in first.folder.iterdir()] == times


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import test_training_data_latents as tests
from data_files import AverageVAE
tests.encoding.VAE = AverageVAE
tests.latents._PIECE_BYTES = 5 * 4 * 16 * 64
AverageVAE.before_batch = lambda number: number < 1 or os.kill(os.getpid(), signal.SIGKILL)
tests.make(tests.pictures(Path({folder!r})))
"""


def test_killed_and_started_again_the_bytes_are_the_same(tmp_path: Path) -> None:
    whole = hashes(make(pictures(tmp_path / "whole")).folder)
    code = KILLED.format(paths=[str(TESTS), str(TESTS.parent)], folder=str(tmp_path / "killed"))
    (tmp_path / "killed").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = pictures(tmp_path / "killed")
    with pytest.raises(InputError, match="are not complete. Run vino data encode"):
        training_sources(run)
    outcome = make(run)
    assert outcome.made == 2  # the first piece was complete
    assert hashes(outcome.folder) == whole


def test_pieces_are_complete_or_absent_when_the_process_dies_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pictures(tmp_path)

    def die(source: object, target: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output.os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            make(run)
    assert make(run).made == 3


def test_changed_files_are_noticed_and_only_they_are_made_again(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    first = make(run)
    before = hashes(first.folder)
    picture(tmp_path / "data/7.png", 200, 96, 40)
    with pytest.raises(InputError, match="examples 5 to 9 have changed.*run vino data encode again"):
        training_sources(run)
    assert "have changed" in check_config(run)[0].problems[0]
    second = make(run)
    after = hashes(second.folder)
    assert second.made == 1 and len(set(before.values()) & set(after.values())) == 2
    assert len(after) == len(before)  # the old piece is gone
    training_sources(run)


def test_files_of_the_same_size_are_told_apart_when_encoding(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    make(run)
    path = tmp_path / "data/0.png"
    size = path.stat().st_size
    picture(path, 77)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    assert make(run).made == 1


def test_captions_may_change_and_rows_may_not(tmp_path: Path) -> None:
    run = pictures(tmp_path, 6)
    make(run)
    manifest = tmp_path / "data" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("colour", "hue"))
    assert training_sources(run)["t2i"].example(1).prompt == "hue 1"
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="7 examples; latents are of 6"):
        training_sources(run)


def test_another_picture_to_edit_is_noticed(tmp_path: Path) -> None:
    """Where references shrink to what a run can afford, the picture to edit keeps its size."""
    folder = tmp_path / "data"
    images = [picture(folder / f"{n}.png", n) for n in (1, 2)]
    row = {"index": 0, "task": "ti2v", "caption": "It moves.", "ref_image_paths": images,
           "target_path": clip(folder / "moved.mp4", 5)}  # fmt: skip
    run = data_config(tmp_path, {"ti2v": {"weight": 1, "path": str(folder), "latents": True}}, max_tokens=200)

    def sizes() -> list[tuple[int, ...]]:
        return [tuple(latents.shape) for latents in training_sources(run)["ti2v"].example(0).latents.references]

    write_manifest(folder, [row])
    make(run)
    before = sizes()
    write_manifest(folder, [{**row, "ref_image_have_base": True}])
    with pytest.raises(InputError, match="examples 0 to 0 have changed.*run vino data encode again"):
        training_sources(run)
    assert make(run).made == 1 and sizes() != before


def test_caches_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    with pytest.raises(InputError, match="data.tasks.t2i: there are no latents under .*Run vino data encode"):
        training_sources(run)
    make(run)
    (tmp_path / "vae.bin").write_bytes(b"another VAE")
    latents.vae_fingerprint.cache_clear()
    with pytest.raises(InputError, match="no latents under .* fit this config: .* was made with another VAE. Run"):
        training_sources(run)
    second = make(run)
    assert second.made == 3
    assert training_sources(run)["t2i"].folder == second.folder
    larger = data_config(tmp_path, {"t2i": {"weight": 1, "path": str(tmp_path / "data"), "latents": True}}, area=9216)
    with pytest.raises(InputError, match="data.area 4096 .not 9216., frames 1 .not 9."):
        training_sources(larger)


def test_latents_of_another_file_of_the_same_vae_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pictures(tmp_path)
    first = make(run)
    (tmp_path / "vae.bin").write_bytes(b"the same encoder, another decoder")
    latents.vae_fingerprint.cache_clear()
    (job,) = jobs(run)
    assert "taken over" in adopt(job, "cpu")
    second = make(run)
    assert second.made == 0 and second.folder != first.folder
    assert training_sources(run)["t2i"].example(3).latents is not None
    assert hashes(first.folder).keys() == hashes(second.folder).keys()

    (tmp_path / "vae.bin").write_bytes(b"another encoder")
    latents.vae_fingerprint.cache_clear()
    exact = AverageVAE.encode_batch
    monkeypatch.setattr(AverageVAE, "encode_batch", lambda self, pixels: exact(self, pixels) * 1.02)
    with pytest.raises(InputError, match="differ by 2.0% of their size"):
        adopt(job, "cpu")
    assert not job.folder().exists()
    larger = data_config(tmp_path, {"t2i": {"weight": 1, "path": str(tmp_path / "data"), "latents": True}}, area=9216)
    assert adopt(jobs(larger)[0], "cpu") is None


@pytest.mark.parametrize("width", [64, 128])
def test_latents_of_another_system_are_taken_over_where_they_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Pictures of the run's own size are sized by no system; of others each makes something else."""
    folder = tmp_path / "data"
    rows = [
        {
            "index": n,
            "task": "ti2i",
            "caption": "Change it.",
            "ref_image_paths": [picture(folder / f"{n}.png", n, width)],
            "target_path": picture(folder / f"{n}_changed.png", 99 - n),
        }
        for n in range(12)
    ]
    write_manifest(folder, rows)
    run = data_config(tmp_path, {"ti2i": {"weight": 1, "path": str(folder), "frames": 1, "latents": True}})
    (tmp_path / "vae.bin").write_bytes(b"a VAE that was thrown away")
    with monkeypatch.context() as patch:
        exact = AverageVAE.encode_batch
        patch.setattr(AverageVAE, "encode_batch", lambda self, pixels: exact(self, pixels) * 2)
        old = make(run)
    (tmp_path / "vae.bin").write_bytes(b"a VAE")
    latents.vae_fingerprint.cache_clear()
    first = make(run)
    other = RunConfig(**{**run.__dict__, "system": "vogue-tiny"})
    (job,) = jobs(other)
    if width == 64:
        assert f"taken over from {first.folder.name}" in adopt(job, "cpu")
        assert make(other).made == 0 and len({old.folder, first.folder, job.folder()}) == 3
        taken, own = (training_sources(each)["ti2i"].example(5).latents for each in (other, run))
        assert all(map(torch.equal, (taken.target, *taken.references), (own.target, *own.references)))
    else:
        with pytest.raises(InputError, match="by a VAE or system whose latents differ"):
            adopt(job, "cpu")
        assert not job.folder().exists()


def test_examples_that_cannot_be_used_are_skipped_and_listed(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    bad = tmp_path / "data/4.png"
    bad.write_bytes(bad.read_bytes()[:50])
    (tmp_path / "data/9.png").unlink()
    outcome = make(run)
    assert sorted(outcome.skipped) == [4, 9]
    assert "4.png: the picture file is damaged" in outcome.skipped[4]
    assert "9.png: there is no such picture file" in outcome.skipped[9]
    feed = Feed(training_sources(run), by_name, seed=0)
    assert len(feed.take("t2i", 1, range(12))) == 12
    assert sorted(feed.skipped) == [("t2i", 4), ("t2i", 9)]
    picture(tmp_path / "data/9.png", 9)
    assert sorted(make(run).skipped) == [4]


def test_a_full_disk_leaves_the_old_cache_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pictures(tmp_path)
    old = hashes(make(run).folder)
    for n in (0, 6, 11):
        picture(tmp_path / f"data/{n}.png", 100 + n, 40, 90)
    written = []

    def full(number: int) -> None:
        written.append(number)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(output.os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written .No space left"):
            make(run)
    folder = next((tmp_path / "data/latents/t2i").iterdir())
    found = hashes(folder)
    assert {name: found[name] for name in old} == old
    assert not [name for name in found if name.endswith(".part")]
    outcome = make(run)
    assert outcome.made == 2
    training_sources(run)


@pytest.mark.parametrize("share", [None, 0.05, 0.9])
def test_a_run_does_not_begin_with_a_damaged_or_lost_piece(tmp_path: Path, share: float | None) -> None:
    run = pictures(tmp_path)
    piece = sorted(make(run).folder.glob("*.safetensors"))[1]
    data = piece.read_bytes()
    piece.unlink() if share is None else piece.write_bytes(data[: int(len(data) * share)])
    told = rf"1 of 3 files of latents cannot be read: {piece.name} \(.*Remove what is damaged and run vino data encode"
    with pytest.raises(InputError, match=told):
        training_sources(run)
    (finding,) = check_config(run)
    assert len(finding.problems) == 1 and re.search(told, finding.problems[0])
    piece.unlink(missing_ok=True)
    assert make(run).made == 1 and piece.read_bytes() == data
    training_sources(run)


def test_a_piece_that_is_lost_on_the_way_ends_a_run(tmp_path: Path) -> None:
    run = pictures(tmp_path)
    outcome = make(run)
    feed = Feed(training_sources(run), by_name, seed=0)
    sorted(outcome.folder.glob("*.safetensors"))[1].unlink()
    with pytest.raises(RuntimeError, match="data.tasks.t2i, example .*latents cannot be read any more"):
        feed.take("t2i", 1, range(12))
    assert not feed.skipped


def test_held_out_data_has_latents_of_its_own(tmp_path: Path) -> None:
    held_out = pictures_folder(tmp_path / "heldout", 3)
    run = pictures(tmp_path, validation=str(held_out))
    values = RunConfig(**{**run.__dict__, "watch": type(run.watch)(validate=1)})
    outcomes = [encode(job, single("cpu")) for job in jobs(values)]
    assert [outcome.examples for outcome in outcomes] == [12, 3]
    assert validation_sources(values)["t2i"].example(2).latents is not None


def test_latents_may_lie_elsewhere_and_in_16_bits(tmp_path: Path) -> None:
    run = pictures(tmp_path, latents=str(tmp_path / "cache"))
    half = RunConfig(**{**run.__dict__, "parallel": type(run.parallel)(dtype="bfloat16")})
    outcome = make(half)
    assert outcome.folder.is_relative_to(tmp_path / "cache" / "t2i")
    sample = training_sources(half)["t2i"].example(1).latents.target
    exact = AverageVAE().encode_batch(sized(run, training_sources(pictures(tmp_path, latents=False))["t2i"].example(1),
                                            Dropped()).target[None])[0]  # fmt: skip
    assert sample.dtype == torch.float32 and torch.equal(sample, exact.bfloat16().float())


def test_data_sets_may_share_a_folder_for_their_latents(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    one, other = (pictures(tmp_path / name, count, latents=cache) for name, count in (("one", 12), ("other", 7)))
    before = hashes(make(one).folder)
    make(other)
    again = make(one)
    assert not again.made and hashes(again.folder) == before
    assert [len(training_sources(run)["t2i"]) for run in (one, other)] == [12, 7]


def test_so_may_two_files_in_one_folder(tmp_path: Path) -> None:
    runs = []
    for name, count in (("train", 12), ("heldout", 7)):
        pictures_folder(tmp_path / "data", count)
        path = (tmp_path / "data/manifest.jsonl").rename(tmp_path / f"data/{name}.jsonl")
        runs.append(data_config(tmp_path, {"t2i": {"weight": 1, "path": str(path), "frames": 1, "latents": True}}))
    folders = [make(run).folder for run in runs]
    assert folders[0] != folders[1] and [make(run).made for run in runs] == [0, 0]
    assert [len(training_sources(run)["t2i"]) for run in runs] == [12, 7]


def test_the_toy_world_and_empty_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Write examples of it with `vino data toy`"):
        data_config(tmp_path, {"t2i": {"weight": 1, "source": "toy", "latents": True}})
    with pytest.raises(InputError, match="nothing to encode"):
        jobs(data_config(tmp_path, {"t2i": {"weight": 1, "source": "toy"}}))
    write_manifest(tmp_path / "data", [])
    with pytest.raises(InputError, match="has no examples"):
        make(data_config(tmp_path, {"t2i": {"weight": 1, "path": str(tmp_path / "data")}}))


def test_index_names_settings_and_skipped(tmp_path: Path) -> None:
    outcome = make(pictures(tmp_path))
    index = json.loads((outcome.folder / latents.INDEX).read_text())
    assert index["settings"]["area"] == 4096 and index["examples"] == 12 and index["skipped"] == {}
