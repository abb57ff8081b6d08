"""From the commands to a run: examples written, encoded, trained on; losses are those of a run that encodes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_files import AverageVAE, pictures_folder
from training_runs import config, frozen, one_thread, train

from vino_core.cli import main
from vino_core.training.config import RunConfig
from vino_core.training.data import encode as encoding
from vino_core.training.data.encode import encode, jobs, single
from vino_core.training.sources import training_sources

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
    assert "3 examples, 1 skipped, 1 pieces made" in told and "skipped t2i 1: " in told and "1.png" in told
    assert main([*command, "--adopt"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*command, "--tasks", "t2v"]) == 1
    assert "--tasks t2v: not among the folders and shards" in capsys.readouterr().err
