"""Measuring on the toy world: batches equal single requests, reports count rightly, `vino eval toy` runs on files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_files import MODEL, write_tiny_files
from tiny_vlm import HIDDEN
from training_runs import config, one_thread, parts, tasks  # noqa: F401

from vino_core.checkpoints.files import model_metadata, save_tokens
from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.mmdit.batch import mixed_velocity
from vino_core.mmdit.model import MMDiT
from vino_core.pipeline import Pipeline
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.toyworld import batches, requests
from vino_core.toyworld.batches import generate_batch
from vino_core.toyworld.evaluate import Evaluation, evaluate
from vino_core.toyworld.reports import Row
from vino_core.toyworld.requests import Settings, from_pipeline, request_of
from vino_core.toyworld.scorers import Score
from vino_core.toyworld.sheet import contact_sheet
from vino_core.toyworld.statistics import mean, rate
from vino_core.toyworld.tasks import ToySource
from vino_core.training.config import Data
from vino_core.training.dropout import Dropped
from vino_core.training.example import Example
from vino_core.training.prepare import prepare

SETTINGS = Settings(steps=2, text_scale=2.0, image_scale=1.5, shift=2.0)


@lru_cache(maxsize=1)
def pipeline() -> Pipeline:
    """Random networks as vino-tiny."""
    made = parts(config(Path("unused")))
    return Pipeline(VINO_TINY, made.engine, made.tokens, made.mmdit, made.vae)


def answers(examples: list[Example], spoilt: int = 0) -> list[torch.Tensor]:
    """The truth, but for the first `spoilt` examples, which get grey."""
    return [
        torch.full_like(example.target, 99) if int(example.id.split("-")[-1]) < spoilt else example.target
        for example in examples
    ]


@pytest.mark.parametrize("task", ["t2i", "ti2i", "tv2v"])
def test_scales_that_are_not_given_are_those_of_the_tasks_preset(task: str) -> None:
    presets = {task: replace(preset, text_scale=3.5, image_scale=1.25) for task, preset in VINO_TINY.presets.items()}
    presets["tv2v"] = replace(presets["tv2v"], shift=9.0)
    system, example = replace(VINO_TINY, presets=presets), ToySource(task, frames=5).example(0)
    own = request_of(example, Settings(), system)
    assert (own.text_scale, own.image_scale, own.shift) == (3.5, 1.25, 9.0 if task == "tv2v" else 2.0)
    asked = request_of(example, Settings(text_scale=1.0, image_scale=0.0, shift=4.0), system)
    assert (asked.text_scale, asked.image_scale, asked.shift) == (1.0, 0.0, 4.0)


@pytest.mark.parametrize("task", ["t2i", "ti2i", "ti2i_baseimg", "ti2v", "tiv2v"])
def test_a_batch_gives_what_single_requests_give(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(model: MMDiT, latents: torch.Tensor, *arguments: object) -> torch.Tensor:
        calls.append(len(latents))
        return mixed_velocity(model, latents, *arguments)

    monkeypatch.setattr(batches, "mixed_velocity", counted)
    source = ToySource(task, frames=5)
    requests = [request_of(source.example(index), SETTINGS, VINO_TINY) for index in range(5)]
    assert len({request.prompt for request in requests}) > 3
    together = generate_batch(pipeline(), requests)
    branches = 2 if task == "t2i" else 3
    assert calls == [5 * branches] * SETTINGS.steps, "every branch of every request in one call for each step"
    for request, frames in zip(requests, together, strict=True):
        alone = pipeline().generate(request)
        assert frames.shape == alone.shape and frames.dtype == torch.uint8
        assert (frames.int() - alone.int()).abs().max() <= 1
        assert (frames.int() - together[0].int()).abs().max() > 1 or frames is together[0]


def test_requests_that_differ_too_much_are_refused() -> None:
    source = ToySource("t2i")
    one, other = (request_of(source.example(index), SETTINGS, VINO_TINY) for index in range(2))
    with pytest.raises(InputError, match="steps: .*Ask for them apart"):
        generate_batch(pipeline(), [one, replace(other, steps=3)])
    with pytest.raises(InputError, match="at least 1"):
        generate_batch(pipeline(), [replace(one, steps=0)])
    edit = request_of(ToySource("ti2i").example(0), SETTINGS, VINO_TINY)
    with pytest.raises(InputError, match="pictures"):
        generate_batch(pipeline(), [one, edit])


@pytest.mark.parametrize("task", ["ti2i", "ti2v", "tiv2v"])
def test_references_are_those_of_training(task: str) -> None:
    data = Data(tasks=config(Path("unused"), data={"tasks": tasks(task)}).data.tasks, area=4096, frames=9)
    for index in range(3):
        example = ToySource(task).example(index)
        trained, asked = prepare(example, Dropped(), data, VINO_TINY), request_of(example, SETTINGS, VINO_TINY)
        assert trained.text == asked.prompt and len(trained.pixels) == len(example.images) + len(example.videos)
        for one, other in zip(trained.references.images, asked.references.images, strict=True):
            assert torch.equal(one.pixels, other.pixels)
        for one, other in zip(trained.references.videos, asked.references.videos, strict=True):
            assert torch.equal(one.frames, other.frames) and torch.equal(one.vlm_frames, other.vlm_frames)


def test_seeds_belong_to_examples_and_settings() -> None:
    source = ToySource("t2i")
    seeds = [request_of(source.example(index), SETTINGS, VINO_TINY).seed for index in (0, 1)]
    assert seeds[0] != seeds[1] and seeds[0] == request_of(source.example(0), SETTINGS, VINO_TINY).seed
    assert request_of(source.example(0), replace(SETTINGS, seed=1), VINO_TINY).seed not in seeds


def test_the_truth_gets_a_perfect_report() -> None:
    told: list[tuple[int, int]] = []
    seen: list[list[str]] = []

    def generate(examples: list[Example]) -> list[torch.Tensor]:
        seen.append([example.task for example in examples])
        return answers(examples)

    found = evaluate(generate, ("t2i", "ti2v"), 5, batch=2, shown=3, frames=5, progress=lambda *now: told.append(now))
    assert [len(tasks) for tasks in seen] == [2, 2, 1] * 2 and all(len(set(tasks)) == 1 for tasks in seen)
    assert told == [(2, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10)]
    assert [sample.toy.truth.task for sample in found.samples] == ["t2i"] * 3 + ["ti2v"] * 3
    report = found.report
    assert report.overall.count == 10 and report.overall.values["passed"].value == 1.0
    assert report.tasks["ti2v"].values["identity"].value == 1.0
    assert report.tasks["ti2v"].values["confused"].value == 0.0
    assert "identity" not in report.tasks["t2i"].values and "motion" not in report.tasks["t2i"].values
    assert {estimate.value for estimate in report.tasks["t2i"].checks.values()} == {1.0}


def test_what_is_finished_is_told_task_by_task() -> None:
    """An evaluation of hours that is given up keeps what it has."""
    told: list[Evaluation] = []

    def generate(examples: list[Example]) -> list[torch.Tensor]:
        if examples[0].task == "ti2i":
            raise KeyboardInterrupt
        return answers(examples)

    with pytest.raises(KeyboardInterrupt):
        evaluate(generate, ("t2i", "t2v", "ti2i"), 2, frames=5, finished=told.append)
    first, second = (one.report.as_json()["tasks"] for one in told)
    assert list(first) == ["t2i"] and list(second) == ["t2i", "t2v"] and first["t2i"] == second["t2i"]
    assert [len(one.samples) for one in told] == [2, 4]


def test_what_is_wrong_is_counted_where_it_belongs() -> None:
    count, spoilt = 20, 8
    report = evaluate(lambda examples: answers(examples, spoilt), ("t2i", "tv2v"), count, frames=5).report
    for task in ("t2i", "tv2v"):
        assert report.tasks[task].values["followed"][:1] == (1 - spoilt / count,)
    assert report.tasks["t2i"].checks["found"].value < 1
    kinds = report.kinds["t2i"]
    assert set(kinds) == {"one sprite", "two sprites"} and sum(row.count for row in kinds.values()) == count
    wrong = [ToySource("t2i", split="heldout").plan(index).kind for index in range(spoilt)]
    for kind, row in kinds.items():
        assert row.values["followed"].value == pytest.approx(1 - wrong.count(kind) / row.count)
    stored = json.loads(json.dumps(report.as_json()))
    assert stored["tasks"]["t2i"]["kinds"]["two sprites"]["followed"]["count"] == kinds["two sprites"].count
    assert stored["settings"]["split"] == "heldout" and stored["overall"]["count"] == 2 * count
    lines = report.table().splitlines()
    assert [line.split()[0] for line in lines[1:]][:3] == ["t2i", "one", "two"] and lines[-1].startswith("overall")
    followed = report.tasks["t2i"].values["followed"]
    assert f"60.0 [{100 * followed.low:.1f}, {100 * followed.high:.1f}]" in lines[1]


def test_means_leave_out_what_does_not_apply() -> None:
    row = Row.of(
        [
            Score({"a": True, "b": False}, untouched=30.0, kept=True, motion=True),
            Score({"a": True}, untouched=20.0, kept=False),
            Score({"a": False}),
        ]
    )
    assert (row.values["untouched"].value, row.values["untouched"].count) == (25.0, 2)
    assert (row.values["kept"].value, row.values["motion"].count) == (0.5, 1)
    assert (row.checks["a"].value, row.checks["a"].count, row.checks["b"].count) == (pytest.approx(2 / 3), 3, 1)
    assert row.values["followed"].value == pytest.approx(1 / 3) and row.values["passed"].value == 0.0
    assert "first_frame" not in row.values


def test_confidence_intervals() -> None:
    # Wilson's interval for 8 of 10, from Brown, Cai and DasGupta (2001): 0.490 to 0.943.
    found = rate([True] * 8 + [False] * 2)
    assert (found.value, found.count) == (0.8, 10)
    assert (found.low, found.high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert rate([True] * 50).high == pytest.approx(1.0) and 0.9 < rate([True] * 50).low < 1.0
    assert rate([False] * 50).low == pytest.approx(0.0)
    drawn = np.random.default_rng(0).random((2000, 40)) < 0.9
    assert np.mean([one.low <= 0.9 <= one.high for one in map(rate, drawn.tolist())]) > 0.93
    spread = mean([1.0, 2.0, 3.0])
    assert spread.value == 2.0 and spread.high == pytest.approx(2 + 1.96 / math.sqrt(3), abs=1e-3)
    for empty in (rate, mean):
        with pytest.raises(ValueError, match="at least one"):
            empty([])


def test_a_generator_that_returns_the_wrong_thing_is_told() -> None:
    with pytest.raises(ValueError, match="the result is"):
        evaluate(lambda examples: [example.target[:, :32] for example in examples], ("t2i",), 1)
    with pytest.raises(ValueError):
        evaluate(lambda examples: [], ("t2i",), 1)
    with pytest.raises(InputError, match="at least 1"):
        evaluate(answers, ("t2i",), 0)
    with pytest.raises(InputError, match="no task"):
        evaluate(answers, (), 1)


def test_the_sheet_shows_inputs_results_and_truths() -> None:
    samples = evaluate(answers, ("t2i", "ti2v", "tiv2v"), 2, frames=5).samples
    sheet = contact_sheet(samples)
    assert sheet.dtype == torch.uint8 and sheet.shape[2] == 3 and sheet.shape[1] > 1200
    for sample in samples:
        for picture in (*sample.toy.example.images, sample.result[0], sample.toy.example.target[-1]):
            assert is_shown(sheet, picture.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert not is_shown(sheet, samples[0].result[0].repeat_interleave(2, 0).repeat_interleave(2, 1).flip(0))
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_the_sheet_wastes_no_room_where_there_are_no_references() -> None:
    """Four pairs of pictures stand in one row."""
    samples = evaluate(answers, ("t2i",), 4, captions="short").samples
    assert len(contact_sheet(samples)) < 2 * (128 + 36)


def is_shown(sheet: torch.Tensor, picture: torch.Tensor) -> bool:
    whole, part = (pixels.int() @ torch.tensor([1, 256, 65536], dtype=torch.int32) for pixels in (sheet, picture))
    side = len(part)
    rows, columns = (have - side + 1 for have in whole.shape)
    places = (whole[:rows, :columns] == part[0, 0]).nonzero()
    for y in range(0, side, 21):
        for x in range(0, side, 21):
            places = places[whole[places[:, 0] + y, places[:, 1] + x] == part[y, x]]
    return any(torch.equal(whole[y : y + side, x : x + side], part) for y, x in places.tolist())


def test_a_random_model_follows_nothing() -> None:
    found = evaluate(
        from_pipeline(pipeline(), replace(SETTINGS, image_scale=1.0)), ("t2i", "tv2v"), 3, frames=5, batch=3
    )
    assert found.report.overall.values["passed"].value == 0.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A random vino-tiny on disk, as words of the command."""
    written = write_tiny_files(tmp_path_factory.mktemp("weights"))
    torch.manual_seed(0)
    written["--tokens"].unlink()
    save_file(MMDiT(MODEL).state_dict(), written["--model"], model_metadata("vino-tiny", MODEL))
    save_tokens(written["--tokens"], torch.randn(8, HIDDEN), "vino-tiny")
    return [str(word) for option, path in written.items() for word in (option, path)]


