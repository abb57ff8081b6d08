"""The ablation runner: what its variants change, stopping and going on, and the page it writes, for both systems."""

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
from training_runs import FRESH, Numbers, config, one_thread, parts, tasks  # noqa: F401

from vino_core.checkpoints.files import load_mmdit, model_metadata, read_metadata, save_tokens
from vino_core.checkpoints.header import TensorInfo
from vino_core.checkpoints.writing import Plan, write_safetensors
from vino_core.encoder.transformers_engine import TransformersEngine, load_engine
from vino_core.errors import InputError
from vino_core.mmdit.packing import positions
from vino_core.pipeline import Pipeline
from vino_core.request import Request
from vino_core.sampling.guidance import Branch
from vino_core.systems import SYSTEMS
from vino_core.systems.base import System
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.batches import generate_batch
from vino_core.training import parts as training_parts
from vino_core.training.conditioning import encode_samples
from vino_core.training.config import Fresh, RunConfig
from vino_core.training.dropout import Dropped
from vino_core.training.loop import build_network
from vino_core.training.metrics import read_record
from vino_core.training.parts import fresh_config, fresh_mmdit, fresh_tokens
from vino_core.training.prepare import prepare
from vino_core.training.typed import build

sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from ablations import main  # noqa: E402
from studies import report, running  # noqa: E402
from studies.courses import COURSES, NAMES  # noqa: E402
from studies.definition import Course, Exam, Variant  # noqa: E402
from studies.measures import held_out_loss, norm_variance, value_of  # noqa: E402
from studies.report import write_report  # noqa: E402
from studies.running import Clock, OutOfTime, Place, run_sweep, run_variants, stage_configs  # noqa: E402
from studies.systems import MMDIT_ALONE, UNBOUNDED, VLM_ALONE, as_system, registered  # noqa: E402
from studies.vino import VINO  # noqa: E402
from studies.vogue import VOGUE  # noqa: E402

from tools.tiny.vlm_model import fresh_model, qwen2_5_vl, save_text_encoder  # noqa: E402

TINY = ROOT / "models/vino-tiny"
STEPS = (1, 1, 3)


def write_model(path: Path, system: Any, stage: int = 0) -> Path:
    """A random model of a few thousand weights, as if it came out of that stage."""
    model = fresh_mmdit(fresh_config(build(Fresh, FRESH), system, 128), system, 0)
    state = model.state_dict()
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    metadata = {**model_metadata(system.name, model.config), "stage": str(stage)}
    write_safetensors([Plan(path, infos, lambda name: [state[name]], metadata)])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configs with few small examples, straight from the toy world, and small files to start from."""
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("ablations")
    tokenizer = Tokenizer.from_str(read_metadata(TINY / "text_encoder.safetensors")["tokenizer"])
    small = {**qwen2_5_vl(tokenizer), "num_hidden_layers": 1}
    save_text_encoder(fresh_model(small, 0), small, tokenizer, "vogue-tiny", folder / "vogue_encoder.safetensors")
    encoders = {VINO.config: TINY / "text_encoder.safetensors", VOGUE.config: folder / "vogue_encoder.safetensors"}
    for name, encoder in encoders.items():
        for number in (1, 2, 3):
            values = yaml.safe_load((ROOT / "configs" / name.format(number)).read_text())
            values["files"].update(text_encoder=str(encoder), vae=str(TINY / "vae.safetensors"))
            values["parallel"].update(dtype="float32", device="cpu")
            values["data"].update(batch=2, workers=0)
            values["data"]["tasks"] = {
                task: {"weight": float(task in ("t2i", "ti2i")), "source": "toy", "frames": 5 if "2v" in task else 1}
                for task in values["data"]["tasks"]
            }
            (folder / name.format(number)).write_text(yaml.safe_dump(values))
    write_model(base_of(VINO, folder), VINO_TINY)
    write_model(base_of(VOGUE, folder), VOGUE_TINY, 2)
    return folder


def base_of(course: Course, folder: Path) -> Path:
    return folder / f"{course.system.name}.safetensors"


def place_of(course: Course, folder: Path, **settings: Any) -> Place:
    """Runs of one step in stages 1 and 2, three in stage 3, of the files in the fixture's folder."""
    given = {"out": folder / "runs" / course.system.name, "steps": STEPS, "count": 1, **settings}
    few = ("watch.validation_examples=1",)
    return Place(course, configs=folder, base=base_of(course, folder), changes=few, **given)


