"""Write a smaller MMDiT: some blocks of a larger one, in their order, and all that is not in a block.

    python tools/tiny/keep_blocks.py BASE.safetensors SMALLER.safetensors --double 1 2 --single 0 1 2

Blocks count from 0. The result has its source's metadata, so that it goes on where that one was; it needs training
before it is any good.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.files import open_model  # noqa: E402
from vino_core.checkpoints.writing import Plan, write_safetensors  # noqa: E402
from vino_core.errors import InputError  # noqa: E402

_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.")


def kept_name(name: str, kept: Mapping[str, Sequence[int]]) -> str | None:
    """What a tensor is called in the smaller model; None for one of a block that is left out."""
    found = _BLOCK.match(name)
    if found is None:
        return name
    kind, number = found[1], int(found[2])
    if number not in kept[kind]:
        return None
    return f"{kind}_blocks.{kept[kind].index(number)}.{name[found.end() :]}"


def keep_blocks(source: Path, out: Path, double: Sequence[int], single: Sequence[int]) -> None:
    """Write `out` with these blocks of `source`. Raises InputError for blocks that it lacks, or none of a kind."""
    checkpoint, config = open_model(source)
    kept = {"double": sorted(set(double)), "single": sorted(set(single))}
    for kind, count in (("double", config.depth), ("single", config.depth_single)):
        if not kept[kind] or kept[kind][0] < 0 or kept[kind][-1] >= count:
            raise InputError(
                f"--{kind} {kept[kind]}: {source} has the {kind} blocks 0 to {count - 1}; keep one or more."
            )
    smaller = replace(config, depth=len(kept["double"]), depth_single=len(kept["single"]))
    names = {new: name for name in checkpoint if (new := kept_name(name, kept)) is not None}
    infos = {new: checkpoint.tensors[name] for new, name in names.items()}
    metadata = {**checkpoint.metadata, "config": smaller.to_json()}
    write_safetensors([Plan(out, infos, lambda new: [checkpoint.read(names[new])], metadata)], overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    for kind in ("double", "single"):
        parser.add_argument(f"--{kind}", type=int, nargs="+", required=True, metavar="N", help=f"{kind} blocks to keep")
    arguments = parser.parse_args()
    try:
        keep_blocks(arguments.source, arguments.out, arguments.double, arguments.single)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
