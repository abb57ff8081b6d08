"""The published checkpoint's names and shapes, and the comparison of a file with what is expected of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from re import compile as regex

from ..systems import SYSTEMS
from .layouts import Shape

_DATA = Path(__file__).resolve().parents[1] / "data"
_COUNT = regex(r"\{(\d+)\}")
LISTED = 40
"""So many names of each kind are printed; a wrong file would fill the screen with thousands."""


def _expand(pattern: str) -> Iterator[str]:
    """`a.{2}.b` -> `a.0.b`, `a.1.b`."""
    counts = [int(count) for count in _COUNT.findall(pattern)]
    template = _COUNT.sub("{}", pattern)
    for indices in product(*(range(count) for count in counts)):
        yield template.format(*indices)


def has_manifest(system: str) -> bool:
    """Whether a checkpoint was published for `system`."""
    return _file(system).is_file()


def _file(system: str) -> Path:
    return _DATA / f"manifest_{system}.json"


@cache
def official_manifest(system: str) -> Mapping[str, Shape]:
    """Name -> shape of every tensor in the checkpoint published for `system` (VINO: 1,989; VOGUE, with learnable
    tokens: 1,265 and 729 of its text encoder).
    """
    packed = json.loads(_file(system).read_text(encoding="utf-8"))
    return {name: tuple(shape) for pattern, shape in packed["keys"].items() for name in _expand(pattern)}


@dataclass(frozen=True)
class Mismatch:
    """How a file differs from what was expected. Empty (false) when it does not."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, Shape, Shape], ...]
    """(name, shape found, shape expected)"""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def describe(self) -> str:
        """One line per difference, grouped by kind, at most `LISTED` of each."""
        lines: list[str] = []
        shapes = tuple(f"{name}  {list(found)} instead of {list(wanted)}" for name, found, wanted in self.misshapen)
        for title, entries in (("missing", self.missing), ("unexpected", self.unexpected), ("wrong shape", shapes)):
            if entries:
                lines.append(f"{title} ({len(entries)}):")
                lines += [f"  {entry}" for entry in entries[:LISTED]]
                if len(entries) > LISTED:
                    lines.append(f"  ... and {len(entries) - LISTED} more")
        return "\n".join(lines)


def compare(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Mismatch:
    """Differences between the names and shapes of a file and those expected of it."""
    return Mismatch(
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        misshapen=tuple(
            (name, tuple(found[name]), tuple(shape))
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        ),
    )


_FAMILIES: tuple[tuple[str, str], ...] = (
    ("lora_", "a LoRA. Load it on top of its model, with a LoRA loader"),
    *(hint for system in SYSTEMS.values() for hint in system.published.hints),
    ("double_blocks.0.img_attn.qkv.weight", "HunyuanVideo or a relative of it, without VINO's connectors"),
    ("transformer_blocks.0.attn.add_q_proj.weight", "a diffusers transformer (HunyuanVideo, Flux, ...), not VINO"),
    ("blocks.0.cross_attn.q.weight", "a Wan video model"),
    ("language_model.layers.0.self_attn.q_proj.weight", "a language model: a text encoder, not VINO"),
    ("model.layers.0.self_attn.q_proj.weight", "a language model: a text encoder, not VINO"),
    ("decoder.up_blocks.0.resnets.0.conv1", "a VAE"),
    ("decoder.up.0.block.0.conv1", "a VAE"),
    ("input_blocks.0.0.weight", "a Stable Diffusion model"),
)


def guess_family(names: Mapping[str, Shape]) -> str | None:
    """What a file that is not what was asked for seems to be, or None."""
    joined = "\n".join(names)
    return next((family for mark, family in _FAMILIES if mark in joined), None)
