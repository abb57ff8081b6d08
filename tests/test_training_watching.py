"""What a run tells about itself: validation on held-out examples, examples left out, rates, and how busy it is."""

from __future__ import annotations

import errno
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data_files import pictures_folder
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_runs import (  # noqa: F401
    Numbers,
    Stopped,
    config,
    exact,
    one_thread,
    parts,
    sources,
    stop_at,
    tasks,
    train,
)

from vino_core.errors import InputError
from vino_core.sampling.schedule import shifted
from vino_core.systems import get_system
from vino_core.toyworld.sampling import belongs
from vino_core.training import draws, loop, optimizer, validation
from vino_core.training.config import Fresh, Lora
from vino_core.training.dropout import Dropped
from vino_core.training.export import export
from vino_core.training.feed import Noted
from vino_core.training.flops import ForwardCost
from vino_core.training.loop import Trainer, build_network
from vino_core.training.lora import add_lora
from vino_core.training.loss import noised, velocity_loss
from vino_core.training.metrics import VALIDATION, read_record
from vino_core.training.parts import fresh_config, fresh_mmdit
from vino_core.training.prepare import prepare
from vino_core.training.sources import validation_sources
from vino_core.training.team import Team, widest

VALIDATE = {"validate": 2, "validation_examples": 3}


def scalars_of(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    # One file after the other: TensorBoard goes by their names, which of runs in the same second do not sort.
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({one.step: one.value for one in events.Scalars(name)})
    return found


def test_the_validation_loss_is_the_mean_over_even_noise_levels_at_the_same_noise(tmp_path: Path) -> None:
    """Computed once more, an example at a time, with the averaged weights of that step and nothing left out."""
    run = config(tmp_path, steps=2, ema=0.5, data={"tasks": tasks("ti2i"), "dropout": 0.9}, watch=VALIDATE)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team, sources(run))
        trainer.train()
        found = []
        with torch.no_grad(), trainer.state.ema.applied():
            for number in range(3):
                sample = prepare(Numbers("ti2i").example(number), Dropped(), run.data, trainer.parts.system)
                (group,) = trainer._encode([sample])
                generator = draws.tensors(run.seed, "validation ti2i", "noise", number)
                noise = torch.randn(group.target.shape[1:], generator=generator)[None]
                level = shifted(torch.tensor([(number + 0.5) / 3]), run.flow.shift)
                (velocity,) = trainer.network([group], [noised(group.target, noise, level)], [level])
                found.append(float(velocity_loss(velocity, group.target, noise)))
    assert read_record(tmp_path, VALIDATION) == [{"step": 2, "task": "ti2i", "loss": pytest.approx(sum(found) / 3)}]
    assert len(set(found)) == 3


def test_validation_losses_are_kept_once_over_a_resume(tmp_path: Path) -> None:
    changes = {"steps": 6, "save": {"every": 3}, "data": {"tasks": tasks("t2i")}, "watch": VALIDATE}
    train(config(tmp_path / "whole", **changes))
    with pytest.raises(Stopped):
        train(config(tmp_path / "part", **changes), stop_at(5))
    assert [row["step"] for row in read_record(tmp_path / "part", VALIDATION)] == [2, 4]
    train(config(tmp_path / "part", **changes))
    rows = read_record(tmp_path / "part", VALIDATION)
    assert [row["step"] for row in rows] == [2, 4, 6] and rows == read_record(tmp_path / "whole", VALIDATION)


