"""From the commands to a run: examples written, encoded, trained on; losses are those of a run that encodes itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_files import AverageVAE, pictures_folder
from training_runs import config, frozen, one_thread, train

from vino_core.cli import main
from vino_core.training.config import RunConfig, load_config
from vino_core.training.data import encode as encoding
from vino_core.training.data.encode import encode, jobs, single
from vino_core.training.data.opening import stored_source
from vino_core.training.sources import training_sources

ROOT = Path(__file__).resolve().parents[1]
__all__ = ["one_thread"]


def test_losses_equal_those_of_a_run_that_asks_the_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AverageVAE, "load", lambda *arguments: frozen()[1])
    monkeypatch.setattr(encoding, "VAE", AverageVAE)
    (tmp_path / "vae.bin").write_bytes(b"the VAE of the tests")
    for task in ("ti2i", "tiv2v"):
        assert (
            main(["data", "toy", str(tmp_path), "--task", task, "--count", "4", "--size", "48", "--frames", "5"]) == 0
        )

    def run(name: str, latents: bool) -> RunConfig:
        tasks: dict[str, Any] = {
            task: {"weight": 1, "source": "shards", "path": str(tmp_path / task), "latents": latents}
            for task in ("ti2i", "tiv2v")
        }
        files = {"text_encoder": "-", "vae": str(tmp_path / "vae.bin")}
        return config(tmp_path / name, steps=3, files=files, data={"tasks": tasks, "batch": 2, "dropout": 0.3})

    ready, plain = run("ready", True), run("plain", False)
    for job in jobs(ready):
        encode(job, single("cpu"))
    losses = [
        [row["loss"] for row in train(one, given=training_sources(one))]  # type: ignore[arg-type]
        for one in (ready, plain)
    ]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_command_encodes_what_its_config_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoding, "VAE", AverageVAE)
    (tmp_path / "vae.bin").write_bytes(b"a VAE")
    pictures_folder(tmp_path / "data", 3)
    (tmp_path / "data" / "1.png").write_bytes(b"broken")
    values = {
        "out": str(tmp_path / "run"), "stage": None, "steps": 1, "train": ["mmdit"], "optimizer": {"learning_rate": 1},
        "files": {"text_encoder": "-", "vae": str(tmp_path / "vae.bin"), "model": "-"}, "flow": {"shift": 1},
        "data": {"area": 4096, "tasks": {"t2i": {"weight": 1, "path": str(tmp_path / "data"), "latents": True}}},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    command = ["data", "encode", str(tmp_path / "run.yaml"), "--device", "cpu"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "3 examples, 1 skipped, 1 piece made" in told and "skipped t2i 1: " in told and "1.png" in told
    assert main([*command, "--adopt"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*command, "--tasks", "t2v"]) == 1
    assert "--tasks t2v: not among the folders and shards" in capsys.readouterr().err


def test_the_first_run_of_the_page_has_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands up to the two that need the networks, with fewer examples; those find what they name."""
    page = (ROOT / "docs" / "training.md").read_text()
    recipe = page.partition("## A first run")[2].partition("```\n")[2].partition("```")[0]
    lines = [line.partition("#")[0].split() for line in recipe.splitlines()]
    assert [line[:2] for line in lines] == [
        ["pip", "install"], *(["vino", "data"] for _ in range(4)), ["vino", "train"]
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for line in lines[1:4]:
        assert main([re.sub(r"^(64|8)$", "2", word) for word in line[1:]]) == 0
    (shared,) = {line[-1] for line in lines[4:]}
    run = load_config(ROOT / shared)
    for name, task in run.data.tasks.items():
        assert task.latents and len(stored_source(run, name, task.path)) == 2
        assert len(stored_source(run, name, task.validation)) == 2
    assert run.watch.validate and all((ROOT / file).is_file() for file in vars(run.files).values() if file)


@pytest.mark.parametrize("name", [f"{system}_stage{stage}" for system in ("vino", "vogue") for stage in (1, 2, 3)])
def test_the_large_stages_watch_the_loss_of_each_task_on_held_out_examples(name: str) -> None:
    run = load_config(ROOT / "configs" / f"{name}.yaml")
    assert run.watch.validate > 0 and run.watch.validation_examples > 0
    tasks = run.data.tasks.values()
    assert all(task.validation not in (None, *(other.path for other in tasks)) for task in tasks)


def test_the_pages_example_of_validation_is_a_config(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    shown = yaml.safe_load(page.partition("**Validation**")[2].partition("```yaml\n")[2].partition("```")[0])
    values = yaml.safe_load((ROOT / "configs" / "lora_finetune.yaml").read_text())
    merged = {**values, **{group: {**values[group], **settings} for group, settings in shown.items()}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(merged))
    run = load_config(tmp_path / "run.yaml")
    assert run.watch.validate and run.data.tasks["t2i"].validation == "data/lora_heldout"
