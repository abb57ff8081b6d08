"""`vino generate`: flags that mean nothing to what is asked for are refused, and what a resumed question compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paths import GOLDENS
from tiny_files import write_tiny_files

from vino_core.cli import main
from vino_core.encoder.transformers_engine import TransformersEngine

PICTURE = str(GOLDENS / "media" / "img_a.png")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    written = write_tiny_files(tmp_path_factory.mktemp("weights"))
    return [str(word) for option, path in written.items() for word in (option, path)]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("load_text_encoder", "load_pipeline"):
        monkeypatch.setattr(f"vino_core.commands.generate.{name}", lambda *_: pytest.fail("weights are loaded"))


def generate(files: list[str], out: Path, *words: object) -> int:
    words = ("--out", out, "--dtype", "float32", "--device", "cpu", "--area", 3072, *words)
    return main(["generate", *files, *map(str, words)])


def listed(folder: Path, *rows: dict[str, object]) -> tuple[str, Path]:
    (folder / "list.json").write_text(json.dumps(rows))
    return "--tasks", folder / "list.json"


ASK = {"index": "ask", "task": "understanding", "caption": "What is it?", "ref_image_paths": [PICTURE]}


@pytest.mark.parametrize(
    "flag",
    [("--base-image",), ("--width", 64), ("--height", 48), ("--text-scale", 5), ("--image-scale", 0), ("--shift", 7),
     ("--steps", 0), ("--negative", ""), ("--seed", 0), ("--posterior", "sample"), ("--tags",)],
    ids=lambda flag: flag[0],
)  # fmt: skip
def test_what_means_nothing_to_a_question_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, unloaded: None, flag: tuple[object, ...]
) -> None:
    words = ("--preset", "understanding", "--prompt", "What is red?", "--image", PICTURE)
    assert generate(files, tmp_path / "out", *words, *flag) == 1
    assert f"{flag[0]}: not for a question, which the text encoder answers alone" in capsys.readouterr().err


def test_nor_is_it_taken_with_a_list_of_questions(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, unloaded: None
) -> None:
    assert generate(files, tmp_path / "out", *listed(tmp_path, ASK), "--steps", 2, "--seed", 0) == 1
    assert "--steps, --seed: not for a question" in capsys.readouterr().err


def test_a_resumed_question_compares_what_can_change_its_answer(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the settings of other rows, nor files that it does not need."""
    monkeypatch.setattr(TransformersEngine, "generate", lambda *_: "a fox")
    words = listed(tmp_path, ASK, {**ASK, "index": "edit", "task": "ti2i", "ref_image_paths": ["nowhere.png"]})
    out = tmp_path / "out"
    for seed, failed in ((1, "1 of 2 failed: edit"), (2, "1 of 1 failed: edit")):
        assert generate(files, out, *words, "--seed", seed) == 1
        assert failed in capsys.readouterr().err
    asked = json.loads((out / "ask.json").read_text())["asked"]
    assert set(asked) == {"frames", "area", "dtype", "preset", "prompt", "images", "videos", "model", "text_encoder"}
    assert generate(files, out, *words, "--area", 4096) == 1
    assert "ask.json exists with other settings (area)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flags"),
    [(("--image", "nowhere.png", "--base-image"), "--image, --base-image"), (("--video", "nowhere.mp4"), "--video")],
)
def test_a_task_list_names_its_own_references(
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    unloaded: None,
    words: tuple[object, ...],
    flags: str,
) -> None:
    row = {"index": "new", "task": "t2i", "caption": "x"}
    assert generate(files, tmp_path / "out", *listed(tmp_path, row), *words) == 1
    assert f"{flags}: of one request only. In a task list each row says it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