def test_the_command_writes_report_and_sheet(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tasks", "t2i", "tv2v", "--count", "3", "--frames", "5", "--steps", "1", "--batch", "2", "--seed", "4"]
    out = tmp_path / "results"
    model = files[files.index("--model") + 1]
    others = [word for word in files if word not in ("--model", model)]
    words += ["--text-scale", "3", "--device", "cpu", "--out", str(out)]
    assert main(["eval", "toy", model, *others, *words]) == 0
    printed = capsys.readouterr().out
    assert "t2i" in printed and "overall" in printed and str(out / "report.json") in printed
    stored = json.loads((out / "report.json").read_text())
    assert stored["overall"]["count"] == 6 and set(stored["tasks"]) == {"t2i", "tv2v"}
    settings = stored["settings"]
    assert (settings["system"], settings["steps"], settings["text_scale"], settings["seed"]) == ("vino-tiny", 1, 3.0, 4)
    assert (settings["shift"], settings["image_scale"]) == (None, None), "the presets'"
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.height > 4 * 128


def test_the_command_refuses_what_it_cannot_do(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--tasks", "t3i"], "--tasks t3i: unknown"),
        (["--frames", "8"], "4n + 1"),
        (["--count", "0"], "at least 1"),
    ):
        assert main(["eval", "toy", *files, *words, "--out", str(tmp_path)]) != 0
        assert said in capsys.readouterr().err
    model = files[files.index("--model") + 1]
    without = [word for word in files if word not in ("--model", model)]
    for words in (without, [model, *files]):
        assert main(["eval", "toy", *words, "--out", str(tmp_path)]) != 0
        assert "which model?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_exported_folder_says_which_files_it_lacks(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `vino train` exports is a model and its tokens."""
    given = dict(zip(files[::2], files[1::2], strict=True))
    export, out = tmp_path / "export", tmp_path / "out"
    export.mkdir()
    for name in ("model", "tokens"):
        shutil.copy(given[f"--{name}"], export / f"{name}.safetensors")
    asked = ["eval", "toy", str(export), "--count", "1", "--tasks", "t2i", "--out", str(out)]
    assert main(asked) != 0
    assert "--text-encoder: not given" in (said := capsys.readouterr().err) and "`vino train` exports" in said
    assert not out.exists()
    others = [word for name in ("--text-encoder", "--vae") for word in (name, given[name])]
    assert main([*asked, *others]) == 0 and (out / "report.json").is_file()


def test_understanding_first_lets_the_text_encoder_write_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees the references; where it has nothing to say, the prompt is empty."""
    told: list[tuple[str, int]] = []

    def rewritten(engine: object, system: object, text: str, visuals: Sequence[object]) -> str:
        told.append((text, len(visuals)))
        if len(told) == 2:
            raise InputError("nothing to say")
        return "a red star"

    seen: list[str] = []
    monkeypatch.setattr(requests, "rewrite_prompt", rewritten)
    monkeypatch.setattr(requests, "generate_batch", lambda _, asked: seen.extend(one.prompt for one in asked) or [])
    examples = [ToySource(task, frames=5).example(0) for task in ("t2i", "ti2i_baseimg", "tv2v")]
    for understand in (False, True):
        from_pipeline(pipeline(), replace(SETTINGS, understand=understand))(examples)
    prompts = [example.prompt for example in examples]
    assert seen == [*prompts, "a red star", "", "a red star"]
    assert told == list(zip(prompts, (len(one.images) + len(one.videos) for one in examples), strict=True))
