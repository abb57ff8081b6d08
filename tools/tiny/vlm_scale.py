"""Write a text encoder whose states are a power of two smaller, and which says the same.

    python tools/tiny/vlm_scale.py LARGE.safetensors SMALL.safetensors --halvings 4

Nothing in training holds the size of the residual stream, as every layer normalises what it reads: it grew to a
deviation of 19. Fresh connectors read it as it is, and learn slowly from numbers so large. What writes to the stream
(word embeddings, outputs of attention, feed-forward and vision) is halved so often, and the last norm doubled so often
for the head that shares the embeddings. Powers of two change no digit of a weight; the norms' epsilon stays, which
moves states by some thousandths of their deviation.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.sources import Checkpoint  # noqa: E402
from vino_core.checkpoints.writing import Plan, write_safetensors  # noqa: E402

_WRITES = re.compile(
    r"model\.language_model\.(embed_tokens|layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj))\.weight"
    r"|model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc2\.(weight|bias)"
)
_LAST_NORM = "model.language_model.norm.weight"


def scale(source: Path, out: Path, halvings: int) -> None:
    """Write `out`: the states of `source` / 2^halvings."""
    checkpoint = Checkpoint([source])
    tensors = {name: checkpoint.read(name) for name in checkpoint}
    for name, tensor in tensors.items():
        if _WRITES.fullmatch(name):
            tensors[name] = tensor * 2.0**-halvings
        elif name == _LAST_NORM:
            tensors[name] = tensor * 2.0**halvings
    write_safetensors(
        [Plan(out, checkpoint.tensors, lambda name: [tensors[name]], checkpoint.metadata)], overwrite=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--halvings", type=int, required=True)
    arguments = parser.parse_args()
    scale(arguments.source, arguments.out, arguments.halvings)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
