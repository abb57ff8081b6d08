"""From the VLM's hidden states to the width of the MMDiT (VINO paper section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import ConnectorConfig
from ..errors import InputError

if TYPE_CHECKING:
    from ..systems.base import System


class Connected(NamedTuple):
    """`text` [B, L, text_dim] and the boundary tokens [B, 2K, C], or None without references."""

    text: Tensor
    boundaries: Tensor | None


class Connector(nn.Module):
    """RMSNorm -> Linear(in, inner) -> GELU -> Linear(inner, out), on [..., in] to [..., out]."""

    def __init__(
        self,
        config: ConnectorConfig,
        operations: ModuleType | Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        placement = {"dtype": dtype, "device": device}
        self.config = config
        self.norm_qwen = operations.RMSNorm(config.in_features, eps=1e-6, **placement)
        self.mlp = nn.Sequential(
            operations.Linear(config.in_features, config.inner_features, **placement),
            nn.GELU(approximate=config.gelu),
            operations.Linear(config.inner_features, config.out_features, **placement),
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.mlp(self.norm_qwen(states))


def connect(model: nn.Module, system: System, states: Tensor, boundaries: Sequence[tuple[int, int]]) -> Connected:
    """Run the model's connectors on the VLM's states [B, L, width], once for all steps.

    `boundaries` holds the rows of each reference's (vision start, vision end); only those go through the second
    connector. Raises InputError when the states have another width than the model takes.
    """
    connector = model.get_submodule(system.text_connector)
    if states.shape[-1] != connector.config.in_features:
        published, title = system.connector(system.text_connector).in_features, system.published.vlm_title
        raise InputError(
            f"The text encoder's states are {states.shape[-1]} wide, the model's {system.text_connector} takes "
            f"{connector.config.in_features}. Load the text encoder that belongs to this model ({title} for the "
            f"published {system.published.title}, {published} wide)."
        )
    text = connector(states)
    if system.boundary_connector is None or not boundaries:
        return Connected(text, None)
    rows = [row for pair in boundaries for row in pair]
    return Connected(text, model.get_submodule(system.boundary_connector)(states[:, rows]))
