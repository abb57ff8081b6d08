"""`vino train` from files to files: the three stages in a row, then pictures from the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_files import write_tiny_files
from training_runs import Numbers, one_thread  # noqa: F401

from vino_core.checkpoints.files import load_mmdit, load_tokens, read_metadata
from vino_core.cli import main
from vino_core.training import sources

TRAIN = {1: ["connectors", "tokens"], 2: ["connectors", "tokens", "mmdit"], 3: ["connectors", "tokens", "mmdit"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tiny_files(tmp_path_factory.mktemp("weights"))


def write_config(folder: Path, stage: int, files: dict[str, Path], before: Path | None) -> Path:
    found = {"text_encoder": str(files["--text-encoder"]), "vae": str(files["--vae"])}
    found["model"] = str(before / "export/model.safetensors" if before else files["--model"])
    found["tokens"] = str(before / "export/tokens.safetensors" if before else files["--tokens"])
    values = {
        "stage": stage,
        "out": str(folder / f"stage{stage}"),
        "steps": 2,
        "train": TRAIN[stage],
        "files": found,
        "optimizer": {"learning_rate": 1e-3},
        "flow": {"shift": 3},
        "data": {
            "area": 1024,
            "tasks": {"t2i": {"weight": 1, "source": "toy"}, "ti2i": {"weight": 1, "source": "toy"}},
        },
        "parallel": {"dtype": "float32", "device": "cpu"},
        "watch": {"progress": False, "peak_tflops": 1.0},
    }
    path = folder / f"stage{stage}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(autouse=True)
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "training_sources", lambda run: {name: Numbers(name) for name in run.data.tasks})


def test_three_stages_and_a_picture(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = None
    for stage in TRAIN:
        path = write_config(tmp_path, stage, files, before)
        assert main(["train", str(path)]) == 0, capsys.readouterr().err
        before = tmp_path / f"stage{stage}"
        assert read_metadata(before / "export/model.safetensors")["stage"] == str(stage)
    start, _ = load_mmdit(files["--model"])
    first, _ = load_mmdit(tmp_path / "stage1/export/model.safetensors")
    last, _ = load_mmdit(before / "export/model.safetensors")
    name = "double_blocks.0.img_attn.qkv.weight"
    assert (start.get_parameter(name) == first.get_parameter(name)).all()
    assert (start.get_parameter(name) != last.get_parameter(name)).any()
    assert (load_tokens(files["--tokens"]) != load_tokens(before / "export/tokens.safetensors")).any()

    made = {**files, "--model": before / "export/model.safetensors", "--tokens": before / "export/tokens.safetensors"}
    words = [str(word) for pair in made.items() for word in pair]
    words += ["--prompt", "a fox", "--width", "32", "--height", "32", "--steps", "2", "--dtype", "float32"]
    assert main(["generate", *words, "--device", "cpu", "--seed", "1", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1

    assert main(["train", str(path), "--set", "steps=3"]) == 0
    assert "on from step 2, 3 steps" in capsys.readouterr().out


def test_stages_out_of_order_are_refused(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    path = write_config(tmp_path, 2, files, None)
    assert main(["train", str(path)]) == 1
    assert "stage 2 starts from the result of stage 1" in capsys.readouterr().err


def test_check_loads_everything_and_trains_nothing(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    path = write_config(tmp_path, 1, files, None)
    assert main(["train", str(path), "--check"]) == 0
    told = capsys.readouterr().out
    assert "t2i: t2i-" in told and ", 32 x 32, 1 frames, 0 pictures and 0 clips as references" in told
    assert "ti2i: ti2i-" in told and "1 pictures and 0 clips" in told
    assert not (tmp_path / "stage1" / "losses.jsonl").exists()
    assert main(["train", str(path), "--check", "--set", "files.text_encoder=nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    preview = "watch.previews=[{prompt: a fox, width: 33, height: 32}]"
    assert main(["train", str(path), "--check", "--set", preview]) == 1
    assert "watch.previews[0]: Size 33 x 32" in capsys.readouterr().err


def test_check_prepares_an_example_of_each_task(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = write_config(tmp_path, 1, files, None)
    broken = {"t2i": Numbers("t2i"), "ti2i": Numbers("ti2i", length=3, bad=(0, 1, 2))}
    with monkeypatch.context() as patch:
        patch.setattr(sources, "training_sources", lambda run: broken)
        assert main(["train", str(path), "--check"]) == 1
    told = capsys.readouterr()
    assert "t2i: t2i-" in told.out
    assert "data.tasks.ti2i: 50 examples in a row cannot be used, the last because: ti2i-" in told.err

    held_out = {"t2i": Numbers("t2i", bad=(0,))}
    monkeypatch.setattr(sources, "validation_sources", lambda run: held_out)
    assert main(["train", str(path), "--check"]) == 0
    assert "t2i, held out: t2i-1\n" in capsys.readouterr().out
    held_out["t2i"] = Numbers("t2i", length=2, bad=(0, 1))
    assert main(["train", str(path), "--check"]) == 1
    assert "data.tasks.t2i.validation: none of 2 examples can be used, the last" in capsys.readouterr().err
