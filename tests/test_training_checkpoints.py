"""Checkpoints that cannot be read, must not be lost, or belong to other files than those that are there now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from data_files import picture, write_manifest
from training_runs import Numbers, config, exact, frozen, one_thread, parts, sources, tasks, train  # noqa: F401

from vino_core.errors import InputError
from vino_core.training import state as state_module
from vino_core.training.contents import data_digest, weights_digest
from vino_core.training.data.folder import FolderSource
from vino_core.training.loop import Trainer
from vino_core.training.metrics import read_record
from vino_core.training.state import fingerprint
from vino_core.training.team import Team

SHARE = "rank_00000.safetensors"


def run_of(out: Path, **changes):
    return config(out, data={"tasks": tasks("t2i")}, **changes)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


DAMAGE = {
    "cut": (SHARE, cut),
    "empty": (SHARE, lambda file: file.write_bytes(b"")),
    "gone": (SHARE, Path.unlink),
    "half a state": ("state.json", lambda file: file.write_text('{"step": 4, ')),
    "no text": ("state.json", lambda file: file.write_bytes(b"\xff\xfe")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_with_the_one_before(tmp_path: Path, damage: str) -> None:
    run = run_of(tmp_path)
    rows = train(run)
    last = tmp_path / "checkpoints" / "step_00000004"
    name, harm = DAMAGE[damage]
    harm(last / name)
    with pytest.raises(InputError, match=f"step_00000004/{name}: damaged .*goes on from step_00000002"):
        train(run)
    shutil.rmtree(last)
    assert exact(train(run)) == exact(rows)
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000002")
    harm(last / name)
    with pytest.raises(InputError, match="begins anew, as there is no older checkpoint"):
        train(run)


def test_a_checkpoint_of_a_model_of_another_size_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, steps=2)
    train(run)
    made = parts(run)
    made.tokens = torch.zeros(3, made.tokens.shape[1])
    with Team(run.parallel) as team, pytest.raises(InputError, match=r"has no tokens of shape \[3, 64\]"):
        Trainer(run, made, sources(run), team)


def test_a_step_that_has_its_checkpoint_is_not_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed in the middle of the second time would have none."""
    run = run_of(tmp_path, steps=2, save={"every": 2, "keep": 1})
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        trainer.train()
        folder = tmp_path / "checkpoints" / "step_00000002"
        before = {path.name: path.stat().st_ino for path in folder.iterdir()}

        def never(*_) -> None:
            raise AssertionError("written or removed again")

        monkeypatch.setattr(state_module, "write_safetensors", never)
        monkeypatch.setattr(state_module.shutil, "rmtree", never)
        assert trainer.save() == folder
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


