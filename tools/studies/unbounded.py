"""vino-tiny without boundary tokens: references are packed one behind the other, nothing between them.

The system exists for the study only: `registered` makes it known for as long as the study runs.
"""

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
from vino_core.systems.vino_tiny import VINO_TINY

_KEPT = tuple(one for one in VINO_TINY.mmdit.connectors if one.name == VINO_TINY.text_connector)
UNBOUNDED = replace(
    VINO_TINY,
    name="vino-tiny-unbounded",
    boundary_connector=None,
    layout=sequential_layout,
    mmdit=replace(VINO_TINY.mmdit, connectors=_KEPT),
)


@contextmanager
def registered() -> Iterator[None]:
    """UNBOUNDED among the known systems within the block."""
    SYSTEMS[UNBOUNDED.name] = UNBOUNDED
    try:
        yield
    finally:
        del SYSTEMS[UNBOUNDED.name]


def without_boundaries(source: Path, target: Path) -> None:
    """Write vino-tiny's model `source` as one of UNBOUNDED: the same weights but the boundary connector's."""
    model, _ = load_mmdit(source)
    dropped = f"{VINO_TINY.boundary_connector}."
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(dropped)}
    connectors = tuple(one for one in model.config.connectors if one.name == UNBOUNDED.text_connector)
    metadata = model_metadata(UNBOUNDED.name, replace(model.config, connectors=connectors))
    stage = read_metadata(source).get("stage")
    if stage is not None:
        metadata["stage"] = stage
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    write_safetensors([Plan(target, infos, lambda name: [weights[name]], metadata)], overwrite=True)
