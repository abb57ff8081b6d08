"""WebDataset shards: written without loss, read by number, and what is wrong with them is said."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
from pathlib import Path

import pytest
import torch
from data_files import by_name, data_config
from PIL import Image

from vino_core.errors import InputError
from vino_core.systems import get_system
from vino_core.toyworld.tasks import ToySource
from vino_core.training.data import shard_writing
from vino_core.training.data.check import check_config, check_path
from vino_core.training.data.shard_writing import write_shards
from vino_core.training.data.shards import ShardSource
from vino_core.training.feed import Feed
from vino_core.training.sources import training_sources


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def png(value: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 48), (value, 20, 30)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("task", ["t2i", "ti2i_baseimg", "tiv2v"])
def test_what_is_written_is_read_by_number(tmp_path: Path, task: str) -> None:
    toy = ToySource(task, seed=3, frames=5)
    write_shards(tmp_path, toy, 7, per_shard=3)
    source = ShardSource(tmp_path, task)
    assert len(source) == 7
    for index in (6, 0, 3, 2):
        made, read = toy.example(index), source.example(index)
        assert (read.id, read.task, read.prompt, read.fps) == (made.id, task, made.prompt, made.fps)
        assert read.base_image == made.base_image
        assert torch.equal(read.target, made.target)
        assert len(read.images) == len(made.images) and len(read.videos) == len(made.videos)
        for one, other in zip((*read.images, *read.videos), (*made.images, *made.videos), strict=True):
            assert torch.equal(one, other)


def test_the_same_examples_are_the_same_bytes(tmp_path: Path) -> None:
    files = [write_shards(tmp_path / name, ToySource("tv2v", frames=5), 2)[0].read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_the_webdataset_library_reads_them(tmp_path: Path) -> None:
    import webdataset

    toy = ToySource("ti2i", seed=1)
    paths = write_shards(tmp_path, toy, 3)
    samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False).decode("rgb8"))
    assert [sample["json"]["prompt"] for sample in samples] == [toy.example(n).prompt for n in range(3)]
    assert (samples[1]["target.png"] == toy.example(1).target[0].numpy()).all()


def test_an_interrupted_command_goes_on_and_leaves_no_halves(tmp_path: Path) -> None:
    class Stopped(ToySource):
        def example(self, index: int):  # noqa: ANN202
            if index == 4:
                raise KeyboardInterrupt
            return super().example(index)

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, Stopped("t2i"), 6, per_shard=3)
    assert [path.name for path in tmp_path.iterdir()] == ["t2i-00000000-00000003.tar"]
    before = (tmp_path / "t2i-00000000-00000003.tar").stat().st_mtime_ns
    write_shards(tmp_path, ToySource("t2i"), 6, per_shard=3)
    assert (tmp_path / "t2i-00000000-00000003.tar").stat().st_mtime_ns == before
    assert len(ShardSource(tmp_path, "t2i")) == 6


def test_other_options_do_not_mix_into_a_folder(tmp_path: Path) -> None:
    write_shards(tmp_path, ToySource("t2i"), 4, per_shard=2)
    with pytest.raises(InputError, match="other options"):
        write_shards(tmp_path, ToySource("t2i", seed=1), 4, per_shard=2)
    with pytest.raises(InputError, match="is no part of this"):
        write_shards(tmp_path, ToySource("t2i"), 5, per_shard=5)


def test_a_shard_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"one"})
    assert len(ShardSource(tmp_path, "t2i")) == 1
    tar(path, {"1.png": png(), "1.txt": b"one", "2.png": png(7), "2.txt": b"two"})
    source = ShardSource(tmp_path, "t2i")
    assert [source.example(n).prompt for n in range(2)] == ["one", "two"]
    assert source.example(1).target[0, 0, 0, 0] == 7


def test_broken_samples_are_replaced_and_named(tmp_path: Path) -> None:
    good = png()
    members = {}
    for n in range(20):
        members |= {f"{n:02d}.jpg": good, f"{n:02d}.txt": b"a picture"}
    members["07.jpg"] = good[:60]
    del members["11.txt"]
    tar(tmp_path / "a.tar", members)
    feed = Feed({"t2i": ShardSource(tmp_path, "t2i")}, by_name, seed=0)
    taken = feed.take("t2i", 1, range(20))
    assert len(taken) == 20 and not {"07", "11"} & {example.id for example in taken}
    assert set(feed.skipped) == {("t2i", 7), ("t2i", 11)}
    assert "a.tar, 07.jpg" in feed.skipped["t2i", 7]
    assert "caption is missing" in feed.skipped["t2i", 11]


def test_a_member_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    """As of archives that were put together; one sample must not replace another one."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (
            ("0.png", png()),
            ("0.txt", b"red"),
            ("1.png", png()),
            ("0.png", png(7)),
            ("0.txt", b"blue"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    stat = (tmp_path / "a.tar").stat()
    old = {"made_of": [stat.st_size, stat.st_mtime_ns], "samples": [["0", {"png": [512, 1], "txt": [1024, 3]}]]}
    (tmp_path / "a.tar.index.json").write_text(json.dumps(old))  # as earlier versions wrote it
    with pytest.raises(InputError, match=r"a\.tar: 0\.png is in it more than once"):
        ShardSource(tmp_path, "t2i")
    run = data_config(tmp_path, {"t2i": {"weight": 1, "source": "shards", "path": str(tmp_path)}})
    for findings in (check_config(run), check_path(tmp_path, get_system("vino"), 4096, 1)):
        assert ["a.tar: 0.png is in it more than once" in problem for problem in findings[0].problems] == [True]


def test_text_is_the_caption_where_the_rest_says_none(tmp_path: Path) -> None:
    samples = [
        ({"width": 64, "url": "x"}, b"\xef\xbb\xbfred"),
        ({"caption": None}, b" blue "),
        ({"prompt": "green"}, b"-"),
        ({"caption_long": "long"}, b"-"),
        ({}, b""),
    ]
    members = {}
    for n, (settings, text) in enumerate(samples):
        members |= {f"{n}.jpg": png(), f"{n}.json": json.dumps(settings).encode(), f"{n}.txt": text}
    tar(tmp_path / "a.tar", {**members, "5.jpg": png(), "5.txt": b"\xef\xbb\xbfalone"})
    source = ShardSource(tmp_path, "t2i")
    assert [source.row(n).prompt for n in (0, 1, 2, 3, 5)] == ["red", "blue", "green", "long", "alone"]
    with pytest.raises(InputError, match="a.tar, 4: the caption is missing"):
        source.row(4)


def test_captions_long_and_short_are_those_that_the_config_asks_for(tmp_path: Path) -> None:
    members = {}
    for n in range(20):
        captions = {"prompt": "plain", "caption_long": "long", "caption_short": "short"}
        members |= {f"{n:02d}.target.png": png(), f"{n:02d}.json": json.dumps(captions).encode()}
    members |= {"20.jpg": png(), "20.txt": b"a picture"}
    tar(tmp_path / "a.tar", members)

    def prompts(wanted: str) -> list[str]:
        tasks = {"t2i": {"weight": 1, "source": "shards", "path": str(tmp_path), "captions": wanted}}
        source = training_sources(data_config(tmp_path, tasks))["t2i"]
        return [source.example(n).prompt for n in range(20)]

    assert set(prompts("long")) == {"long"} and set(prompts("short")) == {"short"}
    both = prompts("both")
    assert both == prompts("both") and set(both) == {"plain", "long", "short"}
    assert ShardSource(tmp_path, "t2i").example(20).prompt == "a picture"
    with pytest.raises(InputError, match="a.tar, 20: the long caption is missing or empty. Write one as caption_long"):
        ShardSource(tmp_path, "t2i", captions="long").example(20)


def test_samples_without_what_their_task_needs_say_so(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.target.png": png(), "1.image2.png": png(), "1.json": b'{"prompt": "x"}',
                             "2.target.png": png(), "2.json": b'{"prompt": "x"}', "3.json": b"{"})  # fmt: skip
    source = ShardSource(tmp_path, "ti2i")
    for index, message in enumerate(["must count 1, 2, 3", "0 reference pictures; ti2i takes 1 or more", "not JSON"]):
        with pytest.raises(InputError, match=message):
            source.example(index)


