"""AdamW (or Muon), its rate as a function of the step, and gradient clipping that is the same however weights are
spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..errors import InputError
from .config import Optimizer
from .team import Team, local, widest

_BLOCKS = ("mmdit.double_blocks.", "mmdit.single_blocks.", "mmdit.txt_in.individual_token_refiner.")


class MuonAdamW(torch.optim.AdamW):
    """Muon for some matrices and AdamW for all else, with one state and one list of groups."""

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], rate: float, **adamw) -> None:
        super().__init__(others, **adamw)
        # Updates as large as AdamW's, so that both take rates and decay of the same order.
        self._muon = torch.optim.Muon(
            matrices, lr=rate, weight_decay=adamw["weight_decay"], adjust_lr_fn="match_rms_adamw"
        )
        self._muon.state = self.state
        self._adamw_groups = self.param_groups
        self.param_groups = [*self._adamw_groups, *self._muon.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        """One step of both."""
        self._muon.step()
        groups, self.param_groups = self.param_groups, self._adamw_groups
        super().step()
        self.param_groups = groups


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    """The optimizer of the trained parameters. Each of its groups has a `scale`, its rate over the learning rate."""
    adamw = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.kind == "adamw":
        optimizer = torch.optim.AdamW(list(parameters.values()), **adamw)
    else:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"optimizer.kind is muon, which PyTorch has from 2.9 on; this is {torch.__version__}. "
                "Update PyTorch, or set it to adamw."
            )
        matrices = {name for name, p in parameters.items() if p.ndim == 2 and name.startswith(_BLOCKS)}
        optimizer = MuonAdamW(
            [p for name, p in parameters.items() if name in matrices],
            [p for name, p in parameters.items() if name not in matrices],
            settings.muon_rate,
            **adamw,
        )
    for group in optimizer.param_groups:
        group["scale"] = group["lr"] / settings.learning_rate
    return optimizer


def rate(settings: Optimizer, step: int, steps: int) -> float:
    """Learning rate of step `step` (the first is 1) of `steps`."""
    factor = 1.0
    if step <= settings.warmup:
        factor = step / settings.warmup
    elif settings.decay and step > steps - settings.decay:
        factor = (steps - step + 1) / settings.decay
    return settings.learning_rate * factor


@torch.no_grad()
def clip_gradients(
    parameters: Mapping[str, nn.Parameter], parts: Mapping[str, str], limit: float, team: Team
) -> dict[str, float]:
    """Scale all gradients so that their common norm is at most `limit`; return the norms before, per part and "all"."""
    squares: dict[str, torch.Tensor] = {}
    gradients = {name: local(p.grad) for name, p in parameters.items() if p.grad is not None}
    for name, gradient in gradients.items():
        wide = widest(gradient.device)
        zero = torch.zeros((), dtype=wide, device=gradient.device)
        squares[parts[name]] = squares.get(parts[name], zero) + gradient.to(wide).square().sum()
    names = sorted(squares)
    sums = team.total(torch.stack([squares[name] for name in names]))
    norm = float(sums.sum().sqrt())
    if norm > limit:
        torch._foreach_mul_(list(gradients.values()), limit / norm)
    return {**dict(zip(names, sums.sqrt().tolist(), strict=True)), "all": norm}
