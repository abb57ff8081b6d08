"""Runs on examples that were encoded beforehand: the same numbers, and no network for text or pixels in use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import Numbers, Stopped, config, exact, frozen, one_thread, parts, sources, stop_at, tasks  # noqa: F401

from vino_core.encoder.encode import BranchPrompt, append_tokens, encode_branches, encode_visuals
from vino_core.errors import InputError
from vino_core.training.dropout import Dropped
from vino_core.training.encoded import EncodedExamples, EncodedTrainer, encode_examples, variants
from vino_core.training.loop import Trainer
from vino_core.training.metrics import read_record
from vino_core.training.prepare import Prepared
from vino_core.training.team import Team

TASKS = ("t2i", "ti2i", "tiv2v")


def lora_run(out: Path, **changes):
    data = {"tasks": tasks(*TASKS), "dropout": 0.4, **changes.pop("data", {})}
    return config(out, stage=None, any_order=False, train=[], lora={"rank": 2}, data=data, steps=8, **changes)


def encoded(run, given) -> EncodedExamples:
    made = parts(run)
    engine, vae = frozen()

    def text(sample: Prepared):
        with torch.inference_mode():  # as in ComfyUI
            visuals = encode_visuals(engine, sample.references, made.system.vision)
            seen = BranchPrompt(sample.text, tuple(range(len(visuals))))
            (prompt,) = encode_branches(engine, made.system, [seen], visuals)
            return prompt.plan, append_tokens(engine, prompt, made.tokens)

    def pixels(frames: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return vae.encode(frames)

    return encode_examples(run.data, given, made.system, text, pixels, torch.float32)


def test_the_numbers_are_those_of_a_run_that_encodes_in_every_step(tmp_path: Path) -> None:
    run = lora_run(tmp_path / "beforehand", data={"batch": 2})
    given = sources(run, length=3)
    examples = encoded(run, given)
    asked = {name: len(source.asked) for name, source in given.items()}
    with Team(run.parallel) as team:
        made = replace(parts(run), engine=None, vae=None, tokens=None)
        EncodedTrainer(run, made, examples, team).train()
    assert {name: len(source.asked) for name, source in given.items()} == asked, "pixels were read again"

    usual = lora_run(tmp_path / "usual", data={"batch": 2})
    with Team(usual.parallel) as team:
        Trainer(usual, parts(usual), sources(usual, length=3), team).train()
    ours, theirs = read_record(tmp_path / "beforehand"), read_record(tmp_path / "usual")
    assert [row["task"] for row in ours] == [row["task"] for row in theirs]
    assert {row["task"] for row in ours} == set(TASKS)
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=2e-5)
    assert [row["norm"] for row in ours] == pytest.approx([row["norm"] for row in theirs], rel=1e-3)


def test_it_resumes_exactly(tmp_path: Path) -> None:
    def go(out: Path, report=None) -> None:
        run = lora_run(out)
        with Team(run.parallel) as team:
            made = replace(parts(run), engine=None, vae=None, tokens=None)
            trainer = EncodedTrainer(run, made, examples, team)
            try:
                trainer.train(report)
            except Stopped:
                trainer.save()

    run = lora_run(tmp_path)
    examples = encoded(run, sources(run, length=3))
    go(tmp_path / "whole")
    go(tmp_path / "part", stop_at(5))
    assert len(read_record(tmp_path / "part")) == 5
    go(tmp_path / "part")
    assert exact(read_record(tmp_path / "part")) == exact(read_record(tmp_path / "whole"))


def test_every_way_to_leave_out_conditions_is_encoded() -> None:
    example = Numbers("tiv2v").example(0)
    assert len(variants(example, 0.1)) == 8 and variants(example, 0.1)[0] == Dropped()
    assert variants(example, 0.0) == [Dropped()]
    assert len(variants(Numbers("t2i").example(0), 0.1)) == 2


def test_unusable_examples_are_noted_and_passed_over(tmp_path: Path) -> None:
    run = lora_run(tmp_path, data={"tasks": tasks("t2i")})
    examples = encoded(run, {"t2i": Numbers("t2i", length=4, bad=(1,))})
    assert examples.skipped == ["t2i, example 1: t2i-1: damaged"]
    with Team(run.parallel) as team:
        EncodedTrainer(run, replace(parts(run), engine=None, vae=None, tokens=None), examples, team).train()
    assert len(read_record(tmp_path)) == 8
    with pytest.raises(InputError, match="none of 2 examples can be used. t2i, example 0: t2i-0: damaged"):
        encoded(run, {"t2i": Numbers("t2i", length=2, bad=(0, 1))})
    with pytest.raises(InputError, match="endless"):
        encoded(run, {"t2i": Numbers("t2i")})


def test_only_lora_alone_may_be_trained(tmp_path: Path) -> None:
    run = config(tmp_path, stage=None, train=["tokens"], lora={"rank": 2})
    with Team(run.parallel) as team, pytest.raises(InputError, match="LoRA alone"):
        EncodedTrainer(run, parts(run), EncodedExamples({}, {}), team)
