"""Systems that exist for the studies only: `registered` makes them known for as long as one runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vino_core.checkpoints.files import load_mmdit, model_metadata, read_metadata
from vino_core.checkpoints.header import TensorInfo
from vino_core.checkpoints.writing import Plan, write_safetensors
from vino_core.mmdit.packing import sequential_layout
from vino_core.systems import SYSTEMS
from vino_core.systems.base import System
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue_tiny import VOGUE_TINY

_KEPT = tuple(one for one in VINO_TINY.mmdit.connectors if one.name == VINO_TINY.text_connector)
UNBOUNDED = replace(
    VINO_TINY,
    name="vino-tiny-unbounded",
    boundary_connector=None,
    layout=sequential_layout,
    mmdit=replace(VINO_TINY.mmdit, connectors=_KEPT),
)
"""vino-tiny without boundary tokens: references are packed one behind the other, nothing between them."""

MMDIT_ALONE = replace(VOGUE_TINY, name="vogue-tiny-mmdit-alone", vision=replace(VOGUE_TINY.vision, shown=False))
"""vogue-tiny whose text encoder reads the text and sees no reference."""

VLM_ALONE = replace(VOGUE_TINY, name="vogue-tiny-vlm-alone", packed=False)
"""vogue-tiny whose MMDiT gets no reference: what the text encoder tells of them is all that it knows."""


@contextmanager
def registered() -> Iterator[None]:
    """The systems of this file among the known ones within the block."""
    own = {system.name: system for system in (UNBOUNDED, MMDIT_ALONE, VLM_ALONE)}
    SYSTEMS.update(own)
    try:
        yield
    finally:
        for name in own:
            del SYSTEMS[name]


def as_system(source: Path, target: Path, system: System) -> None:
    """Write the model `source` as one of `system`: the same weights but those of connectors that it has not."""
    model, _ = load_mmdit(source)
    names = {connector.name for connector in system.mmdit.connectors}
    connectors = tuple(connector for connector in model.config.connectors if connector.name in names)
    dropped = tuple(f"{one.name}." for one in model.config.connectors if one.name not in names)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(dropped)}
    metadata = model_metadata(system.name, replace(model.config, connectors=connectors))
    stage = read_metadata(source).get("stage")
    if stage is not None:
        metadata["stage"] = stage
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    write_safetensors([Plan(target, infos, lambda name: [weights[name]], metadata)], overwrite=True)
