"""The trained half of a step as one module, so that every way of running in parallel wraps the same thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoints.sources import Checkpoint
from ..encoder.encode import append_tokens, appended_padding
from ..encoder.engine import BatchEngine
from ..errors import InputError
from ..mmdit.connectors import connect
from ..mmdit.model import Conditioning, MMDiT, run_block
from ..systems.base import System
from .conditioning import Group


class PlainText(nn.Module):
    """The base's text encoder of stage 0: an embedding and a place per token. It is thrown away afterwards."""

    def __init__(self, width: int, rows: int = 8192, places: int = 512) -> None:
        super().__init__()
        self.words = nn.Embedding(rows, width)
        self.places = nn.Embedding(places, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, n] -> [B, n, width]; ids beyond the table share rows, tokens beyond the last place share it."""
        order = torch.arange(ids.shape[1], device=ids.device).clamp(max=self.places.num_embeddings - 1)
        return self.words(ids % self.words.num_embeddings) + self.places(order)


def load_plain_text(module: PlainText, path: str) -> None:
    """Fill in the weights that an earlier stage 0 exported. Raises InputError when the file's are others."""
    checkpoint = Checkpoint([path], strip=("plain_text.",))
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if dict(checkpoint.shapes) != wanted:
        raise InputError(f"{path}: not the plain text encoder of a stage 0 with a text stream of this width.")
    module.load_state_dict({name: checkpoint.read(name) for name in wanted})


def checkpointed(kind: str, index: int, block: nn.Module, *arguments: Any, **needed: Any) -> Any:
    """A block runner that keeps the block's inputs only and computes it again in the backward pass."""
    return checkpoint(block, *arguments, use_reentrant=False, **needed)


class Network(nn.Module):
    """MMDiT with connectors, learnable tokens and (in stage 0) the plain text encoder.

    The frozen VLM is used, not owned: it is no part of the parameters, the checkpoints or what is wrapped.
    """

    def __init__(
        self,
        mmdit: MMDiT,
        system: System,
        engine: BatchEngine,
        tokens: Tensor | None = None,
        plain_text: PlainText | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.mmdit = mmdit
        self.tokens = None if tokens is None else nn.Parameter(tokens.float())
        self.plain_text = plain_text
        self.system, self.engine = system, engine
        self.runner = checkpointed if checkpointing else run_block

    def forward(self, groups: Sequence[Group], noisy: Sequence[Tensor], sigma: Sequence[Tensor]) -> list[Tensor]:
        """Velocities [B, 16, t, h, w] of each group's `noisy` latents at its `sigma` [B]."""
        unused = self._unused()
        velocities = []
        for group, latents, level in zip(groups, noisy, sigma, strict=True):
            guidance = None
            if self.system.guidance_input is not None:
                guidance = torch.tensor([self.system.guidance_input], device=latents.device)
            velocities.append(
                self.mmdit(
                    latents,
                    self.timestep(level),
                    self.conditioning(group),
                    guidance,
                    runner=self.runner,
                )
                + unused
            )
        return velocities

    def conditioning(self, group: Group) -> Conditioning:
        """What the MMDiT is given; gradients flow to tokens and connectors."""
        if group.ids is not None:
            return Conditioning(self.plain_text(group.ids), padding=group.padding)
        states = append_tokens(self.engine, group.prompt, self.tokens)
        padding = appended_padding(group.prompt, self.tokens)
        # Connectors are kept in float32 while they train, whatever the VLM's type; autocast decides how they compute.
        connected = connect(self.mmdit, self.system, states.to(group.target), group.boundaries)
        return Conditioning(
            connected.text, connected.boundaries, group.references, padding=padding, conditions=group.conditions
        )

    def timestep(self, level: Tensor) -> Tensor:
        """The MMDiT's timestep [B] at noise level `level` [B], in the precision that the system is used to."""
        timestep = level * self.system.timestep_scale
        if self.system.rounded_timestep and torch.is_autocast_enabled(level.device.type):
            return timestep.to(torch.get_autocast_dtype(level.device.type)).float()
        return timestep

    def _unused(self) -> Tensor:
        """Zero, and a part of the graph of parameters that a sample may not touch.

        All processes must bring gradients for the same parameters, and a sample without references has none for the
        boundary connector: here it gets zeros.
        """
        return sum((parameter.flatten()[0] * 0.0 for parameter in self._edges()), start=torch.zeros(()))

    def _edges(self) -> Iterator[nn.Parameter]:
        for connector in self.mmdit.config.connectors:
            yield from (p for p in self.mmdit.get_submodule(connector.name).parameters() if p.requires_grad)
        for part in (self.tokens, *(self.plain_text.parameters() if self.plain_text else ())):
            if part is not None and part.requires_grad:
                yield part
