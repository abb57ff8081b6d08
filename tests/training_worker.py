"""Several processes on this machine, forked from one that has already imported everything.

    OMP_NUM_THREADS=1 python tests/training_worker.py FOLDER SCENARIO...

A SCENARIO is one of those below or a launcher's name. Each writes its result under FOLDER; the tests read it. The test
session starts this before its first test and goes on without waiting (beside_the_tests.py).
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tests", ROOT / "tools"):
    sys.path.insert(0, str(folder))

import accelerate  # noqa: E402, F401
import torch  # noqa: E402
import transformers.models.qwen3_vl.modeling_qwen3_vl  # noqa: E402, F401
from diffusers import AutoencoderKLHunyuanVideo  # noqa: E402, F401
from torch import Tensor  # noqa: E402
from training_kills import killed_before_every_change  # noqa: E402
from training_launches import LAUNCHERS, launch  # noqa: E402
from training_runs import Numbers, Stopped, config, frozen, parts, sources, stop_at, tasks  # noqa: E402

from vino_core.errors import InputError  # noqa: E402
from vino_core.training import loop as loop_module  # noqa: E402
from vino_core.training import state as state_module  # noqa: E402
from vino_core.training.config import RunConfig  # noqa: E402
from vino_core.training.finish import export_last  # noqa: E402
from vino_core.training.loop import Trainer  # noqa: E402
from vino_core.training.prepare import Prepared  # noqa: E402
from vino_core.training.team import Team, local  # noqa: E402

PROCESSES = 2
OTHERS = {"three": 3, "three_resumed": 3, "kills": 1}
"""Processes of the scenarios that have more, or one."""
DATA = {"tasks": tasks("t2i", "ti2i", "ti2v"), "batch": 1}
ONE_TASK = {"tasks": tasks("t2i"), "batch": 1}

MODES = "ddp", "zero2", "fsdp2"
PREVIEW = {"prompt": "a fox", "width": 32, "height": 32, "steps": 2, "text_scale": 2.0}
WATCH = {"preview": 4, "previews": [PREVIEW], "validate": 5, "validation_examples": 3}


UNEVEN = {"tasks": tasks("ti2i", "tiv2v"), "batch": 3, "dropout": 0.5}
"""What is left out decides how many layouts a process's samples have: the processes' numbers of passes differ."""


def run_of(out: Path, mode: str = "ddp", accumulation: int = 1, watch: dict | None = None, data=DATA) -> RunConfig:
    parallel = {"mode": mode, "accumulation": accumulation, "checkpointing": mode == "fsdp2"}
    return config(out, steps=10, data=data, ema=0.9, parallel=parallel, save={"every": 3}, watch=watch or {})


def held_out(run: RunConfig) -> dict[str, Numbers]:
    """Of the first three examples one cannot be used: in the first pass of two processes, one has none."""
    return sources(run, bad=(1,))


def train(out: Path, mode: str = "ddp", report: Callable | None = None, watch: dict | None = None, data=DATA) -> None:
    run = run_of(out, mode, watch=watch, data=data)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team, validation=held_out(run))
        trained: list[str] = []

        def noted(step: int, steps: int, record: dict) -> None:
            trained.append(record["task"])
            if report is not None:
                report(step, steps, record)

        trainer.train(noted)
        (out / f"tasks_{team.rank}.json").write_text(json.dumps(trained))
        drawn = {name: source.asked for name, source in trainer.feed.sources.items()}
        (out / f"asked_{team.rank}.json").write_text(json.dumps(drawn))


def stopped_and_resumed(out: Path, mode: str, data=DATA) -> None:
    """Stopped between two checkpoints, then continued."""
    with suppress(Stopped):
        train(out, mode, stop_at(5), data=data)
    train(out, mode, data=data)


def previews_missed(out: Path, mode: str) -> None:
    """Stopped behind a checkpoint and before its previews, which are drawn before the next step then."""
    watch = {**WATCH, "preview": 3}
    with suppress(Stopped):
        train(out, mode, stop_at(3), watch=watch)
    if os.environ["RANK"] == "0":  # which writes them, and decides whether they are there
        shutil.rmtree(out / "previews")
    train(out, mode, watch=watch)


def killed_while_saving(out: Path) -> None:
    """Both processes die by SIGKILL in the middle of the second checkpoint."""
    write = state_module.write_safetensors

    def deadly(plans, *rest) -> None:
        if "00000006" in str(plans[0].path):
            plans[0].path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(plans, *rest)

    state_module.write_safetensors = deadly
    train(out)


def one_dies(out: Path) -> None:
    """Process 1 is killed in step 4; process 0 must end with a message and not wait for ever."""

    def report(step: int, steps: int, record: dict) -> None:
        if step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    messages_of(out, lambda: train(out, report=report))


def one_cannot_write(out: Path) -> None:
    """Process 1 cannot write its share: both stop, and say why."""
    write = state_module.write_safetensors

    def broken(plans, *rest) -> None:
        if os.environ["RANK"] == "1" and "00000006" in str(plans[0].path):
            raise OSError(28, "No space left on device")
        write(plans, *rest)

    state_module.write_safetensors = broken
    messages_of(out, lambda: train(out))


def exported(out: Path, mode: str) -> None:
    """What the last checkpoint of an earlier scenario holds, with nothing but its checkpoints there."""
    if os.environ["RANK"] == "0":
        shutil.copytree(out.with_name(mode) / "checkpoints", out / "checkpoints")
    run = run_of(out, mode)
    with Team(run.parallel) as team:
        team.all_objects(None)  # all begin when everything is there
        export_last(run, parts(run), team)


ACCUMULATED = {"tasks": tasks("t2i", "ti2i"), "batch": 1}


def accumulated_run(out: Path, mode: str, accumulation: int = 2) -> RunConfig:
    return replace(run_of(out, mode, accumulation, data=ACCUMULATED), steps=5)


def without_and_with_a_stop(run: RunConfig) -> None:
    """In the folders `whole` and `part`; the stop is between two checkpoints."""
    with Team(run.parallel) as team:
        for name, report in (("whole", None), ("part", stop_at(4)), ("part", None)):
            one = replace(run, out=str(Path(run.out) / name))
            with suppress(Stopped):
                trainer = Trainer(one, parts(one), sources(one), team)
                begun = trainer.state.step
                trainer.train(report)
    assert begun == 3


def accumulated(out: Path, mode: str) -> None:
    without_and_with_a_stop(accumulated_run(out, mode))


def lora_with_dropout(out: Path) -> None:
    """What each process drops out comes from its own state of randomness."""
    lora = {"stage": None, "train": ["tokens"], "lora": {"rank": 2, "dropout": 0.3}}
    without_and_with_a_stop(config(out, steps=5, data=ONE_TASK, save={"every": 3}, **lora))


FROZEN = {
    "lora": {"train": ["tokens"], "lora": {"rank": 2, "dropout": 0.0}},
    "connectors": {"train": ["connectors", "tokens"]},
}
"""Runs whose MMDiT stays as it is, in bfloat16."""


def frozen_run(out: Path, mode: str, trained: str) -> RunConfig:
    return config(
        out, stage=None, steps=3, data={"tasks": tasks("t2i", "ti2i"), "batch": 1}, ema=0.9,
        parallel={"mode": mode, "dtype": "bfloat16", "checkpointing": True}, **FROZEN[trained],
    )  # fmt: skip


def on_frozen_weights(out: Path, mode: str) -> None:
    """Each of FROZEN; notes whether what is frozen is of its type and value still, and what moved."""
    with Team(frozen_run(out, mode, "lora").parallel) as team:
        for trained in FROZEN:
            run = frozen_run(out / trained, mode, trained)
            made = parts(run)
            made.mmdit.to(torch.bfloat16)
            trainer = Trainer(run, made, sources(run), team)
            whole = {name: team.whole(p.detach(), local(p.detach())).clone() for name, p in parameters(trainer)}
            trainer.train()
            after = {name: team.whole(p.detach(), local(p.detach())) for name, p in parameters(trainer)}
            rows = [
                [name, str(tensor.dtype), name in trainer.state.parameters, bool((tensor != whole[name]).any())]
                for name, tensor in after.items()
            ]
            (out / f"{trained}_{team.rank}.json").write_text(json.dumps(rows))


def parameters(trainer: Trainer) -> list[tuple[str, torch.nn.Parameter]]:
    return list(trainer.network.named_parameters())


class Told(Trainer):
    """A run that keeps what it said last of itself."""

    def _scalars(self, *arguments: Any) -> dict[str, float]:
        self.scalars = super()._scalars(*arguments)
        return self.scalars


def with_bad_examples(out: Path) -> None:
    """Two of four examples to train on and one of three held-out ones cannot be used; both processes meet them."""
    watch = {"validate": 2, "validation_examples": 3}
    run = config(out, steps=8, data=ONE_TASK, watch=watch, save={"every": 4})
    for report in (stop_at(6), None):
        with suppress(Stopped), Team(run.parallel) as team:
            trainer = Told(run, parts(run), sources(run, length=4, bad=(1, 2)), team, sources(run, bad=(1,)))
            trainer.train(report)
    (out / f"told_{team.rank}.json").write_text(json.dumps(trainer.scalars))


def messages_of(out: Path, work: Callable[[], object]) -> None:
    """What each process says when it fails with a message, and how."""
    try:
        work()
    except InputError as error:
        (out / f"message_{os.environ['RANK']}.txt").write_text(str(error))
        raise


def nan_in_one(out: Path) -> None:
    """A sample of process 1 alone has a loss that is no number."""
    usual = Trainer._losses

    def broken(trainer: Trainer, samples: Sequence[Prepared], *rest: Any) -> Tensor:
        losses = usual(trainer, samples, *rest)
        if os.environ["RANK"] == "1" and trainer.state.step == 3:
            (out / "sample.txt").write_text(samples[0].id)
            losses = losses * float("nan")
        return losses

    Trainer._losses = broken
    messages_of(out, lambda: train(out, data=ONE_TASK))


def one_lacks_a_file(out: Path) -> None:
    """Process 1 cannot load what the command needs."""
    from vino_core.commands import train as command
    from vino_core.training import config as config_module
    from vino_core.training import parts as parts_module
    from vino_core.training import sources as sources_module

    def load_parts(run: RunConfig, device: object) -> object:
        if os.environ["RANK"] == "1":
            raise InputError("files.vae: nothing lies there")
        return parts(run)

    config_module.load_config = lambda *_: run_of(out)
    parts_module.load_parts = load_parts
    sources_module.training_sources = sources
    messages_of(out, lambda: command.run(Namespace(config="run.yaml", set=[], check=False, export=False)))


def one_cannot_restore(out: Path) -> None:
    """Process 1's share of the last checkpoint is damaged."""
    with suppress(Stopped):
        train(out, "fsdp2", stop_at(4))
    if os.environ["RANK"] == "1":
        (out / "checkpoints" / "step_00000003" / "rank_00001.safetensors").write_bytes(b"damaged")
    messages_of(out, lambda: train(out, "fsdp2"))


