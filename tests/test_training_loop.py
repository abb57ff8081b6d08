"""The loop in one process: exact resume, bad samples, watching without a trace, the files it leaves."""

from __future__ import annotations

import errno
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_training_watching import scalars_of
from training_runs import Numbers, Stopped, config, exact, one_thread, parts, sources, stop_at, tasks, train  # noqa: F401

from vino_core.checkpoints.files import load_mmdit, load_tokens, read_metadata
from vino_core.errors import InputError
from vino_core.media.videos import read_clip
from vino_core.mmdit.blocks import DoubleBlock, SingleBlock
from vino_core.training import state as state_module
from vino_core.training.loop import Trainer, build_network
from vino_core.training.metrics import read_record
from vino_core.training.stages import check_stage
from vino_core.training.team import Team

STEPS = 7
MIXED = {"tasks": tasks("t2i", "ti2v", "tiv2v"), "batch": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The losses of a run that nobody disturbs."""
    return train(config(tmp_path_factory.mktemp("whole"), steps=STEPS, data=MIXED, ema=0.9))


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, whole: list[dict], stop: int) -> None:
    run = config(tmp_path, steps=STEPS, data=MIXED, ema=0.9)
    with pytest.raises(Stopped):
        train(run, stop_at(stop))
    assert len(read_record(tmp_path)) == stop
    assert exact(train(run)) == exact(whole)


PREVIEW = {"prompt": "a fox", "width": 32, "height": 32, "steps": 2, "text_scale": 2.0}
WATCH = {"preview": 2, "previews": [PREVIEW], "validate": 3, "validation_examples": 2}


def test_reading_ahead_and_previews_and_validation_leave_no_trace(tmp_path: Path, whole: list[dict]) -> None:
    watch = {**WATCH, "previews": [PREVIEW, {**PREVIEW, "frames": 5}], "tensorboard": True}
    run = config(tmp_path, steps=STEPS, data={**MIXED, "workers": 2}, ema=0.9, watch=watch)
    rows = train(run)
    assert exact(rows) == exact(whole)
    assert len(list((tmp_path / "previews").glob("*.png"))) == 3
    first, second, _ = (path.read_bytes() for path in sorted((tmp_path / "previews").glob("*.png")))
    assert first != second  # the weights moved
    clips = sorted((tmp_path / "previews").glob("*.mp4"))
    assert len(clips) == 3 and all(len(read_clip(clip)[0]) == 5 for clip in clips)
    scalars = scalars_of(tmp_path)
    wanted = {
        "loss",
        "learning_rate",
        "speed/tokens_per_second",
        "speed/mfu",
        "validation/ti2v",
        "data/skipped",
        "memory/peak_gb",
    }
    assert wanted | {f"gradient_norm/{part}" for part in ("mmdit", "connectors", "tokens", "all")} <= set(scalars)
    assert list(scalars["validation/ti2v"]) == [3, 6]


def test_what_tensorboard_shows_is_what_a_step_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: dict[int, int] = {}
    usual = Trainer._scalars

    def noted(trainer: Trainer, *given: Any) -> dict[str, float]:
        tokens[trainer.state.step] = sum(text + visual for text, visual in trainer._shapes)
        return usual(trainer, *given)

    monkeypatch.setattr(Trainer, "_scalars", noted)
    rows = train(config(tmp_path, steps=3, data=MIXED, watch={"tensorboard": True}))
    shown = scalars_of(tmp_path)
    assert list(shown["loss"].values()) == pytest.approx([row["loss"] for row in rows])
    parts = [shown[f"gradient_norm/{part}"] for part in ("mmdit", "connectors", "tokens")]
    for row in rows:
        step = row["step"]
        assert math.hypot(*(part[step] for part in parts)) == pytest.approx(shown["gradient_norm/all"][step], rel=1e-4)
        assert shown["gradient_norm/all"][step] == pytest.approx(row["norm"])
        rate, seconds = shown["speed/tokens_per_second"][step], shown["speed/seconds_per_step"][step]
        assert rate * seconds == pytest.approx(tokens[step], rel=1e-4) and tokens[step] > 0
        assert len({part[step] for part in parts}) == 3 and shown["memory/peak_gb"][step] > 0.1


def test_speed_counts_what_every_process_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[tuple[int, float]] = []
    usual, gather = Trainer._work, Team.all_values

    def noted(trainer: Trainer) -> tuple[int, float]:
        works.append(usual(trainer))
        return works[-1]

    def with_another(team: Team, values: torch.Tensor) -> torch.Tensor:
        """As if a second process had the same losses and three times the tokens and operations."""
        own = gather(team, values)
        return torch.cat((own, torch.cat((own[:, :1], 3 * own[:, 1:3], own[:, 3:]), dim=1)))

    monkeypatch.setattr(Trainer, "_work", noted)
    monkeypatch.setattr(Team, "all_values", with_another)
    rows = train(config(tmp_path, steps=3, data=MIXED, watch={"tensorboard": True}))
    shown = scalars_of(tmp_path)
    for row, (tokens, operations) in zip(rows, works, strict=True):
        seconds = shown["speed/seconds_per_step"][row["step"]]
        assert shown["speed/tokens_per_second"][row["step"]] * seconds == pytest.approx(4 * tokens, rel=1e-4)
        assert shown["speed/mfu"][row["step"]] * seconds == pytest.approx(4 * operations / 1e12, rel=1e-4)


def test_a_bar_shows_how_far_a_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = train(config(tmp_path, steps=2, data={"tasks": tasks("t2i")}, watch={"progress": True}))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "2/2" in last and f"loss={rows[-1]['loss']:.4f}" in last and "task=t2i" in last


LORA = {"stage": None, "train": ["tokens"], "lora": {"rank": 2, "dropout": 0.2}}


@pytest.mark.parametrize("changes", [{"ema": 0.9}, LORA], ids=["ema", "lora with dropout"])
def test_looking_leaves_randomness_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    plain = train(config(tmp_path / "plain", steps=STEPS, data=MIXED, **changes))
    watch, look, states, looks = Trainer._watch, Trainer._look, [], []

    def modes(trainer: Trainer) -> list[bool]:
        return [part.training for part in trainer.network.modules()]

    def watched(trainer: Trainer, *rest) -> None:
        before, training = torch.get_rng_state(), modes(trainer)
        watch(trainer, *rest)
        states.append(torch.equal(torch.get_rng_state(), before))
        assert modes(trainer) == training and any(training)

    def looked(trainer: Trainer, *rest) -> None:
        torch.rand(1)
        looks.append(any(modes(trainer)))
        look(trainer, *rest)

    monkeypatch.setattr(Trainer, "_watch", watched)
    monkeypatch.setattr(Trainer, "_look", looked)
    assert exact(train(config(tmp_path / "watched", steps=STEPS, data=MIXED, watch=WATCH, **changes))) == exact(plain)
    assert states == [True] * STEPS
    assert looks == [False] * 4  # nothing is in training mode: validation and previews have no dropout


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    one = train(config(tmp_path / "one", data={"batch": 4}))
    two = train(config(tmp_path / "two", data={"batch": 2}, parallel={"accumulation": 2}))
    for a, b in zip(one, two, strict=True):
        assert a["task"] == b["task"] and abs(a["loss"] - b["loss"]) < 1e-5 and abs(a["norm"] - b["norm"]) < 1e-4


def test_checkpointing_computes_every_block_again_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[type] = []

    def counted(usual: Callable[..., Any]) -> Callable[..., Any]:
        return lambda block, *given, **more: calls.append(type(block)) or usual(block, *given, **more)

    for kind in (DoubleBlock, SingleBlock):
        monkeypatch.setattr(kind, "forward", counted(kind.forward))
    plain = train(config(tmp_path / "plain"))
    once = Counter(calls)
    calls.clear()
    again = train(config(tmp_path / "again", parallel={"checkpointing": True}))
    assert exact(plain) == exact(again)
    assert once.keys() == {DoubleBlock, SingleBlock} and Counter(calls) == {kind: 2 * n for kind, n in once.items()}


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    full = train(config(tmp_path / "full"))
    half = train(config(tmp_path / "half", parallel={"dtype": "bfloat16"}))
    assert exact(full) != exact(half)
    for a, b in zip(full, half, strict=True):
        assert abs(a["loss"] - b["loss"]) < 0.02 * a["loss"]


def test_a_nan_stops_the_run_and_names_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path, data={"tasks": tasks("t2i"), "batch": 3}, steps=4)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        original, named = trainer._losses, []

        def broken(samples, *rest):
            losses = original(samples, *rest)
            if trainer.state.step == 2:
                named.append(samples[1].id)
                losses = losses * torch.tensor([1.0, float("nan"), 1.0])
            return losses

        monkeypatch.setattr(trainer, "_losses", broken)
        with pytest.raises(InputError, match="step 3: the loss is not a finite number") as caught:
            trainer.train()
    assert named[0] in str(caught.value)
    assert re.findall(r"task t2i, example (\d+) \(t2i-(\d+)\)\.", str(caught.value)) == [("7", "7")]
    assert trainer.checkpoints.last().name == "step_00000002"


def test_unusable_examples_are_replaced_counted_and_listed(tmp_path: Path) -> None:
    source = Numbers("t2i", length=20, bad=(3, 11))
    run = config(tmp_path, data={"tasks": tasks("t2i"), "batch": 5}, steps=4)
    rows = train(run, given={"t2i": source})
    assert len(rows) == 4
    listed = [json.loads(line) for line in (tmp_path / "skipped_00000.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in listed) == [3, 11]
    assert all("damaged" in row["reason"] for row in listed)
    assert set(source.asked) == set(range(20))  # every other example was seen in the epoch


def test_data_without_one_usable_example_is_an_error(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("t2i")})
    with pytest.raises(InputError, match="50 examples in a row"):
        train(run, given={"t2i": Numbers("t2i", length=5, bad=tuple(range(5)))})
    with pytest.raises(InputError, match="no examples"):
        train(run, given={"t2i": Numbers("t2i", length=0)})


def test_examples_with_too_many_pictures_are_listed(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("ti2v", images=1)})
    with pytest.raises(InputError, match="ti2v.images is 1"):
        train(run)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, whole: list[dict], monkeypatch) -> None:
    run = config(tmp_path, steps=STEPS, data=MIXED, ema=0.9)

    def full(plans, *rest) -> None:
        if "00000004" in str(plans[0].path):
            plans[0].path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(plans, *rest)

    write = state_module.write_safetensors
    monkeypatch.setattr(state_module, "write_safetensors", full)
    with pytest.raises(InputError, match="No space left"):
        train(run)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_00000002"]
    monkeypatch.undo()
    assert exact(train(run)) == exact(whole)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000006", "step_00000007"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"learning_rate": 2e-3}}, r"optimizer\.learning_rate.* new run; `vino train CONFIG --export`"),
        ({"data": {"dropout": 0.5}}, r"data\.dropout.* new run; `vino train CONFIG --export` .*files\.model"),
        ({"seed": 1}, r"seed\)\. Restore them, or choose another out for a new run\.$"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    train(config(tmp_path, steps=2))
    with pytest.raises(InputError, match=f"other settings .*{message}"):
        train(config(tmp_path, steps=4, **changes))


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    train(config(tmp_path / "a", steps=2))
    longer = train(config(tmp_path / "a", steps=4))
    assert exact(longer) == exact(train(config(tmp_path / "b", steps=4)))


def test_the_result_is_a_model_that_inference_loads(tmp_path: Path) -> None:
    run = config(tmp_path, ema=0.5)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        trainer.train()
    model, system = load_mmdit(tmp_path / "export" / "model.safetensors")
    assert system == "vino"
    assert read_metadata(tmp_path / "export" / "model.safetensors")["stage"] == "2"
    average = trainer.state.ema.shadow
    assert torch.equal(load_tokens(tmp_path / "export" / "tokens.safetensors"), average["tokens"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, average[f"mmdit.{name}"])
    assert not torch.equal(average["tokens"], trainer.network.tokens)


BASE = {"stage": 0, "train": ["mmdit", "plain_text"], "tokens": None, "data": {"tasks": tasks("t2i")}}


def test_a_base_goes_on_from_another_one(tmp_path: Path) -> None:
    first = config(tmp_path / "pictures", ema=0.5, **BASE)
    with Team(first.parallel) as team:
        trainer = Trainer(first, parts(first), sources(first), team)
        trainer.train()
    files = {
        "model": str(tmp_path / "pictures/export/model.safetensors"),
        "plain_text": str(tmp_path / "pictures/export/plain_text.safetensors"),
    }
    following = config(tmp_path / "clips", files=files, fresh=None, **BASE)
    check_stage(following, read_metadata(files["model"]))
    network = build_network(following, parts(following))
    for name, tensor in network.plain_text.state_dict().items():
        assert torch.equal(tensor, trainer.state.ema.shadow[f"plain_text.{name}"])


def test_another_plain_text_encoder_is_refused(tmp_path: Path) -> None:
    run = config(tmp_path, files={"model": "-", "plain_text": str(tmp_path / "other.safetensors")}, fresh=None, **BASE)
    save_file({"words.weight": torch.zeros(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="other.safetensors: not the plain text encoder"):
        build_network(run, parts(run))
