"""Two processes on the CPU: the same losses however they share the work, and no half-finished end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from beside_the_tests import Worker
from training_runs import LIMIT, assert_alike, exact, one_thread  # noqa: F401
from training_worker import FROZEN, SCENARIOS, UNEVEN, WATCH, accumulated_run, held_out, run_of
from training_worker import parts as worker_parts
from training_worker import sources as worker_sources

from vino_core.training.loop import Trainer
from vino_core.training.metrics import VALIDATION, read_record
from vino_core.training.team import Team

WORKS = tuple(SCENARIOS)
"""What the session's worker runs for these tests."""


@pytest.fixture(scope="module")
def folder(worker: Worker) -> Path:
    """All scenarios of the worker, run."""
    return worker.results()


def result(folder: Path, scenario: str) -> dict:
    return json.loads((folder / f"{scenario}.json").read_text())


def in_one_process(out: Path, **changes: Any) -> Path:
    """The same samples in one process: two passes a step instead of two processes."""
    run = run_of(out, accumulation=2, **changes)
    with Team(run.parallel) as team:
        Trainer(run, worker_parts(run), worker_sources(run), team, held_out(run)).train()
    return out


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_one_process(tmp_path_factory.mktemp("single"), watch={**WATCH, "preview": 0})


@pytest.fixture(scope="module")
def single_uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_one_process(tmp_path_factory.mktemp("uneven"), data=UNEVEN)


@pytest.fixture(scope="module")
def single_accumulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("accumulated")
    run = accumulated_run(out, "ddp", accumulation=4)
    with Team(run.parallel) as team:
        Trainer(run, worker_parts(run), worker_sources(run), team).train()
    return out


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_two_processes_reach_the_losses_of_one(folder: Path, single: Path, mode: str) -> None:
    assert result(folder, mode)["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    rows, wanted = read_record(folder / mode), read_record(single)
    assert len(rows) == 10
    assert_alike(rows, wanted)


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_processes_whose_samples_differ_in_layout_keep_step(folder: Path, single_uneven: Path, mode: str) -> None:
    assert result(folder, f"{mode}_uneven")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    assert_alike(read_record(folder / f"{mode}_uneven"), read_record(single_uneven))


@pytest.mark.parametrize("mode", ["zero2", "fsdp2"])
def test_all_write_the_same_result(folder: Path, mode: str) -> None:
    from safetensors.torch import load_file

    reference = load_file(folder / "ddp" / "export" / "model.safetensors")
    for name, tensor in load_file(folder / mode / "export" / "model.safetensors").items():
        assert (tensor - reference[name]).abs().max() < 1e-4, name


def test_processes_draw_the_same_tasks_and_never_the_same_example(folder: Path) -> None:
    first, second = (json.loads((folder / "ddp" / f"asked_{rank}.json").read_text()) for rank in range(2))
    orders = [json.loads((folder / "ddp" / f"tasks_{rank}.json").read_text()) for rank in range(2)]
    assert orders[0] == orders[1] == [row["task"] for row in read_record(folder / "ddp")]
    assert len(set(orders[0])) == 3
    for name, asked in first.items():
        both = asked + second[name]
        assert sorted(both) == list(range(len(both)))


def test_killed_while_saving_and_resumed_bit_for_bit(folder: Path) -> None:
    assert result(folder, "killed")["codes"] == [-9, -9]
    assert result(folder, "resumed")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    assert exact(read_record(folder / "killed")) == exact(read_record(folder / "ddp"))


def test_a_run_that_is_killed_before_any_change_of_its_folder_goes_on_bit_for_bit(folder: Path) -> None:
    found = json.loads((folder / "kills" / "kills.json").read_text())
    for kill in found["kills"]:
        assert (kill["code"], kill["again"]) == (-9, 0), (kill["before"], (folder / "log.txt").read_text()[-3000:])
        assert kill["losses"] == found["whole"], kill["before"]
    before = " ".join(kill["before"] for kill in found["kills"])
    for change in ("replace", "unlink", "rmdir", "state.json", "losses.jsonl", "export"):
        assert change in before
    assert len(found["kills"]) > 20 and len(found["whole"]) == 2


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux only")
@pytest.mark.parametrize("scenario", ["ddp", "ddp_watched", "resumed"])
def test_no_thread_outlives_its_run(folder: Path, scenario: str) -> None:
    """One that does may abort the process while the interpreter shuts down."""
    out = folder / scenario
    assert [json.loads((out / f"threads_{rank}.json").read_text()) for rank in range(2)] == [[], []]


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_the_last_checkpoint_is_exported_as_the_end_was(folder: Path, mode: str) -> None:
    assert result(folder, f"{mode}_exported")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    files = [path.name for path in (folder / f"{mode}_exported" / "export").iterdir()]
    assert sorted(files) == ["model.safetensors", "tokens.safetensors"]
    for name in files:
        ours, theirs = ((folder / of / "export" / name).read_bytes() for of in (f"{mode}_exported", mode))
        assert ours == theirs


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_two_passes_of_two_processes_are_four_of_one_and_resume_bit_for_bit(
    folder: Path, mode: str, single_accumulated: Path
) -> None:
    assert result(folder, f"{mode}_accumulated")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    whole, part = (read_record(folder / f"{mode}_accumulated" / name) for name in ("whole", "part"))
    assert len(whole) == 5 and exact(part) == exact(whole)
    assert_alike(whole, read_record(single_accumulated))


def test_the_randomness_of_each_process_goes_on_where_it_was(folder: Path) -> None:
    assert result(folder, "lora_with_dropout")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    whole, part = (read_record(folder / "lora_with_dropout" / name) for name in ("whole", "part"))
    assert len(whole) == 5 and exact(part) == exact(whole)


@pytest.mark.parametrize("trained", FROZEN)
@pytest.mark.parametrize("mode", ["zero2", "fsdp2"])
def test_frozen_weights_in_bfloat16_are_sharded_and_stay(folder: Path, mode: str, trained: str) -> None:
    for name in (mode, "ddp"):
        assert result(folder, f"{name}_frozen")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    tables = [json.loads((folder / f"{mode}_frozen" / f"{trained}_{rank}.json").read_text()) for rank in range(2)]
    assert tables[0] == tables[1]
    wanted = {True: ("torch.float32", True), False: ("torch.bfloat16", False)}
    assert all((dtype, moved) == wanted[learns] for _, dtype, learns, moved in tables[0])
    assert {name for name, _, learns, _ in tables[0] if learns and name == "tokens"}
    assert sum(learns for _, _, learns, _ in tables[0]) > 5 < sum(not learns for _, _, learns, _ in tables[0])
    ours, theirs = (read_record(folder / f"{name}_frozen" / trained) for name in (mode, "ddp"))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=5e-3)
    assert [row["norm"] for row in ours] == pytest.approx([row["norm"] for row in theirs], rel=5e-2)


