"""Latents by Ray Data equal those of one process; without Ray the command says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from data_files import data_config, pictures_folder
from training_runs import frozen

from vino_core.errors import InputError
from vino_core.training.data.encode import encode, jobs, single
from vino_core.training.data.ray_engine import on_ray


def test_without_ray_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install 'vino.ray.', or use --engine single"):
        on_ray("cpu")


def test_a_cluster_makes_the_same_files(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    frozen()[1].module.save_pretrained(tmp_path / "vae")
    path = pictures_folder(tmp_path / "data", 9)
    (tmp_path / "data" / "4.png").write_bytes(b"no picture")

    def run(name: str) -> object:
        task = {"weight": 1, "path": str(path), "frames": 1, "latents": str(tmp_path / name)}
        config = data_config(tmp_path, {"t2i": task})
        object.__setattr__(config.files, "vae", str(tmp_path / "vae"))
        return jobs(config)[0]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        many = encode(run("many"), on_ray("cpu"))
        with pytest.raises(InputError, match="a worker failed: .*no checkpoint|a worker failed: .*vae"):
            (tmp_path / "vae" / "config.json").write_text('{"_class_name": "Other"}')
            encode(run("broken"), on_ray("cpu"))
    finally:
        ray.shutdown()
    assert sorted(many.skipped) == [4] and many.made == 1
    frozen()[1].module.save_pretrained(tmp_path / "vae")
    one = encode(run("one"), single("cpu"))
    files = [sorted(outcome.folder.iterdir()) for outcome in (many, one)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
