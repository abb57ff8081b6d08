"""The running average of the trained weights, in float32, each process keeping its share of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .team import Team, local


class EMA:
    """`average <- decay * average + (1 - decay) * weight` after every step.

    Sharded parameters are averaged where they lie. Replicated ones are dealt out: parameter number i belongs to
    process i modulo their number.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, team: Team) -> None:
        self.parameters, self.decay, self.team = parameters, decay, team
        self._owner = {name: None if team.sharded else n % team.size for n, name in enumerate(parameters)}
        self.shadow = {
            name: local(parameter.detach()).float().clone()
            for name, parameter in parameters.items()
            if self._owner[name] in (None, team.rank)
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        weights = [local(self.parameters[name].detach()).float() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1.0 - self.decay)

    @torch.no_grad()
    def load(self, shadow: Mapping[str, Tensor]) -> None:
        """Go on from a saved share."""
        for name, value in self.shadow.items():
            value.copy_(shadow[name])

    @torch.no_grad()
    def whole(self, name: str) -> Tensor:
        """One averaged tensor in full, on every process; all must ask."""
        parameter, owner = self.parameters[name], self._owner[name]
        part = self.shadow.get(name, parameter)
        return self.team.whole(parameter, part, owner)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The averages in place of the weights within the block; the very same weights afterwards."""
        kept = {name: local(parameter.detach()).clone() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            average = self.shadow[name] if self._owner[name] is None else self.whole(name)
            local(parameter.detach()).copy_(average)
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                local(parameter.detach()).copy_(kept[name])