def test_what_both_processes_left_out_counts_once(folder: Path) -> None:
    out = folder / "bad_examples"
    assert result(folder, "bad_examples")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    for rank in range(2):
        listed = [json.loads(line)["index"] for line in (out / f"skipped_{rank:05d}.jsonl").read_text().splitlines()]
        assert sorted(listed) == [1, 2]
        told = json.loads((out / f"told_{rank}.json").read_text())
        counts = {name: told[name] for name in told if name.startswith("data/")}
        assert counts == {"data/skipped": 2, "data/adapted": 0, "data/skipped_held_out": 1}


@pytest.mark.parametrize("mode", ["zero2", "fsdp2"])
def test_sharded_runs_resume_bit_for_bit(folder: Path, mode: str) -> None:
    assert result(folder, f"{mode}_resumed")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    assert exact(read_record(folder / f"{mode}_resumed")) == exact(read_record(folder / mode))


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_each_number_of_the_average_is_kept_by_one_process(folder: Path, mode: str) -> None:
    """Replicated weights are dealt out whole, sharded ones lie in parts."""
    from safetensors.torch import load_file

    last = folder / mode / "checkpoints" / "step_00000010"
    shares = [load_file(last / f"rank_{rank:05d}.safetensors") for rank in range(2)]
    kept = [{name: t.numel() for name, t in share.items() if name.startswith("ema/")} for share in shares]
    assert all(kept)
    assert (kept[0].keys() & kept[1].keys() == set()) == (mode == "ddp")
    weights = [{name: t.numel() for name, t in share.items() if name.startswith("weight/")} for share in shares]
    assert {name.removeprefix("ema/") for share in kept for name in share} == {
        name.removeprefix("weight/") for name in weights[0]
    }
    assert sum(map(sum, (share.values() for share in kept))) == sum(map(sum, (share.values() for share in weights)))


