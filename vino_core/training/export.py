"""The result of a run as the files that inference takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import model_metadata, save_tokens
from ..checkpoints.header import TensorInfo
from ..checkpoints.writing import Plan, write_safetensors
from ..systems import get_system
from .config import RunConfig
from .ema import EMA
from .lora import save_lora
from .network import Network
from .team import Team, local

MODEL = "model.safetensors"
TOKENS = "tokens.safetensors"
LORA = "lora.safetensors"
PLAIN_TEXT = "plain_text.safetensors"


def export(run: RunConfig, network: Network, ema: EMA | None, team: Team, folder: Path) -> list[Path]:
    """Write model (or LoRA), tokens and plain text encoder under `folder`, the averaged weights where there are any.

    All processes must call; the first one writes. The metadata names the stage, which the next stage looks at.
    """
    names = [name for name, _ in network.named_parameters()]
    half = torch.float32 if run.lora is not None else getattr(torch, run.parallel.dtype)
    gather = _gatherer(network, ema, team)
    mmdit = gather([n for n in names if n.startswith("mmdit.") and (run.lora is None or "lora_" in n)], half)
    tokens = gather([n for n in names if n == "tokens"], torch.float32)
    plain_text = gather([n for n in names if n.startswith("plain_text.")], torch.float32)
    written = []
    error: Exception | None = None
    if team.first:
        try:
            written = _write(run, network, mmdit, tokens.get("tokens"), folder)
            if plain_text:
                metadata = {"format": "pt", "system": run.system, "kind": "plain_text"}
                written.append(_save(folder / PLAIN_TEXT, plain_text, torch.float32, metadata))
        except Exception as problem:  # told to the other processes, then raised
            error = problem
    team.agree(error)
    return written


def _gatherer(
    network: Network, ema: EMA | None, team: Team
) -> Callable[[Sequence[str], torch.dtype], dict[str, Tensor]]:
    """Collects parameters by name, in the given type: all processes must call, the first one gets them."""
    parameters = dict(network.named_parameters())

    def whole(name: str) -> Tensor:
        if ema is not None and name in ema.parameters:
            return ema.whole(name)
        parameter = parameters[name].detach()
        return team.whole(parameter, local(parameter))

    def gather(names: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
        kept = {}
        for name in names:
            tensor = whole(name)
            if team.first:
                kept[name] = tensor.to("cpu", dtype)
        return kept

    return gather


def _write(
    run: RunConfig, network: Network, mmdit: dict[str, Tensor], tokens: Tensor | None, folder: Path
) -> list[Path]:
    written = []
    weights = {name.removeprefix("mmdit."): tensor for name, tensor in mmdit.items()}
    if run.lora is not None:
        save_lora(folder / LORA, weights, run.lora, run.system, overwrite=True)
        written.append(folder / LORA)
    else:
        dtype = getattr(torch, run.parallel.dtype)
        system = get_system(run.system)
        count = 0 if tokens is None else len(tokens) - system.for_tokens(tokens).marks
        # Only where a system has variants does the number say which one this is.
        metadata = model_metadata(run.system, network.mmdit.config, None if system.with_tokens is None else count)
        if run.stage is not None:
            metadata["stage"] = str(run.stage)
        written.append(_save(folder / MODEL, weights, dtype, metadata))
    if tokens is not None:
        save_tokens(folder / TOKENS, tokens, run.system, overwrite=True)
        written.append(folder / TOKENS)
    return written


def _save(path: Path, weights: dict[str, Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> Path:
    infos = {name: TensorInfo(dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    write_safetensors([Plan(path, infos, lambda name: [weights[name]], metadata)], overwrite=True)
    return path
