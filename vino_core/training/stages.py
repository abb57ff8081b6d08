"""What a stage trains, and in which order stages follow each other (VINO paper sections 2.3 and 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from ..errors import InputError
from ..systems import get_system
from ..systems.base import System
from .config import RunConfig
from .network import Network

EXPECTED = {0: {"mmdit", "plain_text"}, 1: {"connectors", "tokens"}, 2: {"connectors", "tokens", "mmdit"},
            3: {"connectors", "tokens", "mmdit"}}  # fmt: skip


def parts_of(network: Network) -> dict[str, str]:
    """The part (mmdit, connectors, tokens, plain_text, lora) that each parameter belongs to."""
    connectors = tuple(f"mmdit.{connector.name}." for connector in network.mmdit.config.connectors)

    def part(name: str) -> str:
        if ".lora_A." in name or ".lora_B." in name:
            return "lora"
        if name == "tokens":
            return "tokens"
        if name.startswith("plain_text."):
            return "plain_text"
        return "connectors" if name.startswith(connectors) else "mmdit"

    return {name: part(name) for name, _ in network.named_parameters()}


def choose_trainable(network: Network, train: Iterable[str]) -> dict[str, nn.Parameter]:
    """Let gradients flow to the named parts only, and return their parameters by name.

    Raises InputError for a part that the network lacks.
    """
    wanted, parts = set(train), parts_of(network)
    missing = sorted(wanted - set(parts.values()))
    if missing:
        has = ", ".join(sorted(set(parts.values())))
        raise InputError(f"train names {', '.join(missing)}, which this run does not have. It has {has}.")
    chosen = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parts[name] in wanted)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            chosen[name] = parameter
    return chosen


def check_tasks(run: RunConfig, system: System) -> None:
    """Raise InputError for a task in the mixture that the system does not have."""
    lacking = [name for name in run.data.tasks if name not in system.training_tasks]
    if lacking:
        raise InputError(
            f"data.tasks: {system.name} has no task {', '.join(lacking)}. It trains on "
            f"{', '.join(system.training_tasks)}."
        )


def check_stage(run: RunConfig, metadata: Mapping[str, str]) -> None:
    """Raise InputError when a stage trains other parts than its own, or starts from the wrong stage's result.

    `metadata` is that of `files.model`. `any_order` allows both, for ablations.
    """
    if run.stage is None or run.any_order:
        return
    expected = EXPECTED[run.stage]
    fresh = get_system(run.system).learnable_tokens if run.tokens is None else run.tokens
    if not (run.files.tokens or fresh):
        expected = expected - {"tokens"}
    if set(run.train) != expected:
        raise InputError(
            f"stage {run.stage} trains {', '.join(sorted(expected))}; train names {', '.join(sorted(run.train))}. "
            "Correct it, or set any_order for an experiment."
        )
    before = metadata.get("stage")
    allowed = {0: (None, "0"), 1: (None, "0"), 2: ("1", "2"), 3: ("2", "3")}[run.stage]
    if before not in allowed:
        start = (
            f"the result of stage {run.stage - 1}" if run.stage else "fresh weights, or the result of another stage 0"
        )
        if run.files.model is not None:
            wrong = f"{run.files.model} is " + (f"the result of stage {before}" if before else "of no known stage")
        elif run.files.base is not None:
            wrong = f"files.base {run.files.base} has no connectors yet. Give that result as files.model"
        else:
            wrong = "fresh weights are where stage 0 begins. Give that result as files.model"
        raise InputError(
            f"stage {run.stage} starts from {start}; {wrong}. Run the stages in order, or set any_order for an "
            "experiment."
        )
