"""What a run trains: its network, spread over the processes, with optimizer and average."""

from __future__ import annotations

import torch
from torch import nn

from .config import RunConfig
from .ema import EMA
from .lora import add_lora
from .network import Network, PlainText, load_plain_text
from .optimizer import make_optimizer
from .parts import Parts
from .stages import choose_trainable
from .state import TrainState
from .team import Team
from .zero import spread_by_deepspeed


def build_network(run: RunConfig, parts: Parts) -> Network:
    """The trained half of the run's steps, with gradients for what the run trains and nothing else."""
    plain = None
    if run.stage == 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            plain = PlainText(parts.mmdit.config.text_dim)
        if run.files.plain_text is not None:
            load_plain_text(plain, run.files.plain_text)
    if run.lora is not None:
        add_lora(parts.mmdit, run.lora, run.seed)
    network = Network(parts.mmdit, parts.system, parts.engine, parts.tokens, plain, run.parallel.checkpointing)
    choose_trainable(network, (*run.train, "lora") if run.lora is not None else run.train)
    return network


def assemble(run: RunConfig, network: Network, team: Team) -> tuple[nn.Module, TrainState]:
    """The module to call, and the state before the first step; all processes must call."""
    module = team.spread(network)
    torch.manual_seed(run.seed + team.rank)  # for what has no generator of its own: LoRA's dropout
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    ema = None if run.ema is None else EMA(parameters, run.ema, team)
    optimizer = make_optimizer(parameters, run.optimizer)
    if team.deepspeed:
        module, optimizer = spread_by_deepspeed(network, optimizer, run.optimizer, team)
    return module, TrainState(parameters, optimizer, ema)
