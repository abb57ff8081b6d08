"""Muon for the matrices of the blocks, AdamW for all else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import Stopped, config, exact, one_thread, parts, sources, stop_at, tasks, train  # noqa: F401

from vino_core.errors import InputError
from vino_core.training.config import RunConfig
from vino_core.training.loop import Trainer
from vino_core.training.team import Team

MUON = {"learning_rate": 1e-3, "kind": "muon", "muon_rate": 4e-3, "warmup": 2}


def muon(out: Path, **changes: object) -> RunConfig:
    settings = {"stage": 0, "train": ["mmdit", "plain_text"], "tokens": None, "optimizer": MUON}
    return config(out, **{**settings, "data": {"tasks": tasks("t2i")}, **changes})


def test_who_gets_which_optimizer_and_rate(tmp_path: Path) -> None:
    run = muon(tmp_path, steps=2, optimizer={**MUON, "warmup": 0, "decay": 2})
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        trainer.train()
        adamw, muons = trainer.state.optimizer.param_groups
        assert (adamw["lr"], muons["lr"]) == pytest.approx((5e-4, 2e-3))
        kept = {name: trainer.state.optimizer.state[p].keys() for name, p in trainer.state.parameters.items()}
    by_muon = {name for name, moments in kept.items() if moments == {"momentum_buffer"}}
    assert all(kept[name] == {"step", "exp_avg", "exp_avg_sq"} for name in kept.keys() - by_muon)
    assert "mmdit.double_blocks.0.img_attn.qkv.weight" in by_muon and "mmdit.single_blocks.0.linear1.weight" in by_muon
    assert not {"plain_text.words.weight", "mmdit.img_in.proj.weight", "mmdit.final_layer.linear.weight"} & by_muon


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = train(muon(tmp_path / "whole"))
    with pytest.raises(Stopped):
        train(muon(tmp_path / "parts"), stop_at(3))
    assert exact(train(muon(tmp_path / "parts"))) == exact(whole)


def test_muon_is_refused_where_it_does_not_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="give both"):
        muon(tmp_path, optimizer={**MUON, "muon_rate": None})
    with pytest.raises(InputError, match="needs mmdit in train"):
        config(tmp_path, stage=1, train=["connectors", "tokens"], optimizer=MUON)
    with pytest.raises(InputError, match="whole matrices"):
        muon(tmp_path, parallel={"mode": "fsdp2"})
    run = muon(tmp_path)
    monkeypatch.delattr(torch.optim, "Muon")
    with Team(run.parallel) as team, pytest.raises(InputError, match=r"2\.9"):
        Trainer(run, parts(run), sources(run), team)
