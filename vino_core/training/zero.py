"""ZeRO-2 by DeepSpeed: weights lie whole on every process, gradients and the optimizer's state in equal parts."""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .config import Optimizer
from .team import Team


class ZeroOptimizer:
    """What the loop asks of an optimizer, answered by a DeepSpeed engine. Weights, gradients and moments are float32.

    `owners`: the flat pieces of the weights that this process updates, by name; `state` holds their moments.
    """

    def __init__(self, engine: Any) -> None:
        self.engine, self.zero = engine, engine.optimizer
        pieces = [piece for group in self.zero.optimizer.param_groups for piece in group["params"]]
        self.owners = {f"piece_{number}": piece for number, piece in enumerate(pieces)}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.zero.optimizer.param_groups

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        return self.zero.optimizer.state

    def norm(self) -> float:
        """The norm of all gradients, over all processes, after the last backward pass of a step."""
        norm = float(self.zero.scaled_global_norm())
        return norm if norm >= 0 else math.nan  # DeepSpeed says -1 where it is not finite

    def step(self) -> None:
        """Clip and update."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """`step` has done it."""

    def refresh(self) -> None:
        """Take over weights that were changed from outside."""
        self.zero.refresh_fp32_params()


class _InAutocast(nn.Module):
    """DeepSpeed switches autocast off around the module that it wraps."""

    def __init__(self, network: nn.Module, team: Team) -> None:
        super().__init__()
        self.network, self.team = network, team

    def forward(self, *arguments: Any) -> Any:
        context: AbstractContextManager = self.team.autocast()
        with context:
            return self.network(*arguments)


def spread_by_deepspeed(
    network: nn.Module, optimizer: torch.optim.Optimizer, settings: Optimizer, team: Team
) -> tuple[nn.Module, ZeroOptimizer]:
    """The module to call and the optimizer to step. Raises InputError when DeepSpeed is not there."""
    if team.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("DS_IGNORE_CUDA_DETECTION", "1")
    if shutil.which("ninja") is None:  # pip puts it beside python, whose folder need not be on PATH
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    try:
        import deepspeed
    except ImportError as error:
        raise InputError(
            f"parallel.mode is deepspeed, which does not load ({error}). Install it (pip install "
            "'vino[deepspeed]'), or choose zero2, which shards as much without it."
        ) from error
    config = {
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": settings.clip,
        "train_micro_batch_size_per_gpu": 1,  # the loop counts samples itself, and divides losses itself
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(
        model=_InAutocast(network, team), optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine, ZeroOptimizer(engine)