def test_three_processes_resume_bit_for_bit(folder: Path) -> None:
    """Sums of three depend on their order, which DDP may change behind its first step."""
    for scenario in ("three", "three_resumed"):
        assert result(folder, scenario)["codes"] == [0, 0, 0], (folder / "log.txt").read_text()[-3000:]
    assert exact(read_record(folder / "three_resumed")) == exact(read_record(folder / "three"))


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_previews_and_validation_leave_no_trace(folder: Path, mode: str) -> None:
    assert result(folder, f"{mode}_watched")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    assert exact(read_record(folder / f"{mode}_watched")) == exact(read_record(folder / mode))
    made = sorted(path.name for path in (folder / f"{mode}_watched" / "previews").iterdir())
    assert made == ["step_00000004_0.png", "step_00000008_0.png"]


@pytest.mark.parametrize("mode", ["zero2", "fsdp2"])
def test_previews_that_a_stop_left_out_are_drawn_before_the_next_step(folder: Path, mode: str) -> None:
    assert result(folder, f"{mode}_missed")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    assert exact(read_record(folder / f"{mode}_missed")) == exact(read_record(folder / mode))
    made = {path.name for path in (folder / f"{mode}_missed" / "previews").iterdir()}
    assert made == {f"step_{step:08d}_0.png" for step in (3, 6, 9)}


def test_when_one_process_dies_the_other_stops_with_a_message(folder: Path) -> None:
    outcome = result(folder, "one_dies")
    assert outcome["codes"][1] == -9 and outcome["codes"][0] not in (0, -9)
    assert outcome["seconds"] < 60
    assert "another process of this run died" in (folder / "one_dies" / "message_0.txt").read_text()


def test_a_nan_of_one_process_stops_both_and_names_its_sample(folder: Path) -> None:
    assert result(folder, "nan_in_one")["seconds"] < 60
    out = folder / "nan_in_one"
    messages = [(out / f"message_{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1] and "step 4: the loss is not a finite number" in messages[0]
    assert re.findall(r"example \d+ \((.*?)\)", messages[0]) == [(out / "sample.txt").read_text()]
    assert len(read_record(out)) == 3


@pytest.mark.parametrize(
    ("scenario", "wanted"),
    [
        ("one_lacks_a_file", ["another process of this run failed: files.vae: nothing", "^files.vae: nothing lies"]),
        (
            "one_cannot_restore",
            ["another process .*rank_00001.safetensors: damaged", "^.*rank_00001.*: damaged .*begin"],
        ),
        ("one_dies_in_setup", ["another process of this run died or no longer answers", None]),
        ("one_never_comes", ["did not all come together within parallel.timeout = 5 seconds", None]),
    ],
)
def test_who_fails_before_the_first_step_leaves_the_others_with_a_message(
    folder: Path, scenario: str, wanted: list[str | None]
) -> None:
    assert result(folder, scenario)["seconds"] < 60
    for rank, expected in enumerate(wanted):
        place = folder / scenario / f"message_{rank}.txt"
        if expected is None:
            assert not place.exists()
        else:
            assert re.search(expected, place.read_text()), (folder / "log.txt").read_text()[-3000:]


@pytest.mark.parametrize("mode", ["zero2", "fsdp2"])
def test_sharded_weights_travel_in_the_computing_type_and_are_kept_in_float32(folder: Path, mode: str) -> None:
    assert result(folder, f"{mode}_half")["codes"] == [0, 0], (folder / "log.txt").read_text()[-3000:]
    kept = {"gradient": "torch.float32", "kept": "torch.float32", "level": "torch.float32"}
    types = [json.loads((folder / f"{mode}_half" / f"types_{rank}.json").read_text()) for rank in range(2)]
    assert types == [{"computing": "torch.bfloat16", **kept}] * 2
    for ours, theirs in zip(read_record(folder / f"{mode}_half"), read_record(folder / "ddp_half"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=5e-3)


@pytest.mark.parametrize("mode", ["ddp", "zero2", "fsdp2"])
def test_validation_losses_are_averages_over_all_processes(folder: Path, single: Path, mode: str) -> None:
    """Three examples on two processes, of which one cannot be used: each has one that does not count."""
    ours, theirs = (read_record(place, VALIDATION) for place in (folder / f"{mode}_watched", single))
    assert [(row["step"], row["task"]) for row in theirs] == [(n, t) for n in (5, 10) for t in ("t2i", "ti2i", "ti2v")]
    assert [(row["step"], row["task"]) for row in ours] == [(row["step"], row["task"]) for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=LIMIT)


def test_when_one_process_cannot_write_both_say_why(folder: Path) -> None:
    messages = [(folder / "one_cannot_write" / f"message_{rank}.txt").read_text() for rank in range(2)]
    assert all("No space left" in message for message in messages)
    kept = [path.name for path in (folder / "one_cannot_write" / "checkpoints").glob("step_*")]
    assert kept == ["step_00000003"]
