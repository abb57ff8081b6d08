"""Runs that do not reach their end: what the last checkpoint holds as files, and how a new run begins from them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from data_files import picture, write_manifest
from safetensors.torch import load_file
from tiny_files import write_tiny_files
from training_runs import (  # noqa: F401
    FRESH,
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

from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.training import sources as sources_module
from vino_core.training.config import RunConfig
from vino_core.training.data.folder import FolderSource
from vino_core.training.data.shard_writing import write_shards
from vino_core.training.data.shards import ShardSource
from vino_core.training.finish import export_last, way_on
from vino_core.training.loop import Trainer
from vino_core.training.team import Team

ONE = {"tasks": tasks("t2i")}


def export(run: RunConfig) -> tuple[int, list[Path]]:
    with Team(run.parallel) as team:
        return export_last(run, parts(run), team)


def checkpoint(run: RunConfig, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(run.out) / f"checkpoints/step_{step:08d}/rank_00000.safetensors")


def test_what_the_last_checkpoint_holds_is_exported_averaged(tmp_path: Path) -> None:
    run = config(tmp_path, steps=6, ema=0.5, data=ONE)
    with pytest.raises(Stopped):
        train(run, stop_at(5))
    assert not (tmp_path / "export").exists()
    step, files = export(run)
    kept = checkpoint(run, 4)
    assert step == 4 and [file.name for file in files] == ["model.safetensors", "tokens.safetensors"]
    made = {f"mmdit.{name}": tensor for name, tensor in load_file(files[0]).items()}
    made |= dict.fromkeys(["tokens"], *load_file(files[1]).values())
    assert {f"ema/{name}" for name in made} == {name for name in kept if name.startswith("ema/")}
    assert all(torch.equal(tensor, kept[f"ema/{name}"]) for name, tensor in made.items())
    assert any((tensor != kept[f"weight/{name}"]).any() for name, tensor in made.items())
    assert exact(train(run)) == exact(train(replace(run, out=str(tmp_path / "whole"))))


def test_so_is_a_lora_whatever_became_of_data_and_rate(tmp_path: Path) -> None:
    lora = {"stage": None, "train": [], "lora": {"rank": 2}, "data": ONE}
    run = config(tmp_path, steps=4, **lora)
    with pytest.raises(Stopped):
        train(run, stop_at(3))
    changes = {"optimizer": {"learning_rate": 1e-4, "decay": 2}, "flow": {"shift": 1}, "parallel": {"accumulation": 2}}
    other = config(tmp_path, steps=3, **{**lora, **changes, "data": {"tasks": tasks("ti2i"), "dropout": 0.5}})
    step, (file, *_) = export(other)
    kept, made = checkpoint(run, 2), load_file(file)
    assert step == 2 and file.name == "lora.safetensors"
    for name in ("lora_A", "lora_B"):
        tensor = kept[f"weight/mmdit.double_blocks.0.img_attn.qkv.{name}.default.weight"]
        assert torch.equal(made[f"diffusion_model.double_blocks.0.img_attn.qkv.{name}.weight"], tensor)
    with pytest.raises(InputError, match=r"other settings \(lora\.rank\)\. Restore them, or [^`]*$"):
        export(config(tmp_path, **{**lora, "lora": {"rank": 3}}))


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    run = config(tmp_path, steps=4, data=ONE)
    train(run)
    written = (tmp_path / "export" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"steps is 3, but this run has done 4 .*--export` writes what step_00000004"):
        train(replace(run, steps=3))
    assert (tmp_path / "export" / "model.safetensors").stat().st_mtime_ns == written
    assert export(replace(run, steps=3))[0] == 4


def test_data_may_move_and_held_out_ones_may_come(tmp_path: Path) -> None:
    """What they hold is compared, also with checkpoints that name places still."""

    def run(path: str, **more: object) -> RunConfig:
        task = {"weight": 1, "source": "folder", "path": path, **more}
        return config(tmp_path / "run", steps=4, data={"tasks": {"t2i": task}})

    given = {"t2i": Numbers("t2i", length=5)}
    before, after = run("here", latents="there"), run("elsewhere", validation="held_out", latents=True)
    with pytest.raises(Stopped):
        train(before, stop_at(3), given)
    assert before.identity() == after.identity() != run("here").identity()
    state = tmp_path / "run" / "checkpoints" / "step_00000002" / "state.json"
    record = json.loads(state.read_text())
    assert "here" not in json.dumps(record["identity"])
    record["identity"]["data"]["tasks"]["t2i"] |= {"path": "here", "validation": None, "latents": "there"}
    state.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"other settings \(data\.tasks\.t2i\.latents\).*vino train CONFIG --export"):
        train(run("here"), given=given)
    with pytest.raises(InputError, match=r"data\.tasks\.t2i is not what.*`vino train CONFIG --export` writes"):
        train(after, given={"t2i": Numbers("t2i", length=6)})
    assert len(train(after, given=given)) == 4


def nan_at(monkeypatch: pytest.MonkeyPatch, out: Path, step: int, bad: int = 0) -> None:
    """The loss of sample number `bad` of this step is not a number, in the run with this `out`."""
    losses = Trainer._losses

    def broken(trainer: Trainer, samples: list, *rest: object) -> torch.Tensor:
        found = losses(trainer, samples, *rest)
        if trainer.out == out and trainer.state.step + 1 == step:
            found = found * torch.tensor([float("nan") if n == bad else 1.0 for n in range(len(samples))])
        return found

    monkeypatch.setattr(Trainer, "_losses", broken)


def test_a_gradient_that_is_no_number_stops_the_run_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the loss is one."""
    run = config(tmp_path, steps=2, data={**ONE, "batch": 2})
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        before = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
        last = list(trainer.state.parameters.values())[-1]
        last.register_hook(lambda gradient: gradient * torch.inf)
        with pytest.raises(InputError, match=r"step 1: the gradient norm is not a finite number; task t2i, example \d"):
            trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.network.named_parameters())


