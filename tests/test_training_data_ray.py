"""Latents by Ray Data equal those of one process; without Ray the command says what to install."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import tempfile
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bootstrap
import numpy as np
import pytest
import torch
from data_files import data_config, pictures_folder
from safetensors.torch import load_file
from training_runs import frozen

from vino_core.errors import InputError
from vino_core.training.data import latents
from vino_core.training.data.encode import Job, Outcome, encode, jobs, single
from vino_core.training.data.latents import INDEX
from vino_core.training.data.ray_engine import on_ray

ROOT = Path(__file__).resolve().parents[1]
MISSING = os.environ.get("VINO_SKIP_RAY") or (None if importlib.util.find_spec("ray") else "Ray is not installed")


def job(folder: Path, name: str) -> Job:
    """Nine pictures, one of them broken, and the weights of a small VAE; latents go to the folder `name`."""
    if not (folder / "data").exists():
        frozen()[1].module.save_pretrained(folder / "vae")
        pictures_folder(folder / "data", 9)
        (folder / "data" / "4.png").write_bytes(b"no picture")
    task = {"weight": 1, "path": str(folder / "data"), "frames": 1, "latents": str(folder / name)}
    config = data_config(folder, {"t2i": task})
    object.__setattr__(config.files, "vae", str(folder / "vae"))
    return jobs(config)[0]


def assert_same(one: Outcome, other: Outcome, bits: bool = True) -> None:
    """Ray's workers compute with one thread each, so that sums may be rounded otherwise than here."""
    files = [sorted(outcome.folder.glob("*.safetensors")) for outcome in (one, other)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for path, same in zip(*files, strict=True):
        made, expected = load_file(path), load_file(same)
        assert sorted(made) == sorted(expected)
        for name, tensor in made.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0 if bits else 1e-5)
    assert (one.folder / INDEX).read_bytes() == (other.folder / INDEX).read_bytes()
    assert one.skipped == other.skipped and list(one.skipped) == [4]


class Dataset:
    """What the engine uses of Ray Data's, in this process; what Ray would send to others can be pickled."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = rows

    def map_batches(self, worker: type, fn_constructor_args: tuple[Any, ...], **options: Any) -> Dataset:
        assert options["batch_size"] == 1
        assert pickle.dumps((worker, fn_constructor_args))

        def work() -> Iterator[dict[str, Any]]:
            instance = worker(*deepcopy(fn_constructor_args))
            for row in reversed(list(self.rows)):  # in no promised order
                try:
                    batch = instance({"number": np.array([row["number"]])})
                except InputError as error:
                    raise RayError("traceback\nof the worker") from error
                yield {name: values[0] for name, values in batch.items()}

        return Dataset(work())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class RayError(Exception):
    pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, data = ModuleType("ray"), ModuleType("ray.data")
    data.__dict__.update(
        from_items=lambda rows, override_num_blocks: Dataset(rows),
        ActorPoolStrategy=lambda size: size,
        DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace()),
    )
    ray.__dict__.update(
        data=data,
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 2.0},
        exceptions=SimpleNamespace(RayError=RayError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)


def test_without_ray_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install 'vino.ray.', or use --engine single"):
        on_ray("cpu")


def test_pieces_in_any_order_make_the_same_cache(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_PIECE_BYTES", 4 * 4 * 16 * 64)
    many, one = encode(job(tmp_path, "many"), on_ray("cpu")), encode(job(tmp_path, "one"), single("cpu"))
    assert many.made == one.made == 3
    assert_same(many, one)
    assert encode(job(tmp_path, "many"), on_ray("cpu")).made == 0


def test_what_stops_a_worker_is_said(tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = job(tmp_path, "broken")
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "Other"}')
    latents.vae_fingerprint.cache_clear()
    with pytest.raises(InputError, match="--engine ray: a worker failed: .*config.json"):
        encode(broken, on_ray("cpu"))


@pytest.mark.parametrize("error", [ConnectionError("timeout"), SystemExit(15)])
def test_a_cluster_that_does_not_answer_is_said(
    error: BaseException, tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    ray = sys.modules["ray"]
    ray.__dict__.update(is_initialized=lambda: False, init=init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match=r"no cluster at RAY_ADDRESS=10.0.0.1:6379 .* or use --engine single"):
        encode(job(tmp_path, "many"), on_ray("cpu"))
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(InputError, match="--engine ray: Ray does not start"):
        encode(job(tmp_path, "many"), on_ray("cpu"))


def test_the_optional_extras_of_make_test_give_their_reason_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = (ROOT / "Makefile").read_text()
    assert "ray" in bootstrap.OPTIONAL
    for name in bootstrap.OPTIONAL:
        for words in (f"bootstrap.py {name})", f'VINO_SKIP_{name.upper()}="$${name}"', f"skipped: $${name}"):
            assert words in recipe, words
    commands: list[tuple[str, ...]] = []

    def refused(*command: object) -> None:
        commands.append(tuple(map(str, command)))
        raise bootstrap.SetupError("there is no ray for this python")

    monkeypatch.setattr(bootstrap, "VENV_PYTHON", sys.executable)
    monkeypatch.setattr(bootstrap, "run", refused)
    monkeypatch.setitem(bootstrap.OPTIONAL_EXTRAS, "ray", ("json",))
    assert bootstrap.prepare_ray() is None and not commands
    monkeypatch.setitem(bootstrap.OPTIONAL_EXTRAS, "ray", ("json", "no_such_module"))
    assert bootstrap.prepare_ray() == "there is no ray for this python"
    assert commands[0][-1].endswith("[ray]")


@pytest.fixture
def cluster() -> Iterator[None]:
    """A small one on this machine, whose files go with it. A machine that is busy may not get it up in Ray's own time;
    that says nothing of what is tested."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as place:
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place)
        except Exception as error:
            ray.shutdown()
            pytest.skip(f"a Ray cluster does not start here: {error}")
        yield
        ray.shutdown()


@pytest.mark.skipif(MISSING is not None, reason=f"a Ray cluster: {MISSING}")
def test_a_cluster_makes_the_same_files(tmp_path: Path, cluster: None) -> None:
    many = encode(job(tmp_path, "many"), on_ray("cpu"))
    assert_same(many, encode(job(tmp_path, "one"), single("cpu")), bits=False)
