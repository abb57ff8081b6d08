"""Where the parts of a LoRA in the official (diffusers-style) layout go in the native one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..config import MMDiTConfig
from .layouts import TRANSFORMER, Shape, by_official, model_pieces, native_shapes


class Target(NamedTuple):
    """Rows of a native weight that belong to one official layer.

    `rows` is (0, first row, number of rows), as ComfyUI's LoRA loader takes slices, or None for the whole weight.
    `swap`: the update's two halves change places before it is added.
    """

    key: str
    rows: tuple[int, int, int] | None
    swap: bool = False


def lora_targets(config: MMDiTConfig) -> Mapping[str, Target]:
    """Official layer name, without `transformer.` and `.weight`, -> the native weight (or rows of it) it updates.

    All matrices of the MMDiT are there: the layers a LoRA can sit on.
    """
    shapes: Mapping[str, Shape] = native_shapes(config)
    targets: dict[str, Target] = {}
    for official, pieces in by_official(model_pieces(config)).items():
        if not official.startswith(TRANSFORMER) or not official.endswith(".weight") or not pieces[0].columns:
            continue
        key, rows = pieces[0].native, sum(piece.rows for piece in pieces)
        start = min(piece.native_start for piece in pieces)
        whole = rows == shapes[key][0]
        name = official.removeprefix(TRANSFORMER).removesuffix(".weight")
        targets[name] = Target(key, None if whole else (0, start, rows), swap=len(pieces) > 1)
    return targets
