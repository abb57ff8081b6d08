"""A run that does not reach its end: what its last checkpoint holds as files, and how a new run begins from them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .assembly import assemble, build_network
from .config import RunConfig
from .contents import contents
from .export import MODEL, PLAIN_TEXT, TOKENS, export
from .parts import Parts
from .state import Checkpoints, fingerprint, newest
from .team import Team


def checkpoints_of(run: RunConfig) -> Path:
    """The folder of the run's checkpoints."""
    return Path(run.out) / "checkpoints"


def export_folder(run: RunConfig) -> Path:
    """The folder of the run's result."""
    return Path(run.out) / "export"


def last_checkpoint(run: RunConfig) -> Path:
    """The run's newest complete checkpoint. Raises InputError when it has none."""
    found = newest(checkpoints_of(run))
    if found is None:
        raise InputError(
            f"{checkpoints_of(run)}: there is no checkpoint to export. The first one is written at step "
            f"{min(run.save.every, run.steps)} (save.every): train until then, or correct out."
        )
    return found


def export_last(run: RunConfig, parts: Parts, team: Team) -> tuple[int, list[Path]]:
    """Write what the last checkpoint holds, the averaged weights where there are any: its step, and the files.

    All processes must call, as many as wrote it. Data are not needed, and settings of the optimizer and the data may
    have changed. Raises InputError when there is no checkpoint, or when it belongs to another run.
    """
    with team.together():
        last = last_checkpoint(run)
        network = build_network(run, parts).to(team.device)
        frozen = fingerprint(network)
        inside = contents(run.files, replace(parts, engine=None, vae=None), network, {})
    _, state = assemble(run, network, team)
    checkpoints = Checkpoints(last.parent, run.save.keep, run.identity(), inside, frozen, team, exporting=True)
    with team.together():
        checkpoints.restore(state, last)
    return state.step, export(run, network, state.ema, team, export_folder(run))


def way_on(run: RunConfig, tokens: bool, last: Path | None) -> str:
    """How to go on behind checkpoint `last` (None: there is none) without a sample, or with a setting that a resume
    refuses to change. `tokens`: whether the run has learnable tokens.

    The commands are those of a shell.
    """
    change = "leave the sample out, or lower optimizer.learning_rate"
    if run.parallel.dtype != "float32":
        change += ", or set parallel.dtype to float32"
    if last is None:
        return f"To go on, {change}, and give the same command again: there is no checkpoint yet, so it begins anew."
    again = f"vino train CONFIG {' '.join(f'--set {shlex.quote(each)}' for each in _begin_again(run, tokens))}"
    if run.lora is not None:
        return (
            f"To go on, begin a new run: {change}, and give `{again}`. What {last.name} holds, `vino train CONFIG "
            f"--export` writes to {export_folder(run)}."
        )
    return (
        "To go on, add --export to this run's command (`vino train CONFIG --export`), which writes what "
        f"{last.name} holds; then {change}, and begin a new run from that with `{again}`."
    )


def _begin_again(run: RunConfig, tokens: bool) -> list[str]:
    """What a new run from this one's export sets."""
    changes = [f"out={run.out}_2"]
    if run.lora is not None:
        return changes
    folder = export_folder(run)
    changes += [f"seed={(run.seed + 1) % 2**63}"]  # with this one's, its examples and noise would come again
    changes += ["fresh=null"] if run.fresh is not None else []
    changes += ["files.base=null"] if run.files.base is not None else []
    changes += [f"files.model={folder / MODEL}"]
    if tokens:
        changes += ["tokens=null"] if run.tokens is not None else []
        changes += [f"files.tokens={folder / TOKENS}"]
    if run.stage == 0:
        changes += [f"files.plain_text={folder / PLAIN_TEXT}"]
    if run.stage == 1 and not run.any_order:  # stages 2 and 3 go on from themselves as they are
        changes += ["any_order=true"]
    return changes