def test_a_checkpoint_is_written_before_the_run_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong there costs no steps, and is made up for by the run that goes on."""
    preview = {"prompt": "a fox", "width": 32, "height": 32, "steps": 2, "text_scale": 2.0}
    watch = {**VALIDATE, "preview": 2, "previews": [preview]}
    changes = {"data": {"tasks": tasks("t2i", "ti2i")}, "watch": watch, "ema": 0.9}
    whole = train(config(tmp_path / "whole", **changes))

    def failing(*_: object) -> None:
        raise InputError("nothing to see")

    for attribute in ("validation_losses", "write_preview"):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="nothing to see"):
            patch.setattr(loop, attribute, failing)
            train(config(tmp_path / "part", **changes))
        kept = [path.name for path in (tmp_path / "part" / "checkpoints").iterdir()]
        assert kept == ["step_00000002"]
    assert exact(train(config(tmp_path / "part", **changes))) == exact(whole)
    rows = read_record(tmp_path / "part", VALIDATION)
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    assert rows == read_record(tmp_path / "whole", VALIDATION)
    for name in ("step_00000002_0.png", "step_00000004_0.png"):
        assert (tmp_path / "part/previews" / name).read_bytes() == (tmp_path / "whole/previews" / name).read_bytes()


def test_a_finished_run_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path, steps=2, data={"tasks": tasks("t2i")}, watch=VALIDATE)
    train(run)
    monkeypatch.setattr(loop, "validation_losses", None)
    train(run)


def test_held_out_examples_that_cannot_be_used_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    watch = {**VALIDATE, "tensorboard": True}
    run = config(tmp_path / "some", data={"tasks": tasks("t2i")}, watch=watch)
    kept = {}
    for name, bad in (("all", ()), ("some", (0,)), ("others", (1, 2))):
        run = config(tmp_path / name, data={"tasks": tasks("t2i")}, watch=watch)
        with Team(run.parallel) as team:
            Trainer(run, parts(run), sources(run), team, {"t2i": Numbers("t2i", bad=bad)}).train()
        kept[name] = [row["loss"] for row in read_record(tmp_path / name, VALIDATION)]
        scalars = scalars_of(tmp_path / name)
        assert (scalars["data/skipped"][4], scalars["data/skipped_held_out"][4]) == (0, len(bad))
    for every, without, only in zip(kept["all"], kept["some"], kept["others"], strict=True):
        assert without * 2 + only == pytest.approx(every * 3)
    rows = [json.loads(line) for line in (tmp_path / "some" / "skipped_held_out_00000.jsonl").read_text().splitlines()]
    assert rows == [{"task": "t2i", "index": 0, "reason": "t2i-0: damaged"}]


def test_held_out_data_without_a_usable_example_are_an_error(tmp_path: Path) -> None:
    run = config(tmp_path, watch=VALIDATE)
    validation = {"t2i": Numbers("t2i"), "ti2i": Numbers("ti2i", bad=(0, 1, 2))}
    message = r"data\.tasks\.ti2i\.validation: none of 3 examples can be used, the last because: ti2i-2: damaged"
    with Team(run.parallel) as team, pytest.raises(InputError, match=message):
        Trainer(run, parts(run), sources(run), team, validation)


def test_a_row_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "skipped_00000.jsonl"
    Noted("skipped", file).add("t2i", 3, "damaged")
    with file.open("a") as torn:
        torn.write('{"task": "t2i", "ind')
    noted = Noted("skipped", file)
    assert dict(noted) == {("t2i", 3): "damaged"}
    noted.add("t2i", 5, "empty")
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == [3, 5]
    assert len(Noted("skipped", file)) == 2


def test_a_full_disk_where_examples_are_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    noted = Noted("skipped", tmp_path / "skipped_00000.jsonl")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match="skipped_00000.jsonl: the disk is full"):
        noted.add("t2i", 3, "damaged")


class _Float64(TorchDispatchMode):
    """Lists the operations that make numbers of 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):  # noqa: ANN001
        made = operation(*arguments, **(named or {}))
        self.found += [str(operation) for one in tree_leaves(made) if getattr(one, "dtype", None) == torch.float64]
        return made


