"""Checkpoints of a run: everything that an exact continuation needs, and never half of it.

A checkpoint is a folder `step_00000100`: one safetensors file per process and `state.json`, which is written last. The
folder is filled under another name and renamed when complete, so a run may be killed at any moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..checkpoints.header import TensorInfo
from ..checkpoints.writing import Plan, reported, write_safetensors
from ..errors import InputError
from .ema import EMA
from .identity import comparable, decides_result
from .team import Team, local
from .zero import ZeroOptimizer

RECORD = "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


@dataclass
class TrainState:
    """What changes while a run goes on."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer | ZeroOptimizer
    ema: EMA | None
    step: int = 0
    positions: dict[str, int] | None = None

    @property
    def owners(self) -> Mapping[str, Tensor]:
        """The tensors that have a state in the optimizer, by name."""
        return self.optimizer.owners if isinstance(self.optimizer, ZeroOptimizer) else self.parameters


class Checkpoints:
    """The checkpoints under `folder`, of which the last `keep` stay. `identity` are the settings that must not change,
    `contents` hashes of what they name outside; `frozen` is the fingerprint that older checkpoints have instead.
    `exporting`: only what the exported files depend on must not change."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        identity: Mapping[str, Any],
        contents: Mapping[str, str],
        frozen: str,
        team: Team,
        exporting: bool = False,
    ) -> None:
        self.folder, self.keep, self.team, self.exporting = folder, keep, team, exporting
        self.identity, self.contents, self.frozen = dict(identity), dict(contents), frozen

    def last(self) -> Path | None:
        """The newest complete checkpoint."""
        return newest(self.folder)

    def common(self) -> Path | None:
        """The newest complete checkpoint; all processes must call. Raises InputError where they see different ones."""
        found = self.last()
        seen = self.team.all_objects(found.name if found else "none")
        if len(set(seen)) > 1:
            told = ", ".join(f"process {number} {name}" for number, name in enumerate(seen))
            raise InputError(
                f"{self.folder}: the processes do not find the same last checkpoint: {told}. `out` must be one folder "
                "that all of them see; bring it there whole, and start again."
            )
        return found

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint, unless this step has one; all processes must call.

        Raises InputError on all of them when one cannot write.
        """
        target = self.folder / f"step_{state.step:08d}"
        if self.team.all_objects(target in _complete(self.folder))[0]:
            return target
        part = self.folder / f".{target.name}.part"
        error: Exception | None = None
        if self.team.first:
            error = _attempt(lambda: self._clear(part))
        self.team.agree(error)
        self.team.agree(_attempt(lambda: self._write_share(part, state)))
        if self.team.first:
            error = _attempt(lambda: self._finish(part, target, state))
        self.team.agree(error)
        return target

    def restore(self, state: TrainState, path: Path) -> None:
        """Put everything back. Raises InputError for a checkpoint of another run, or of another number of processes,
        and for a damaged one."""
        with self._readable(path / RECORD):
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        self._check(record, path)
        tensors = self._load(path / _share(self.team.rank))
        common = tensors
        if not self.team.sharded and self.team.rank:
            common = self._load(path / _share(0))
        for name, parameter in state.parameters.items():
            kept = common.get(f"weight/{name}")
            if kept is None or kept.shape != local(parameter).shape:
                raise InputError(
                    f"{path} has no {name} of shape {list(local(parameter).shape)}: it was trained from a model of "
                    "other dimensions than `files` or `fresh` names now. Restore them."
                )
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                local(parameter.detach()).copy_(common[f"weight/{name}"])
            owned = tensors if self.team.deepspeed else common
            for name, owner in state.owners.items():
                kept = {moment: f"{moment}/{name}" for moment in _MOMENTS if f"{moment}/{name}" in owned}
                if kept:
                    state.optimizer.state[owner] = {
                        moment: _like(owner, owned[place]) for moment, place in kept.items()
                    }
                if f"step/{name}" in owned:
                    state.optimizer.state[owner]["step"] = owned[f"step/{name}"]
            if self.team.deepspeed:
                state.optimizer.refresh()
        if state.ema is not None:
            state.ema.load({name.removeprefix("ema/"): t for name, t in tensors.items() if name.startswith("ema/")})
        torch.set_rng_state(tensors["rng/cpu"])
        if "rng/device" in tensors:
            torch.cuda.set_rng_state(tensors["rng/device"], self.team.device)
        state.step, state.positions = record["step"], record["positions"]

    def _load(self, file: Path) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        with self._readable(file):
            return load_file(file)

    @contextmanager
    def _readable(self, file: Path) -> Iterator[None]:
        """Turn what goes wrong while a checkpoint's `file` is read into InputError."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, ValueError, SafetensorError) as error:
            older = [path for path in _complete(self.folder) if path < file.parent]
            anew = "has nothing to export" if self.exporting else "begins anew"
            then = f"goes on from {older[-1].name}" if older else f"{anew}, as there is no older checkpoint"
            raise InputError(
                f"{file}: damaged ({error}). Copy it again if there is another copy, or remove {file.parent}: the same "
                f"command then {then}."
            ) from error

    def _clear(self, part: Path) -> None:
        with reported(part):
            for left in self.folder.glob(".step_*.part"):
                shutil.rmtree(left)
            part.mkdir(parents=True)

    def _write_share(self, part: Path, state: TrainState) -> None:
        tensors = dict(self._tensors(state))
        infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        path = part / _share(self.team.rank)
        write_safetensors([Plan(path, infos, lambda name: [tensors[name].detach().cpu()], {})])

    def _tensors(self, state: TrainState) -> dict[str, Tensor]:
        tensors = {"rng/cpu": torch.get_rng_state()}
        if self.team.device.type == "cuda":
            tensors["rng/device"] = torch.cuda.get_rng_state(self.team.device)
        if self.team.sharded or self.team.first:
            for name, parameter in state.parameters.items():
                tensors[f"weight/{name}"] = local(parameter.detach())
        if self.team.sharded or self.team.deepspeed or self.team.first:
            for name, owner in state.owners.items():
                moments = state.optimizer.state.get(owner, {})
                tensors.update({f"{key}/{name}": local(value) for key, value in moments.items()})
        if state.ema is not None:
            tensors.update({f"ema/{name}": value for name, value in state.ema.shadow.items()})
        return tensors

    def _finish(self, part: Path, target: Path, state: TrainState) -> None:
        record = {
            "step": state.step,
            "positions": state.positions,
            "processes": self.team.size,
            "identity": self.identity,
            "contents": self.contents,
        }
        with reported(target):
            with (part / RECORD).open("w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():  # half removed, as it is not complete
                shutil.rmtree(target)
            os.replace(part, target)
            if hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            for old in sorted(self.folder.glob("step_*"))[: -self.keep]:
                (old / RECORD).unlink(missing_ok=True)  # a removal that is cut short leaves nothing that looks whole
                shutil.rmtree(old)

    def _check(self, record: Mapping[str, Any], path: Path) -> None:
        changed = sorted(_differences(comparable(record["identity"]), self.identity))
        if self.exporting:
            changed = [name for name in changed if decides_result(name)]
        if changed:
            raise InputError(
                f"{path} belongs to a run with other settings ({', '.join(changed)}). Restore them, or choose another "
                f"out for a new run{self._offer(changed)}."
            )
        if record.get("frozen", self.frozen) != self.frozen:
            raise InputError(f"{path} was trained on other frozen weights than `files` names now. Restore those files.")
        kept = record.get("contents", {})
        other = sorted(name for name, value in self.contents.items() if kept.get(name, value) != value)
        if other:
            raise InputError(
                f"{path}: {', '.join(other)} {'is' if len(other) == 1 else 'are'} not what this run was trained with "
                "so far: something else lies there. Put back what was there, or choose another out for a new "
                f"run{self._offer(other)}."
            )
        if record["processes"] != self.team.size:
            raise InputError(
                f"{path} was written by {record['processes']} processes, this run has {self.team.size}. "
                "Start as many again."
            )

    def _offer(self, changed: Sequence[str]) -> str:
        """Another way on, where the result so far does not depend on what changed."""
        if self.exporting or any(decides_result(name) for name in changed):
            return ""
        model = "" if self.identity["lora"] else ", which files.model of the new one may name"
        return f"; `vino train CONFIG --export` writes what this one has learnt so far{model}"


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder of them; None where there is none."""
    found = _complete(folder)
    return found[-1] if found else None


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if (path / RECORD).is_file())


def fingerprint(network: nn.Module) -> str:
    """A short name for the values of all parameters that are not trained: a few numbers of each are looked at.

    Checkpoints had it before they had hashes of all contents.
    """
    digest = sha256()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 8)][:8].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _share(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


def _like(parameter: Tensor, part: Tensor) -> Tensor:
    part = part.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return part
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(part, parameter.device_mesh, parameter.placements, shape=shape, stride=stride)


def _attempt(work: Any) -> Exception | None:
    """What went wrong in `work`, as an error that all processes can be told of."""
    try:
        work()
    except InputError as error:
        return error
    except OSError as error:
        return InputError(f"checkpoint: cannot be written ({error}).")
    return None


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [
            place for key in keys for place in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [where]
