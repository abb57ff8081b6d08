"""The ablation runner: what its variants change, stopping and going on, and the page it writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from paths import ROOT
from training_runs import FRESH, one_thread  # noqa: F401

from vino_core.checkpoints.files import load_mmdit, model_metadata, save_tokens
from vino_core.checkpoints.header import TensorInfo
from vino_core.checkpoints.writing import Plan, write_safetensors
from vino_core.encoder.transformers_engine import TransformersEngine, load_engine
from vino_core.errors import InputError
from vino_core.mmdit.packing import positions
from vino_core.systems import SYSTEMS
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.training import parts
from vino_core.training.config import Fresh
from vino_core.training.metrics import read_record
from vino_core.training.parts import fresh_config, fresh_mmdit, fresh_tokens
from vino_core.training.typed import build

sys.path.insert(0, str(ROOT / "tools"))

from ablations import main  # noqa: E402
from studies import definition, running  # noqa: E402
from studies.definition import STUDIES, Exam, variants  # noqa: E402
from studies.measures import norm_variance, value_of  # noqa: E402
from studies.report import write_report  # noqa: E402
from studies.running import Clock, OutOfTime, Place, run_sweep, run_variants, stage_config  # noqa: E402
from studies.unbounded import UNBOUNDED, registered  # noqa: E402

TINY = ROOT / "models/vino-tiny"
STEPS = (1, 1, 3)


def write_model(path: Path, system: Any) -> Path:
    """A random model of a few thousand weights."""
    model = fresh_mmdit(fresh_config(build(Fresh, FRESH), system, 128), system, 0)
    state = model.state_dict()
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    metadata = {**model_metadata(system.name, model.config), "stage": "0"}
    write_safetensors([Plan(path, infos, lambda name: [state[name]], metadata)])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The shipped configs with few small examples of two tasks, straight from the toy world."""
    folder = tmp_path_factory.mktemp("ablations")
    for number in (1, 2, 3):
        values = yaml.safe_load((ROOT / f"configs/tiny_stage{number}.yaml").read_text())
        values["files"].update(text_encoder=str(TINY / "text_encoder.safetensors"), vae=str(TINY / "vae.safetensors"))
        values["parallel"].update(dtype="float32", device="cpu")
        values["data"].update(batch=2, workers=0)
        names = list(values["data"]["tasks"])
        values["data"]["tasks"] = {
            name: {"weight": float(name in ("t2i", "ti2i")), "source": "toy", "frames": 5} for name in names
        }
        (folder / f"tiny_stage{number}.yaml").write_text(yaml.safe_dump(values))
    base = write_model(folder / "base.safetensors", VINO_TINY)
    return Place(folder / "runs", base, folder, count=1)


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder is frozen and takes longest to load: once for all runs."""
    for module in (parts, running):
        monkeypatch.setattr(module, "load_engine", _engine)


@cache
def _engine(*arguments: Any) -> TransformersEngine:
    return load_engine(*arguments)


class Interrupted(Clock):
    """Over when it was asked for the n-th time."""

    def __init__(self, n: int) -> None:
        super().__init__(None)
        self.left = n

    @property
    def is_over(self) -> bool:
        self.left -= 1
        return self.left < 0


def quiet(line: str) -> None:
    pass


def test_every_variant_is_a_valid_change_of_the_shipped_configs(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base.safetensors", VINO_TINY)
    place = Place(tmp_path, base, ROOT / "configs")
    found = {}
    with registered():
        for variant in variants().values():
            before = None
            for stage in variant.stages:
                before = found[variant.name, stage.number] = stage_config(place, variant, stage, 1, before)
    full = found["full", 3]
    assert full.steps == 600 and full.seed == 1
    assert full.files.model.endswith("full/seed1/stage2/export/model.safetensors")
    assert {run.steps for (name, number), run in found.items() if number == 3} == {600, 1000}
    assert found["stage3_alone", 3].files.model == str(base) and found["stage3_alone", 3].tokens == 8
    assert all(found["no_tokens", number].tokens == 0 for number in (1, 2, 3))
    assert "tokens" not in found["no_tokens", 3].train and found["no_tokens", 3].files.tokens is None
    for name in ("long", "short"):
        paths = [found[name, number].data.tasks["t2i"].path for number in (1, 2, 3)]
        assert paths == [f"data/toy-{name}/t2i"] * 2 + ["data/toy/t2i"]
    same = replace(found["no_boundaries", 2], system=VINO_TINY.name, files=found["full", 2].files)
    assert same.identity() == found["full", 2].identity(), "only the system differs"
    assert {name for study in STUDIES.values() for name in study.variants} == set(variants())
    assert UNBOUNDED.name not in SYSTEMS


def test_without_boundaries_times_go_on(tmp_path: Path) -> None:
    layout = UNBOUNDED.layout([(1, 2, 2), (3, 2, 2)], (2, 2, 2))
    assert {segment.kind for segment in layout.segments} == {"reference", "target"}
    assert positions(layout)[::4, 0].tolist() == [0, 1, 2, 3, 4, 5]
    place = Place(tmp_path / "runs", write_model(tmp_path / "base.safetensors", VINO_TINY), tmp_path)
    with registered():
        model, name = load_mmdit(running.base_of(place, variants()["no_boundaries"]))
    assert name == UNBOUNDED.name and [one.name for one in model.config.connectors] == ["connector"]
    whole = load_mmdit(place.base)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_it_stops_goes_on_and_reports(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    where = replace(place, out=place.out / "pieces")
    monkeypatch.setattr(definition, "_MIXTURE", {"t2i": 1.0, "ti2i": 1.0, "t2v": 0})
    chosen = [replace(variants(STEPS)[name], exams=("ti2i",)) for name in ("full", "no_tokens", "no_boundaries")]
    pieces = 0
    while True:
        pieces += 1
        assert pieces < 12
        try:
            run_variants(where, chosen[:1], (0,), Interrupted(2), quiet)
            break
        except OutOfTime:
            continue
    assert pieces > 2
    run_variants(where, chosen[1:], (0,), Clock(None), quiet)
    again = replace(where, out=where.out.with_name("at_once"))
    run_variants(again, chosen[:1], (0,), Clock(None), quiet)
    pieced, whole = (read_record(each.folder("full", 0) / "stage3") for each in (where, again))
    assert len(whole) == 3 and pieced == whole
    asked: list[str] = []
    run_variants(where, chosen, (0,), Clock(0), asked.append)
    assert not asked, "nothing is left to do"
    with pytest.raises(InputError, match="other settings .*steps"):
        run_variants(where, [variants((2, 1, 3))["full"]], (0,), Clock(None), quiet)

    written = write_report(where.out, where.out / "docs")
    page = (where.out / "docs/ablations.md").read_text()
    assert "With and without learnable tokens" in page and "long captions" not in page and "(n=1)" in page
    assert (where.out / "docs/ablations/tokens.png") in written
    value = norm_variance(where.folder("no_tokens", 0))
    results = json.loads((where.out / "results.json").read_text())["tokens"]
    if value is not None:
        assert results["gradient-norm variance"]["no_tokens"]["0"] == value
    assert set(results["loss at the end"]) == {"full", "no_tokens"}


def test_the_sweep_and_its_plot(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = replace(place, out=tmp_path / "sweep")
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "model.safetensors").write_bytes(where.base.read_bytes())
    save_tokens(trained / "tokens.safetensors", fresh_tokens(4, 128, 0), VINO_TINY.name)
    for name in ("text_encoder", "vae"):
        (trained / f"{name}.safetensors").symlink_to(TINY / f"{name}.safetensors")
    few = replace(definition.SWEEP, scales=(1.0, 3.0), exam=Exam("ti2i", "ti2i", 1))
    monkeypatch.setattr(running, "SWEEP", few)
    run_sweep(where, trained, (0,), Clock(None), quiet)
    reports = [json.loads(path.read_text()) for path in sorted((where.folder(few.name, 0) / "exams").glob("*.json"))]
    assert [report["settings"]["image_scale"] for report in reports] == [1.0, 3.0]
    assert main(["plot", "--out", str(where.out), "--docs", str(tmp_path / "docs")]) == 0
    assert "| 3 | " in (tmp_path / "docs/ablations.md").read_text()


def test_without_results_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--out", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]) == 1
    assert "no study has a result" in capsys.readouterr().err and not (tmp_path / "docs").exists()


def test_values_of_kinds_are_weighted_by_their_examples() -> None:
    kinds = {"a": {"passed": {"value": 1.0, "count": 1}}, "b": {"passed": {"value": 0.0, "count": 3}}, "c": {}}
    report = {"tasks": {"ti2i": {"passed": {"value": 0.5, "count": 9}, "kinds": kinds}}}
    assert value_of(report, "passed") == 0.5 and value_of(report, "passed", ("a", "b", "c", "d")) == 0.25
    assert value_of(report, "passed", ("c",)) is None
