"""Full-size MMDiT on a GPU with random weights: seconds per step, share of the card's matrix product, peak memory.

480 x 848, 85 frames, bfloat16, three branches as in dual guidance with three references (the third branch has none).
Run: `python benchmarks/gpu_step.py [--frames 85] [--steps 3] [--json FILE]`. `--device cpu --depth 1 --depth-single 1
--frames 1` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from vino_core.mmdit.model import Conditioning, MMDiT
from vino_core.sampling.guidance import Branch, guided_velocity
from vino_core.systems import get_system

VINO = get_system("vino")
TEXT_TOKENS = {Branch.POSITIVE: 1600, Branch.NEGATIVE: 1600, Branch.NEGATIVE_IMAGE: 330}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a square bfloat16 product, best of ten."""
    size = size if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        synchronise(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times[2:])


def random_model(arguments: argparse.Namespace, device: torch.device) -> MMDiT:
    config = replace(VINO.mmdit, depth=arguments.depth, depth_single=arguments.depth_single)
    with torch.device("meta"):
        model = MMDiT(config, VINO.layout, dtype=torch.bfloat16)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.02)
    return model


def conditioning(branch: Branch, references: int, size: tuple[int, int], device: torch.device) -> Conditioning:
    options = {"device": device, "dtype": torch.bfloat16}
    count = 0 if branch is Branch.NEGATIVE_IMAGE else references
    return Conditioning(
        text=torch.randn(1, TEXT_TOKENS[branch], VINO.mmdit.text_dim, **options),
        boundaries=torch.randn(1, 2 * count, VINO.mmdit.hidden_size, **options) if count else None,
        references=tuple(torch.randn(1, 16, 1, size[0] // 8, size[1] // 8, **options) for _ in range(count)),
    )


def operations(model: MMDiT, tokens: int) -> float:
    """Operations of one evaluation, counted as in mmdit_step.py: 24 h^2 N B + 4 N^2 h B."""
    blocks, width = model.config.depth + model.config.depth_single, model.config.hidden_size
    return 24 * width**2 * tokens * blocks + 4 * tokens**2 * width * blocks


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=848)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=85)
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--depth", type=int, default=VINO.mmdit.depth)
    parser.add_argument("--depth-single", type=int, default=VINO.mmdit.depth_single)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu --depth 1 --depth-single 1 --frames 1 tries the script)")
        return

    device = torch.device(arguments.device)
    peak = matrix_product(device)
    model = random_model(arguments, device)
    size = (arguments.height, arguments.width)
    branches = {branch: conditioning(branch, arguments.references, size, device) for branch in Branch}
    latents = torch.randn(1, 16, *VINO.latent_grid(arguments.frames, *size), device=device, dtype=torch.bfloat16)
    guidance, timestep = torch.tensor([1000.0], device=device), torch.tensor([500.0], device=device)

    def step() -> float:
        started = time.perf_counter()
        velocities = {name: model(latents, timestep, branch, guidance) for name, branch in branches.items()}
        guided_velocity(velocities, 5.0, 3.0)
        synchronise(device)
        return time.perf_counter() - started

    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = min(step() for _ in range(arguments.steps))
    done = 0.0
    for branch in branches.values():
        grids = [model.grid(reference) for reference in branch.references]
        done += operations(model, model.layout(grids, model.grid(latents)).tokens + branch.text.shape[1])
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "size": f"{arguments.width}x{arguments.height}, {arguments.frames} frames, {arguments.references} references",
        "seconds per step, three branches": round(seconds, 3),
        "TFLOP/s": round(done / seconds / 1e12, 3),
        "matrix product TFLOP/s": round(peak / 1e12, 3),
        "share": round(done / seconds / peak, 3),
        "peak GiB": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
