"""Dimensions of the trainable networks, as they are written into the metadata of model files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class ConnectorConfig:
    """One MLP from the VLM's hidden states to the MMDiT: RMSNorm -> Linear -> GELU -> Linear.

    `gelu` is "tanh" or "none" (the exact erf form), as in `torch.nn.functional.gelu`. `hidden_features` is the width
    in between; None: 4 x `out_features`.
    """

    name: str
    in_features: int
    out_features: int
    gelu: str = "tanh"
    hidden_features: int | None = None

    @property
    def inner_features(self) -> int:
        """Width between the two linear layers."""
        return 4 * self.out_features if self.hidden_features is None else self.hidden_features


@dataclass(frozen=True)
class MMDiTConfig:
    """Dimensions of the MMDiT (defaults: HunyuanVideo T2V, 12.8 billion parameters) and of its connectors."""

    in_channels: int = 16
    out_channels: int = 16
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 20
    depth_single: int = 40
    depth_refiner: int = 2
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int, int] = (1, 2, 2)
    text_dim: int = 4096
    guidance_embed: bool = True
    rope_theta: float = 256.0
    rope_axes: tuple[int, int, int] = (16, 56, 56)
    connectors: tuple[ConnectorConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise InputError(
                f"MMDiT config: hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}."
            )
        if sum(self.rope_axes) != self.head_dim or any(axis % 2 for axis in self.rope_axes):
            raise InputError(
                f"MMDiT config: rope_axes {self.rope_axes} must be even and add up to the head width {self.head_dim}."
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def to_json(self) -> str:
        """The config as JSON text, for the `config` entry of a safetensors file's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MMDiTConfig:
        """Inverse of `to_json`. Raises InputError on unknown fields or text that is not JSON."""
        try:
            values: dict[str, Any] = json.loads(text)
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"MMDiT config: not readable as JSON ({error}). Convert the checkpoint again.") from error
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(
                f"MMDiT config: unknown fields {sorted(unknown)}. The file was written by a newer version: update VINO."
            )
        for name in ("patch_size", "rope_axes"):
            if name in values:
                values[name] = tuple(values[name])
        values["connectors"] = tuple(ConnectorConfig(**entry) for entry in values.get("connectors", ()))
        return cls(**values)
