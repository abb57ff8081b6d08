"""Folders with captions, and what is said about what lies in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from data_files import data_config
from media_files import moving_bar, write_clip
from PIL import Image

from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.training.config import RunConfig
from vino_core.training.data.captioned import CaptionedSource
from vino_core.training.data.check import check_config
from vino_core.training.sources import training_sources
from vino_core.training.survey import Chosen, folder_sources, survey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("cat.png", (40, 30)), ("b/Dog.JPG", (64, 48)), ("owl.webp", (32, 32))):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "red").save(file)
        file.with_suffix(".txt").write_text(f"\ufeff a {file.stem.lower()} \n", encoding="utf-8")
    for name in ("README.txt", "License.txt", "thumbs.db", "info.json", "cat.npz", "notes.md"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_pairs_of_media_and_text(folder: Path) -> None:
    source = CaptionedSource(folder, "t2i")
    assert [source.row(index).id for index in range(len(source))] == ["b/Dog.JPG", "cat.png", "owl.webp"]
    example = source.example(0)
    assert example.prompt == "a dog" and tuple(example.target.shape) == (1, 48, 64, 3) and example.task == "t2i"
    assert len(CaptionedSource(folder, "t2v")) == 0
    assert list(folder_sources(folder)) == ["t2i"]


def test_clips_are_text_to_video(folder: Path) -> None:
    write_clip(folder / "walk.mp4", moving_bar(8))
    (folder / "walk.txt").write_text("a walk")
    found = survey(folder)
    assert found.rows == {"t2i": (0, 1, 2), "t2v": (0,)}
    assert len(folder_sources(folder, frames=5)["t2v"].example(0).target) == 5


def test_what_is_wrong_is_named(folder: Path) -> None:
    (folder / "cat.txt").unlink()
    (folder / "owl.txt").write_text("  \n")
    (folder / "b" / "Dog.txt").write_bytes(b"\xff\xfe\xff")
    Image.effect_noise((40, 40), 60).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:800])
    (folder / "cut.txt").write_text("cut")
    (folder / "clip.mp4").write_bytes(b"no clip")
    (folder / "clip.txt").write_text("no clip")
    found = survey(folder)
    assert found.rows == {} and found.count == 0
    words = [["Dog.txt", "UTF-8"], ["cat.png", "caption", "cat.txt"], ["cut.png", "damaged"], ["owl.webp", "caption"],
             ["clip.mp4"]]  # fmt: skip
    assert len(found.problems) == len(words)
    assert [part for problem, parts in zip(found.problems, words, strict=True) for part in parts
            if part not in problem] == []  # fmt: skip


def test_files_that_only_look_like_examples_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "heic.HEIC",
        "heic.txt",
        "b/c.avif",
        "b/orphan.txt",
        "walk.mpg",
        ".hidden.txt",
        ".h/a.txt",
        ".h/a.heic",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a caption")
    expected = {
        "heic.HEIC": "heic.HEIC: .HEIC files are not read. Convert it to a picture (.bmp .jpeg ",
        "c.avif": "b/c.avif: .avif files are not read. Convert it to",
        "walk.mpg": "walk.mpg: .mpg files are not read. Convert it to",
        "orphan.txt": "b/orphan.txt: a caption of nothing. Put a picture (.bmp .jpeg ",
    }
    found = survey(folder)
    assert found.count == 3 and "left out: 4" in found.summary()
    assert main(["data", "check", str(folder), "--system", "vino-tiny"]) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith(", or remove it.")]
    task = {"weight": 1, "path": str(folder)}
    by_task = check_config(data_config(folder, {"t2i": task, "t2v": task}))
    of_config = [problem for finding in by_task for problem in finding.problems if "no examples of t2v" not in problem]
    for problems in (list(found.problems), told, of_config):
        assert len(problems) == 4, problems
        for problem, words in zip(sorted(problems), sorted(expected.values()), strict=True):
            assert problem.strip().startswith(words)


def test_usable_ones_are_found_among_the_others(folder: Path) -> None:
    (folder / "cat.txt").unlink()
    found = survey(folder)
    assert found.rows == {"t2i": (0, 2)} and found.count == 2
    assert "2 examples: 2 t2i" in found.summary() and "from 32x32 to 64x48" in found.summary()
    assert "left out: 1" in found.summary()
    chosen = Chosen(folder_sources(folder)["t2i"], found.rows["t2i"])
    assert [chosen.example(index).id for index in range(chosen.count)] == ["b/Dog.JPG", "owl.webp"]


def test_every_change_shows_in_the_stamp(folder: Path) -> None:
    before = survey(folder).stamp
    assert survey(folder).stamp == before
    (folder / "cat.txt").write_text("another caption")
    after = survey(folder).stamp
    assert after != before
    shutil.copy(folder / "cat.png", folder / "new.png")
    (folder / "new.txt").write_text("new")
    assert survey(folder).stamp not in (before, after)


def test_a_manifest_brings_every_task(folder: Path) -> None:
    rows = [
        {"index": 1, "task": "t2i", "caption": "a cat", "target_path": "cat.png"},
        {"index": 2, "task": "ti2i", "caption": "A dog.", "ref_image_paths": ["cat.png"], "target_path": "b/Dog.JPG"},
        {"index": 3, "task": "ti2i", "caption": "Gone.", "ref_image_paths": ["gone.png"], "target_path": "cat.png"},
    ]
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = survey(folder)
    assert found.rows == {"t2i": (0,), "ti2i": (0,)}
    assert len(found.problems) == 1 and "gone.png" in found.problems[0]


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="no pictures or clips in it"):
        survey(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        survey(tmp_path / "nowhere")
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(InputError, match="has no rows"):
        survey(tmp_path)


def test_runs_and_checks_read_such_a_folder_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_config(folder)
    assert training_sources(config)["t2i"].count == 3
    with pytest.raises(InputError, match="ti2i has references"):
        training_sources(tmp_config(folder, "ti2i"))
    with pytest.raises(InputError, match="one caption; data.tasks.t2i.captions asks for long ones"):
        training_sources(data_config(folder, {"t2i": {"weight": 1, "path": str(folder), "captions": "long"}}))
    assert main(["data", "check", str(folder), "--system", "vino-tiny"]) == 0
    assert "3 examples, nothing wrong" in capsys.readouterr().out


def tmp_config(folder: Path, task: str = "t2i") -> RunConfig:
    return data_config(folder, {task: {"weight": 1, "path": str(folder)}})