def test_a_device_without_float64_is_not_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [widest(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [torch.float64] * 2 + [torch.float32]
    for module in (loop, optimizer, validation):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    run = config(tmp_path, steps=2, data={"tasks": tasks("t2i")}, watch=VALIDATE)
    with _Float64() as looking:
        train(run)
    assert looking.found == []


def test_empty_held_out_data_are_an_error(tmp_path: Path) -> None:
    run = config(tmp_path, watch=VALIDATE)
    validation = {"t2i": Numbers("t2i"), "ti2i": Numbers("ti2i", length=0)}
    with Team(run.parallel) as team, pytest.raises(InputError, match=r"data\.tasks\.ti2i\.validation: there are no"):
        Trainer(run, parts(run), sources(run), team, validation)


def test_what_is_validated_on_is_held_out(tmp_path: Path) -> None:
    """The toy world's own, and folders by their path."""
    pictures_folder(tmp_path / "seen", 3)
    pictures_folder(tmp_path / "kept", 2)
    mixed = tasks("t2i", "ti2i")
    mixed["t2i"] = {
        "weight": 1,
        "source": "folder",
        "path": str(tmp_path / "seen"),
        "validation": str(tmp_path / "kept"),
    }
    run = config(tmp_path, data={"tasks": mixed, "area": 4096}, watch=VALIDATE)
    found = validation_sources(run)
    assert found["t2i"].count == 2
    assert found["ti2i"].split == "heldout"
    for number in range(20):
        assert found["ti2i"].example(number).id.startswith("toy-ti2i-heldout-")
        assert belongs("heldout", found["ti2i"].plan(number).scenes)
    assert validation_sources(replace(run, watch=replace(run.watch, validate=0))) == {}


def test_left_out_examples_are_counted_over_a_resume_and_listed_once(tmp_path: Path) -> None:
    def run(out: Path):
        watch = {"tensorboard": True}
        return config(out, data={"tasks": tasks("t2i"), "batch": 5}, steps=6, save={"every": 2}, watch=watch)

    bad = {"t2i": Numbers("t2i", length=20, bad=(3, 11, 14))}
    train(run(tmp_path / "whole"), given=bad)
    with pytest.raises(Stopped):
        train(run(tmp_path / "part"), stop_at(5), given=bad)
    train(run(tmp_path / "part"), given=bad)
    for out in (tmp_path / "whole", tmp_path / "part"):
        listed = [json.loads(line)["index"] for line in (out / "skipped_00000.jsonl").read_text().splitlines()]
        assert sorted(listed) == [3, 11, 14]
        assert scalars_of(out)["data/skipped"][6] == 3


def test_muons_rate_is_shown_beside_adamws(tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-3, "kind": "muon", "muon_rate": 4e-3, "warmup": 2}
    train(config(tmp_path, steps=2, optimizer=optimizer, watch={"tensorboard": True}))
    scalars = scalars_of(tmp_path)
    assert scalars["learning_rate"] == pytest.approx({1: 5e-4, 2: 1e-3})
    assert scalars["learning_rate/muon"] == pytest.approx({1: 2e-3, 2: 4e-3})


FRESH = Fresh(hidden_size=8, num_heads=2, depth=1, depth_single=1, depth_refiner=1, text_dim=6, rope_axes=(0, 2, 2))


def costs(trained: str | None = None, lora: Lora | None = None) -> ForwardCost:
    system = get_system("vino")
    model = fresh_mmdit(fresh_config(FRESH, system, 10), system, 0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "all" or (trained is not None and name.startswith(trained)))
    if lora is not None:
        add_lora(model, lora, 0)
    return ForwardCost(model)


D, MLP = 8, 32
STREAM = D * 3 * D + D * D + 2 * D * MLP
"""One stream of a double block: q, k and v, projection, and the two matrices behind."""
BOTH = D * (3 * D + MLP) + (D + MLP) * D
"""A single block, which every token passes."""
PATCH = 16 * 2 * 2
REFINER = 6 * D + D * 3 * D + D * D + 2 * D * MLP


def test_a_forward_pass_costs_what_its_products_do() -> None:
    """By hand: two operations per weight and token; queries by keys and weights by values, in two blocks."""
    cost = costs()
    visual = 2 * 7 * (PATCH * D + STREAM + BOTH + D * PATCH)
    text = 2 * 5 * (REFINER + STREAM + BOTH)
    attention = 2 * (2 * 2 * D * (5 + 7) ** 2)
    assert cost(5, 7) == visual + text + attention


def test_a_step_costs_the_gradients_that_it_needs() -> None:
    forward = costs()(5, 7)
    attention = 2 * (2 * 2 * D * (5 + 7) ** 2)
    assert costs("all").training(5, 7) == 3 * forward
    frozen = 2 * forward + attention  # both inputs of attention's products need a gradient
    assert costs().training(5, 7) == frozen
    assert costs("single_blocks.0.linear1").training(5, 7) == frozen + 2 * (5 + 7) * D * (3 * D + MLP)
    factors = 2 * D + 2 * (3 * D + MLP)
    assert costs(lora=Lora(rank=2, targets=("linear1",))).training(5, 7) == frozen + 3 * 2 * (5 + 7) * factors


def test_a_run_reports_the_cost_of_what_it_trains(tmp_path: Path) -> None:
    shown = {}
    for name, trained in (("frozen", ["connectors", "tokens"]), ("whole", ["connectors", "tokens", "mmdit"])):
        run = config(tmp_path / name, stage=None, train=trained, steps=1, data={"tasks": tasks("t2i")})
        with Team(run.parallel) as team:
            trainer = Trainer(run, parts(run), sources(run), team)
            trainer.peak = 1e12
            _, scalars = trainer._step(1)
            shown[name] = scalars["speed/mfu"] * scalars["speed/seconds_per_step"]
    assert 0.6 < shown["frozen"] / shown["whole"] < 0.75


def test_only_the_first_process_keeps_what_is_exported(tmp_path: Path) -> None:
    run = config(tmp_path, parallel={"dtype": "bfloat16"})
    network = build_network(run, parts(run))
    gathered: list[weakref.ref] = []
    most = []

    def whole(parameter: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        most.append(sum(one() is not None for one in gathered))
        copy = part.clone()
        gathered.append(weakref.ref(copy))
        return copy

    def team(first: bool) -> SimpleNamespace:
        return SimpleNamespace(first=first, whole=whole, agree=lambda error: None)

    assert export(run, network, None, team(first=False), tmp_path / "other") == []
    assert len(gathered) == len(list(network.parameters())) and max(most) <= 1
    assert not (tmp_path / "other").exists()
    gathered.clear(), most.clear()
    assert len(export(run, network, None, team(first=True), tmp_path / "first")) == 2
    assert max(most) <= 2, "what was gathered in float32 stays beside its copy in bfloat16"