def one_dies_in_setup(out: Path) -> None:
    """Process 1 is killed while it makes its network, before the first step."""

    def build(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1":
        loop_module.build_network = build
    messages_of(out, lambda: train(out))


def one_never_comes(out: Path) -> None:
    """Process 1 is gone before it meets the other."""
    if os.environ["RANK"] == "0":
        messages_of(out, lambda: Team(replace(run_of(out).parallel, timeout=5)))


def half(out: Path, mode: str) -> None:
    """A run in bfloat16; notes the types of a block's weights while it computes, of its gradients, and afterwards."""
    run = run_of(out, mode)
    run = replace(run, steps=3, parallel=replace(run.parallel, dtype="bfloat16"))
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        block, step, types = trainer.network.mmdit.double_blocks[0], trainer.state.optimizer.step, {}

        def look(module: object, arguments: tuple) -> None:
            types["computing"] = str(block.img_attn.qkv.weight.dtype)
            types["level"] = str(levels[-1].dtype)

        def stepped() -> None:
            types["gradient"] = str(block.img_attn.qkv.weight.grad.dtype)
            step()

        levels: list[Tensor] = []
        timestep = trainer.network.timestep
        trainer.network.timestep = lambda level: (levels.append(level), timestep(level))[1]
        block.register_forward_pre_hook(look)
        trainer.state.optimizer.step = stepped
        trainer.train()
        types["kept"] = str(block.img_attn.qkv.weight.dtype)
        (out / f"types_{team.rank}.json").write_text(json.dumps(types))


DEEPSPEED: dict[str, Callable[[Path], None]] = {
    "deepspeed": lambda out: train(out, "deepspeed"),
    "deepspeed_resumed": lambda out: stopped_and_resumed(out, "deepspeed"),
    "deepspeed_uneven": lambda out: train(out, "deepspeed", data=UNEVEN),
    "deepspeed_watched": lambda out: train(out, "deepspeed", watch=WATCH),
    "deepspeed_accumulated": partial(accumulated, mode="deepspeed"),
    "deepspeed_exported": lambda out: exported(out, "deepspeed"),
}
"""Run where DeepSpeed is installed."""

SCENARIOS: dict[str, Callable[[Path], None]] = {
    "ddp": lambda out: train(out, "ddp"),
    "zero2": lambda out: train(out, "zero2"),
    "fsdp2": lambda out: train(out, "fsdp2"),
    "zero2_resumed": lambda out: stopped_and_resumed(out, "zero2"),
    "fsdp2_resumed": lambda out: stopped_and_resumed(out, "fsdp2"),
    "three": lambda out: train(out, data=ONE_TASK),
    "three_resumed": lambda out: stopped_and_resumed(out, "ddp", ONE_TASK),
    **{f"{mode}_watched": partial(train, mode=mode, watch=WATCH) for mode in MODES},
    **{f"{mode}_missed": partial(previews_missed, mode=mode) for mode in ("zero2", "fsdp2")},
    **{f"{mode}_uneven": partial(train, mode=mode, data=UNEVEN) for mode in MODES},
    "kills": killed_before_every_change,
    "killed": killed_while_saving,
    "resumed": lambda out: train(out.with_name("killed")),
    "one_dies": one_dies,
    "one_cannot_write": one_cannot_write,
    "nan_in_one": nan_in_one,
    "one_lacks_a_file": one_lacks_a_file,
    "one_cannot_restore": one_cannot_restore,
    "one_dies_in_setup": one_dies_in_setup,
    "one_never_comes": one_never_comes,
    **{f"{mode}_half": partial(half, mode=mode) for mode in MODES},
    **{f"{mode}_exported": partial(exported, mode=mode) for mode in MODES},
    **{f"{mode}_accumulated": partial(accumulated, mode=mode) for mode in MODES},
    "lora_with_dropout": lora_with_dropout,
    **{f"{mode}_frozen": partial(on_frozen_weights, mode=mode) for mode in MODES},
    "bad_examples": with_bad_examples,
}


def threads_of_the_group() -> list[str]:
    """What is left of a process group, by the names of its threads."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def start(scenario: str, out: Path) -> list[int]:
    """Fork the scenario's processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    out.mkdir(parents=True, exist_ok=True)
    processes = OTHERS.get(scenario, PROCESSES)
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
            )  # fmt: skip
            code = 1
            try:
                (SCENARIOS | DEEPSPEED)[scenario](out)
                gc.collect()
                (out / f"threads_{rank}.json").write_text(json.dumps(threads_of_the_group()))
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    return children


def main() -> None:
    frozen()  # once for all; safe before a fork because the caller allows one thread only
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    for scenario in sorted(names, key=lambda name: name in DEEPSPEED):
        if scenario in LAUNCHERS:
            launch(scenario, folder / scenario)
            continue
        if scenario in DEEPSPEED:  # loaded once for all that use it, and not before the others are through
            os.environ.update(DS_ACCELERATOR="cpu", DS_IGNORE_CUDA_DETECTION="1")
            import deepspeed  # noqa: F401
        started = time.monotonic()
        codes = [os.waitpid(child, 0)[1] for child in start(scenario, folder / scenario)]
        result = {"codes": [os.waitstatus_to_exitcode(code) for code in codes], "seconds": time.monotonic() - started}
        (folder / f"{scenario}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