def test_there_may_be_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    for number in range(80):
        tar(tmp_path / f"{number:03}.tar", {f"{number}.png": png(), f"{number}.txt": b"a fox"})
    source = ShardSource(tmp_path, "t2i")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        assert [source.example(index).id for index in range(80)] == [str(number) for number in range(80)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_task_of_weight_0_needs_no_data(tmp_path: Path) -> None:
    write_shards(tmp_path / "t2i", ToySource("t2i"), 1)
    shards = {"weight": 1, "source": "shards", "path": str(tmp_path / "t2i")}
    unused = {**shards, "weight": 0, "path": str(tmp_path / "none")}
    assert set(training_sources(data_config(tmp_path, {"t2i": shards, "ti2i": unused}))) == {"t2i"}


def test_no_shards_and_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no shards"):
        ShardSource(tmp_path, "t2i")
    with pytest.raises(InputError, match="nowhere: there is no such folder or file"):
        ShardSource(tmp_path / "nowhere", "t2i")
    (tmp_path / "a.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(InputError, match="a.tar: not a whole, uncompressed tar"):
        ShardSource(tmp_path, "t2i")


def test_a_shard_that_ends_between_two_samples_is_not_whole(tmp_path: Path) -> None:
    """tarfile reads what is left without a word."""
    whole = tar(tmp_path / "a.tar", {f"{n}.{kind}": png(n) for n in range(3) for kind in ("png", "txt")})
    with tarfile.open(whole) as archive:
        starts = [member.offset for member in archive][2::2]
    data = whole.read_bytes()
    assert len(ShardSource(whole, "t2i")) == 3
    for end in starts:
        whole.write_bytes(data[:end])
        with pytest.raises(InputError, match="a.tar: the shard has no end mark, so it was cut off"):
            ShardSource(whole, "t2i")
    whole.write_bytes(data + data)
    with pytest.raises(InputError, match="a.tar: something follows the shard's end mark"):
        ShardSource(whole, "t2i")
    end = -(-len(data.rstrip(b"\0")) // 512) * 512
    whole.write_bytes(data[:end] + bytes(512))  # one block is enough
    assert len(ShardSource(whole, "t2i")) == 3


def test_a_full_disk_leaves_what_was_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, ToySource("t2i"), 2, per_shard=2)
    kept = (tmp_path / "t2i-00000000-00000002.tar").read_bytes()

    def full(example: object) -> dict[str, bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writing, "_is_of", lambda *arguments: True)
    monkeypatch.setattr(shard_writing, "members", full)
    with pytest.raises(InputError, match="cannot be written .No space left.*Free some space"):
        write_shards(tmp_path, ToySource("t2i"), 4, per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["t2i-00000000-00000002.tar"]
    assert (tmp_path / "t2i-00000000-00000002.tar").read_bytes() == kept