def test_processes_that_see_other_checkpoints_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of one node that another one does not see."""
    run = run_of(tmp_path, steps=2)
    train(run)
    monkeypatch.setattr(Team, "all_objects", lambda team, value: [value, "none" if value else value])
    with Team(run.parallel) as team, pytest.raises(InputError, match="process 0 step_00000002, process 1 none.*`out`"):
        Trainer(run, parts(run), sources(run), team)


def test_a_checkpoint_whose_removal_was_cut_short_does_not_count(tmp_path: Path, monkeypatch) -> None:
    run = run_of(tmp_path, save={"every": 2, "keep": 1})
    monkeypatch.setattr(state_module.shutil, "rmtree", lambda path: (path / SHARE).unlink())
    train(run)
    assert (tmp_path / "checkpoints" / "step_00000002").is_dir()
    found = state_module._complete(tmp_path / "checkpoints")
    assert [path.name for path in found] == ["step_00000004"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
@pytest.mark.parametrize("file", ["losses.jsonl", "validation.jsonl"])
def test_a_full_disk_ends_a_run_with_a_message_whatever_it_hits_first(tmp_path: Path, file: str) -> None:
    run = run_of(tmp_path, watch={"validate": 1, "validation_examples": 1})
    rows = train(run_of(tmp_path / "whole"))

    def fill(step: int, steps: int, record: dict) -> None:
        if step == 2:
            (tmp_path / file).rename(tmp_path / "kept")
            (tmp_path / file).symlink_to("/dev/full")

    with pytest.raises(InputError, match=f"{file}: the disk is full. Free some space"):
        train(run, fill)
    (tmp_path / file).unlink()
    (tmp_path / "kept").rename(tmp_path / file)
    assert exact(train(run)) == exact(rows)
    assert [row["step"] for row in read_record(tmp_path, "validation.jsonl")] == [1, 2, 3, 4]


def changed(module: torch.nn.Module):
    """Another weight in the middle of a network; returns how to undo it."""
    tensor = list(module.parameters())[-1].data.flatten()
    place = len(tensor) // 2
    before = tensor[place].item()
    tensor[place] = before + 0.5
    return lambda: tensor.__setitem__(place, before)


@pytest.mark.parametrize(("name", "number"), [("files.text_encoder", 0), ("files.vae", 1)])
def test_another_text_encoder_or_vae_is_noticed(tmp_path: Path, name: str, number: int) -> None:
    """One weight is enough, of a path that says the same."""
    run = run_of(tmp_path)
    train(run_of(tmp_path, steps=2))
    network = frozen()[number]
    undo = changed(network.model if number == 0 else network.module)
    try:
        with pytest.raises(InputError, match=f"step_00000002: {name} is not what .*Put back .*train CONFIG --export`"):
            train(run)
    finally:
        undo()
    assert len(train(run)) == 4


def test_another_model_is_noticed_where_it_is_frozen(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, stage=1, train=["connectors", "tokens"], files={"model": "-"}, fresh=None, steps=2
    )  # fmt: skip
    train(run)
    made = parts(run)
    changed(made.mmdit.img_in)
    with Team(run.parallel) as team, pytest.raises(InputError, match=r"files\.model is not what [^`]*$"):
        Trainer(run, made, sources(run), team)


def test_other_data_are_noticed(tmp_path: Path) -> None:
    train(run_of(tmp_path, steps=2), given={"t2i": Numbers("t2i", length=5)})
    with pytest.raises(InputError, match=r"data\.tasks\.t2i is not what this run was trained with"):
        train(run_of(tmp_path), given={"t2i": Numbers("t2i", length=6)})
    assert len(train(run_of(tmp_path), given={"t2i": Numbers("t2i", length=5)})) == 4


def test_what_data_are_is_what_they_hold_and_not_when_they_were_written(tmp_path: Path) -> None:
    def digest(folder: Path, caption: str = "one", colour: int = 0, count: int = 3) -> str:
        folder.mkdir()
        rows = [
            {"index": n, "task": "t2i", "caption": caption, "target_path": picture(folder / f"{n}.png", colour, 32, 32)}
            for n in range(count)
        ]
        write_manifest(folder, rows)
        return data_digest(FolderSource(folder, "t2i"))

    first = digest(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "copy", copy_function=shutil.copyfile)
    assert data_digest(FolderSource(tmp_path / "copy", "t2i")) == first
    others = [{"caption": "two"}, {"colour": 1}, {"count": 2}]
    assert len({digest(tmp_path / str(n), **other) for n, other in enumerate(others)} | {first}) == 4
    (tmp_path / "copy" / "0.png").unlink()
    assert data_digest(FolderSource(tmp_path / "copy", "t2i")) != first


def test_every_value_of_the_weights_counts_and_no_name() -> None:
    one, two = torch.randn(300, 20), torch.randn(7).bfloat16()
    whole = weights_digest([one, two])
    assert weights_digest([two.clone(), one.clone(), one.t().contiguous().t()]) == whole
    for tensor in (one, two):
        for place in (0, -1):
            other = tensor.clone()
            other.view(-1)[place] += 0.25
            assert weights_digest([other if each is tensor else each for each in (one, two)]) != whole
    assert weights_digest([one.flip(0), two]) != whole and weights_digest([one.view(20, 300), two]) != whole
    assert weights_digest([one]) != whole


def test_checkpoints_from_before_contents_were_noted_go_on(tmp_path: Path) -> None:
    rows = train(run_of(tmp_path / "whole", stage=1, train=["connectors", "tokens"]))
    out = tmp_path / "old"
    run = run_of(out, stage=1, train=["connectors", "tokens"])
    train(run_of(out, stage=1, train=["connectors", "tokens"], steps=2))
    path = out / "checkpoints" / "step_00000002" / "state.json"
    record = json.loads(path.read_text())
    del record["contents"]
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        record["frozen"] = fingerprint(trainer.network)
    path.write_text(json.dumps(record))
    assert exact(train(run)) == exact(rows)
    shutil.rmtree(out / "checkpoints" / "step_00000004")
    path.write_text(json.dumps({**record, "frozen": "another"}))
    with pytest.raises(InputError, match="other frozen weights than `files` names now"):
        train(run)