def _shards(folder: Path) -> ShardSource:
    """Two shards with the same keys."""
    for number in range(2):
        write_shards(folder / f"{number}", Numbers("t2i", length=2), 2)
        (shard,) = (folder / f"{number}").glob("*.tar")
        shard.rename(folder / f"part_{number}.tar")
    return ShardSource(folder, "t2i")


def _folder(folder: Path) -> FolderSource:
    rows = [
        {"index": 7, "task": "t2i", "caption": "one", "target_path": picture(folder / f"{n}.png", n, 32, 32)}
        for n in range(4)
    ]
    write_manifest(folder, rows)
    return FolderSource(folder, "t2i")


@pytest.mark.parametrize(
    ("make", "wanted"), [(_shards, r"part_(\d)\.tar, .*?(\d+)"), (_folder, r"manifest\.jsonl, line (\d) \(index 7\)")]
)
def test_a_nan_says_where_the_example_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable, wanted: str
) -> None:
    source = make(tmp_path / "data")
    run = config(tmp_path / "run", steps=4, data={**ONE, "batch": 2})
    nan_at(monkeypatch, tmp_path / "run", 1, bad=1)
    with pytest.raises(InputError, match="there is no checkpoint yet, so it begins anew") as caught:
        train(run, given={"t2i": source})
    found = re.search(rf"task t2i, example (\d) \({wanted}\)\. Nothing", str(caught.value))
    index = int(found[1])
    assert source.where(index) in found[0]
    assert [int(number) for number in found.groups()[1:]] in ([index // 2, index % 2], [index + 1])


@pytest.mark.parametrize("stage", [0, 1])
def test_after_a_nan_the_commands_of_the_message_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: int
) -> None:
    made, names = write_tiny_files(tmp_path), ("text_encoder", "vae", "model", "tokens")
    files = {name: str(made[f"--{name.replace('_', '-')}"]) for name in names}
    out, path = tmp_path / "a run", tmp_path / "run.yaml"
    values = {
        "out": str(out), "stage": stage, "steps": 4, "save": {"every": 2}, "train": ["connectors", "tokens"],
        "files": files, "optimizer": {"learning_rate": 1e-3}, "flow": {"shift": 3}, "parallel": {"dtype": "float32"},
        "data": {"area": 1024, "tasks": tasks("t2i")}, "watch": {"progress": False, "peak_tflops": 1.0},
    }  # fmt: skip
    if stage == 0:
        values |= {"train": ["mmdit", "plain_text"], "fresh": FRESH}
        values["files"] = {name: files[name] for name in ("text_encoder", "vae")}
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(sources_module, "training_sources", lambda run: {"t2i": Numbers("t2i")})
    assert main(["train", str(path), "--export"]) == 1
    assert "there is no checkpoint to export. The first one is written at step 2" in capsys.readouterr().err

    nan_at(monkeypatch, out, 4)
    assert main(["train", str(path)]) == 1
    message = capsys.readouterr().err
    assert re.search(r"step 4: the loss is not a finite number; task t2i, example 3 \(t2i-3\)\. Nothing of", message)
    assert main(["train", str(path), "--set", "optimizer.learning_rate=5e-4"]) == 1
    assert "vino train CONFIG --export` writes what this one has learnt" in capsys.readouterr().err
    exporting, beginning = (
        [str(path) if word == "CONFIG" else word for word in shlex.split(command)[1:]]
        for command in re.findall("`(vino train CONFIG[^`]*)`", message)
    )
    assert "seed=1" in beginning  # other examples and noise than seed 0 began with
    assert main(exporting) == 0
    assert f"{path}: step 2 of 4\n{out}/export/model.safetensors\n" in capsys.readouterr().out
    learnt = checkpoint(config(out), 2)
    name = "mmdit.img_in.proj.weight" if stage == 0 else "mmdit.connector.mlp.0.weight"
    exported = load_file(out / "export" / "model.safetensors")[name.removeprefix("mmdit.")]
    assert torch.equal(exported, learnt[f"weight/{name}"])

    starts = []
    monkeypatch.setattr(Trainer, "train", lambda trainer: starts.append(trainer.network.state_dict()) or [])
    assert main([*beginning, "--set", "optimizer.learning_rate=5e-4"]) == 0
    assert "begin, 4 steps" in capsys.readouterr().out
    trained = {name.removeprefix("weight/"): tensor for name, tensor in learnt.items() if name.startswith("weight/")}
    assert name in trained and all(torch.equal(starts[0][name], tensor) for name, tensor in trained.items())


def test_a_lora_cannot_begin_from_another_and_is_not_told_to(tmp_path: Path) -> None:
    run = config(tmp_path, stage=None, train=["tokens"], lora={"rank": 2}, data=ONE)
    told = way_on(run, True, tmp_path / "step_00000002")
    assert "files." not in told and "`vino train CONFIG --export` writes" in told and f"--set out={tmp_path}_2`" in told
