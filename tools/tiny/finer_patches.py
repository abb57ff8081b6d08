"""Write an MMDiT whose patches are single latent cells, from one whose patches are larger: the start of a finer one.

    python tools/tiny/finer_patches.py BASE.safetensors FINER.safetensors

Blocks and texts stay as they are. A cell goes in as if it filled the whole patch, and comes out as the mean of what the
patch's cells were. Positions lie closer together than those learned, so it needs training before it is any good.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from torch import Tensor  # noqa: E402

from vino_core.checkpoints.files import open_model  # noqa: E402
from vino_core.checkpoints.header import TensorInfo  # noqa: E402
from vino_core.checkpoints.writing import Plan, write_safetensors  # noqa: E402
from vino_core.errors import InputError  # noqa: E402

_CELL = (1, 1, 1)


def finer(name: str, tensor: Tensor, cells: int) -> Tensor:
    """A tensor for patches of one cell, out of one for patches of `cells`."""
    if name == "img_in.proj.weight":
        changed = tensor.float().sum((-3, -2, -1), keepdim=True)
    elif name.startswith("final_layer.linear."):
        changed = tensor.float().unflatten(0, (-1, cells)).mean(1)
    else:
        return tensor
    return changed.to(tensor.dtype).contiguous()


def finer_patches(source: Path, out: Path) -> None:
    """Write `out`. Raises InputError for a model whose patches are single cells already."""
    checkpoint, config = open_model(source)
    cells = prod(config.patch_size)
    if cells == 1:
        raise InputError(f"{source}: its patches are single latent cells already.")
    tensors = {name: finer(name, checkpoint.read(name), cells) for name in checkpoint}
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    metadata = {**checkpoint.metadata, "config": replace(config, patch_size=_CELL).to_json()}
    write_safetensors([Plan(out, infos, lambda name: [tensors[name]], metadata)], overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        finer_patches(arguments.source, arguments.out)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
