"""One MMDiT step on this machine's CPU, as a share of its measured matrix product.

8 heads x 128, 4 double + 8 single blocks, 2,820 tokens: two references of 32 x 48 latents, a target of 4 x 32 x 48,
512 text tokens. Counted: 24 h^2 N B + 4 N^2 h B operations with h 1,024, N 2,820, B 12.
Run: `python benchmarks/mmdit_step.py [--repeats 5] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vino_core.allocator import keep_freed_memory
from vino_core.config import MMDiTConfig
from vino_core.mmdit.model import Conditioning, MMDiT

WIDTH, TOKENS, BLOCKS = 1024, 2820, 12
OPERATIONS = 24 * WIDTH**2 * TOKENS * BLOCKS + 4 * TOKENS**2 * WIDTH * BLOCKS
TARGETS = {torch.float32: 0.90, torch.bfloat16: 0.65}


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(dtype: torch.dtype, repeats: int) -> dict[str, float | str]:
    """Best of `repeats` for both, taken in turn, so that a busy moment of the machine hits both alike."""
    torch.manual_seed(0)
    config = MMDiTConfig(hidden_size=WIDTH, num_heads=8, depth=4, depth_single=8, text_dim=WIDTH)
    model = MMDiT(config).to(dtype).eval()
    conditioning = Conditioning(
        text=torch.randn(1, 512, WIDTH, dtype=dtype),
        boundaries=torch.randn(1, 4, WIDTH, dtype=dtype),
        references=(torch.randn(1, 16, 1, 32, 48, dtype=dtype), torch.randn(1, 16, 1, 32, 48, dtype=dtype)),
    )
    latents = torch.randn(1, 16, 4, 32, 48, dtype=dtype)
    timestep, guidance = torch.tensor([500.0]), torch.tensor([1000.0])
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    steps, products = [], []
    with torch.inference_mode():
        model(latents, timestep, conditioning, guidance)
        for _ in range(repeats):
            products += [seconds(lambda: a @ b) for _ in range(10)]
            steps.append(seconds(lambda: model(latents, timestep, conditioning, guidance)))
    product = 2 * 2048**3 / min(products) / 1e9
    step = OPERATIONS / min(steps) / 1e9
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "matrix product GFLOP/s": round(product, 1),
        "step GFLOP/s": round(step, 1),
        "share": round(step / product, 3),
        "target": TARGETS[dtype],
        "seconds per step": round(min(steps), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()  # as `vino generate` does on a CPU
    results = [measure(dtype, arguments.repeats) for dtype in TARGETS]
    for result in results:
        print(", ".join(f"{name} {value}" for name, value in result.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
