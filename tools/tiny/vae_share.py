"""Write a miniature's VAE for another system: the same weights, whose file names that system.

python tools/tiny/vae_share.py models/vino-tiny/vae.safetensors models/vogue-tiny/vae.safetensors vogue-tiny
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vino_core.checkpoints.files import read_metadata  # noqa: E402
from vino_core.checkpoints.writing import written_aside  # noqa: E402
from vino_core.systems import SYSTEMS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("system", choices=tuple(SYSTEMS))
    arguments = parser.parse_args()
    metadata = {**read_metadata(arguments.source), "system": arguments.system}
    weights = load_file(arguments.source)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with written_aside([arguments.out], [sum(value.nbytes for value in weights.values())], True) as (aside,):
        save_file(weights, aside, metadata)
    print(arguments.out)


if __name__ == "__main__":
    main()