def of_pictures(variant: Variant) -> Variant:
    """A variant of VINO's without clips in stage 3, tested on one task."""
    still = tuple(f"data.tasks.{name}.weight=0" for name in ("t2v", "i2v", "ti2v", "ti2i_baseimg"))
    stages = (replace(each, changes=(*each.changes, *still * (each.number == 3))) for each in variant.stages)
    return replace(variant, stages=tuple(stages), exams=("ti2i",))


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder is frozen and takes longest to load: once for all runs."""
    for module in (training_parts, running):
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


def all_configs(course: Course, tmp_path: Path) -> dict[tuple[str, int], RunConfig]:
    """Every stage of every variant, of the shipped configs, by variant and number."""
    place = Place(course, tmp_path, ROOT / "configs", tmp_path / "base.safetensors")
    with registered():
        return {
            (variant.name, run.stage): run for variant in course.variants for run in stage_configs(place, variant, 1)
        }


def drawn_tasks(run: RunConfig) -> set[str]:
    return {name for name, task in run.data.tasks.items() if task.weight > 0}


def test_every_variant_of_vino_is_a_valid_change_of_the_shipped_configs(tmp_path: Path) -> None:
    found = all_configs(VINO, tmp_path)
    full = found["full", 3]
    assert full.steps == 1400 and full.seed == 1
    assert full.files.model.endswith("full/seed1/stage2/export/model.safetensors")
    assert {run.steps for (name, number), run in found.items() if number == 3} == {1400, 2400}
    base = str(tmp_path / "base.safetensors")
    assert found["stage3_alone", 3].files.model == base and found["stage3_alone", 3].tokens == 8
    assert all(found["no_tokens", number].tokens == 0 for number in (1, 2, 3))
    assert "tokens" not in found["no_tokens", 3].train and found["no_tokens", 3].files.tokens is None
    for name in ("long", "short"):
        paths = [found[name, number].data.tasks["t2i"].path for number in (1, 2, 3)]
        assert paths == [f"data/toy-{name}/t2i"] * 2 + ["data/toy/t2i"]
    for name, first in (("no_boundaries", "full"), ("long", "pictures")):
        assert found[name, 1] == found[first, 1] and f"/{name}/seed1/stage2" in found[name, 2].out, "shared runs once"
    assert found["short", 1] != found["pictures", 1]
    for name in ("pictures", "long", "short", "stage3_alone"):
        drawn = {task for number in (1, 2, 3) if (run := found.get((name, number))) for task in drawn_tasks(run)}
        assert drawn <= {"t2i", "ti2i", "reconstruct_image", "select_image"}, "no clips"
    unmarked = found["no_boundaries", 2]
    assert unmarked.files.model.endswith("no_boundaries/seed1/start.safetensors")
    assert unmarked.files.tokens == found["full", 2].files.tokens
    same = replace(unmarked, system=VINO_TINY.name, files=found["full", 2].files)
    assert same.identity() == found["full", 2].identity(), "only the system differs"
    assert [found["full", number].watch.validate for number in (1, 2, 3)] == [0, 0, 1400]
    assert UNBOUNDED.name not in SYSTEMS


def test_every_variant_of_vogue_is_a_valid_change_of_the_shipped_configs(tmp_path: Path) -> None:
    found = all_configs(VOGUE, tmp_path)
    assert {number for _, number in found} == {3}, "stages 1 and 2 are those of the miniature itself"
    assert found["full", 3].files.model == str(tmp_path / "base.safetensors")
    for name, system in (("no_vlm_visuals", MMDIT_ALONE), ("no_mmdit_visuals", VLM_ALONE)):
        blind = found[name, 3]
        assert blind.files.model.endswith(f"{name}/seed1/start.safetensors") and blind.system == system.name
        assert replace(blind, system="vogue-tiny").identity() == found["full", 3].identity(), "only the system differs"
    trained = {one.name: drawn_tasks(found[one.name, 3]) for one in VOGUE.variants}
    assert trained["full"] == {"t2i", "ti2i", "ti2i_baseimg"} and trained["only_referred"] == {"ti2i_baseimg"}
    assert "tv2v" not in trained["zero_shot"] and {"ti2i", "tiv2v"} < trained["zero_shot"]
    assert trained["zero_shot"] - trained["no_pictures"] == {"ti2i"}
    assert trained["taught"] - trained["zero_shot"] == {"tv2v"}


def test_studies_name_what_there_is() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for course in COURSES:
        assert {name for study in course.studies for name in study.variants} == {one.name for one in course.variants}
        exams = {exam.name for exam in course.exams}
        assert all(set(variant.exams) <= exams for variant in course.variants)
        for study in course.studies:
            for measure in study.measures:
                takers = [name for name in study.variants if measure.exam in (None, *course.variant(name).exams)]
                assert len(takers) > 1, f"{study.name}: nothing to compare {measure.title} with"


def test_without_boundaries_times_go_on(tmp_path: Path) -> None:
    layout = UNBOUNDED.layout([(1, 2, 2), (3, 2, 2)], (2, 2, 2))
    assert {segment.kind for segment in layout.segments} == {"reference", "target"}
    assert positions(layout)[::4, 0].tolist() == [0, 1, 2, 3, 4, 5]
    base, copy = write_model(tmp_path / "base.safetensors", VINO_TINY), tmp_path / "copy.safetensors"
    as_system(base, copy, UNBOUNDED)
    with registered():
        model, name = load_mmdit(copy)
    assert name == UNBOUNDED.name and [one.name for one in model.config.connectors] == ["connector"]
    assert read_metadata(copy)["stage"] == "0"
    whole = load_mmdit(base)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole[name])


def blinded(system: System, blind: System) -> System:
    """A system that sees as little as `blind`."""
    return replace(system, packed=blind.packed, vision=replace(system.vision, shown=blind.vision.shown))


@pytest.mark.parametrize("task", ["i2v", "ti2i", "ti2i_baseimg", "ti2v", "tiv2v"])
def test_what_is_left_out_is_so_in_training_and_in_what_is_asked_for(tmp_path: Path, task: str) -> None:
    run = config(tmp_path, system="vogue", tokens=0, train=["connectors", "mmdit"], data={"tasks": tasks(task)})
    made = parts(run)
    network = build_network(run, made)
    example = Numbers(task).example(2)
    lengths, latents = {}, {}
    for name, blind in (("both", None), ("mmdit", MMDIT_ALONE), ("vlm", VLM_ALONE)):
        system = made.system if blind is None else blinded(made.system, blind)
        network.system = system
        sample = prepare(example, Dropped(), run.data, system)
        (group,) = encode_samples(made.engine, made.vae, system, [sample], "cpu")
        frames, height, width, _ = sample.target.shape
        request = Request(
            example.prompt, width, height, frames, "", 2.0, 3.0, 1, sample.references, 1.0,
            base_image=example.base_image, task=system.trained_as(task, len(example.images)),
        )  # fmt: skip
        pipeline = Pipeline(system, made.engine, None, made.mmdit, made.vae)
        with torch.no_grad():
            ours, theirs = network.conditioning(group), pipeline.encode(request)[Branch.POSITIVE]
            results = pipeline.generate(request), *generate_batch(pipeline, [request])
        assert (ours.text - theirs.text).abs().max() < 1e-4
        assert list(map(len, (ours.references, ours.conditions))) == list(
            map(len, (theirs.references, theirs.conditions))
        )
        assert all(tuple(result.shape) == tuple(sample.target.shape) for result in results)
        assert (results[0].float() - results[1].float()).abs().max() <= 1
        lengths[name] = ours.text.shape[1]
        latents[name] = len(ours.references) + len(ours.conditions), group.target.shape[2]
    alone = prepare(example, Dropped(images=True, videos=True), run.data, made.system)
    (group,) = encode_samples(made.engine, made.vae, made.system, [alone], "cpu")
    assert lengths["mmdit"] == network.conditioning(group).text.shape[1] < lengths["both"] == lengths["vlm"]
    assert latents["mmdit"] == latents["both"] and latents["vlm"] == (0, group.target.shape[2] + (task == "i2v"))


def test_vogue_goes_on_from_its_stage_2_and_reports(folder: Path) -> None:
    place = place_of(VOGUE, folder)
    names = ("no_mmdit_visuals", "no_vlm_visuals", "full", "only_referred")
    chosen = [replace(VOGUE.variant(name), exams=("ti2i_baseimg",)) for name in names]
    said: list[str] = []
    run_variants(place, chosen, (0,), Clock(None), said.append)
    trained = [line.split(":")[0].removeprefix(f"{place.out}/") for line in said if "from step" in line]
    assert trained == [f"{name}/seed0/stage3" for name in names]
    start = read_metadata(place.folder("no_mmdit_visuals", 0) / "start.safetensors")
    assert start["system"] == VLM_ALONE.name and start["stage"] == "2"
    said.clear()
    run_variants(place, chosen, (0,), Clock(0), said.append)
    assert not said, "nothing is left to do"
    write_report(place.out.parent, folder / "docs")
    page = (folder / "docs/ablations.md").read_text()
    assert "## vogue-tiny" in page and "### Who sees the references" in page and "## vino-tiny" not in page
    assert "references to the MMDiT only | 3 (stage 3)" in page
    losses = {name: held_out_loss(["ti2i_baseimg"])(place.folder(name, 0)) for name in names}
    assert None not in losses.values() and losses["no_mmdit_visuals"] != losses["full"]
    found = json.loads((place.out.parent / "results.json").read_text())["visuals"]
    assert found["with a reference, held-out loss"]["full"]["0"] == losses["full"]
    assert "### One task against many" in page and "never taught" not in page


def test_measures_of_an_exam_are_of_those_that_take_it(tmp_path: Path) -> None:
    """Clip edits that were never taught: who had no edits of pictures is not asked for any."""
    for name in ("zero_shot", "no_pictures", "taught"):
        folder = tmp_path / "vogue-tiny" / name / "seed0"
        for place in ("stage3/export", "exams"):
            (folder / place).mkdir(parents=True)
        (folder / "stage3/export/model.safetensors").touch()
        for exam in VOGUE.variant(name).exams:
            rates = {"followed": {"value": 0.25, "count": 8}, "passed": {"value": 0.5, "count": 8}}
            task = {**rates, "kinds": {"move": rates}}
            (folder / f"exams/{exam}.json").write_text(json.dumps({"settings": {"count": 8}, "tasks": {exam: task}}))
    write_report(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs/ablations.md").read_text()
    assert "| edits of clips with references only | 25.0 (n=1) | 50.0 (n=1) | 25.0 (n=1) |" in page
    assert "| no edits of pictures in words | 25.0 (n=1) | 50.0 (n=1) | - |" in page
    assert "| edits of clips in words too | 25.0 (n=1) | 50.0 (n=1) | 25.0 (n=1) |" in page


def test_one_base_is_for_one_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--out", str(tmp_path), "--base", "base.safetensors", "--studies"]
    assert main([*command, "tokens", "visuals"]) == 1
    assert "--base: the studies are of vino-tiny and vogue-tiny" in capsys.readouterr().err
    assert main([*command, "visuals"]) == 1
    assert "base.safetensors: there is no such base" in capsys.readouterr().err


def test_it_stops_goes_on_and_reports(folder: Path) -> None:
    where = place_of(VINO, folder, out=folder / "pieces" / "vino-tiny")
    chosen = [of_pictures(VINO.variant(name)) for name in ("full", "no_tokens", "no_boundaries")]
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
    again = replace(where, out=folder / "at_once" / "vino-tiny")
    run_variants(again, chosen[:1], (0,), Clock(None), quiet)
    pieced, whole = (read_record(each.folder("full", 0) / "stage3") for each in (where, again))
    assert len(whole) == 3 and pieced == whole
    asked: list[str] = []
    run_variants(where, chosen, (0,), Clock(0), asked.append)
    assert not asked, "nothing is left to do"
    with pytest.raises(InputError, match="other settings .*steps"):
        run_variants(replace(where, steps=(2, 1, 3)), chosen[:1], (0,), Clock(None), quiet)

    out = where.out.parent
    written = write_report(out, out / "docs")
    page = (out / "docs/ablations.md").read_text()
    assert "With and without learnable tokens" in page and "long captions" not in page and "(n=1)" in page
    rows = report._runs(where.out, VINO, VINO.study("boundaries"))
    assert any(row.startswith("| no boundary tokens | stage 1 of *as shipped*, then 1 (stage 2), 3 ") for row in rows)
    rows = report._runs(where.out, VINO, VINO.study("captions"))
    assert len(rows) == 4, "none of these has been trained"
    assert (out / "docs/ablations/tokens.png") in written
    value = norm_variance(where.folder("no_tokens", 0))
    results = json.loads((out / "results.json").read_text())["tokens"]
    if value is not None:
        assert results["gradient-norm variance"]["no_tokens"]["0"] == value
    assert set(results["edits, held-out loss"]) == {"full", "no_tokens"}


def test_the_sweep_and_its_plot(folder: Path, tmp_path: Path) -> None:
    few = replace(VINO.sweep, scales=(1.0, 3.0), exam=Exam("ti2i", "ti2i", 1))
    where = place_of(replace(VINO, sweep=few), folder, out=tmp_path / "sweep" / "vino-tiny")
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "model.safetensors").write_bytes(where.base.read_bytes())
    save_tokens(trained / "tokens.safetensors", fresh_tokens(4, 128, 0), VINO_TINY.name)
    for name in ("text_encoder", "vae"):
        (trained / f"{name}.safetensors").symlink_to(TINY / f"{name}.safetensors")
    run_sweep(where, trained, (0,), Clock(None), quiet)
    reports = [json.loads(path.read_text()) for path in sorted((where.folder(few.name, 0) / "exams").glob("*.json"))]
    assert [report["settings"]["image_scale"] for report in reports] == [1.0, 3.0]
    run_sweep(place_of(VOGUE, folder), trained, (0,), Clock(None), quiet)  # has none
    assert main(["plot", "--out", str(where.out.parent), "--docs", str(tmp_path / "docs")]) == 0
    assert "| 3 | " in (tmp_path / "docs/ablations.md").read_text()


def test_studies_without_results_keep_their_place_on_the_page(tmp_path: Path) -> None:
    """A study more does not ask for all runs of the others, which take hours."""
    docs, kept = tmp_path / "docs", "| a | b |\n\n![plot](ablations/b.png)\n"
    tokens, stages, alone = (VINO.study("tokens").title, VINO.study("stages").title, VOGUE.study("tasks").title)
    docs.mkdir()
    parts = ("# Ablations", "## vino-tiny", f"### {VINO.sweep.title}", "### Dropped", "## vogue-tiny")
    head, vino, swept, dropped, vogue = (f"{part}\n\nformerly\n" for part in parts)
    sections = f"### {stages}\n\nfirst {kept}", f"### {tokens}\n\nsecond {kept}", f"### {alone}\n\n{kept}"
    page = "\n".join((head, vino, sections[0], swept, sections[1], dropped, vogue, sections[2]))
    (docs / "ablations.md").write_text(page)
    sweep = tmp_path / "vino-tiny" / VINO.sweep.name / "seed0" / "exams"
    sweep.mkdir(parents=True)
    report = {"settings": {"count": 8}, "tasks": {"ti2v": {"motion": {"value": 0.5, "count": 8}}}}
    (sweep / "3.0.json").write_text(json.dumps(report))
    write_report(tmp_path, docs)
    page = (docs / "ablations.md").read_text()
    assert f"\n\n## vogue-tiny\n\n{VOGUE.about}\n\n{sections[2]}" in page and "formerly" not in page
    assert f"\n\n{sections[1]}\n{sections[0]}\n### {VINO.sweep.title}\n" in page
    write_report(tmp_path, docs)
    assert (docs / "ablations.md").read_text() == page


def test_without_results_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--out", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]) == 1
    assert "no study has a result" in capsys.readouterr().err and not (tmp_path / "docs").exists()


def test_values_of_kinds_are_weighted_by_their_examples() -> None:
    kinds = {"a": {"passed": {"value": 1.0, "count": 1}}, "b": {"passed": {"value": 0.0, "count": 3}}, "c": {}}
    report = {"tasks": {"ti2i": {"passed": {"value": 0.5, "count": 9}, "kinds": kinds}}}
    assert value_of(report, "passed") == 0.5 and value_of(report, "passed", ("a", "b", "c", "d")) == 0.25
    assert value_of(report, "passed", ("c",)) is None
