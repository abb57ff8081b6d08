"""Training the full-size MMDiT on one GPU with random weights: MFU, peak memory, and which LoRA runs fit which card.

    python benchmarks/gpu_train.py stack [--depth 4 --depth-single 8]
    python benchmarks/gpu_train.py lora [--ranks 16 64]

`stack` trains all weights of some full-size blocks (float32 weights, bfloat16 computing, checkpointing, AdamW). `lora`
trains LoRA factors of the whole model, whose bfloat16 weights stay frozen, for pictures and clips of growing size, and
says which of them fit into 24, 48 and 80 GB. `--device cpu --depth 1 --depth-single 1 --small` tries the script where
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gpu_step import matrix_product, random_model, synchronise
from torch import Tensor, nn

from vino_core.config import MMDiTConfig
from vino_core.mmdit.model import Conditioning, MMDiT
from vino_core.systems import get_system
from vino_core.training.config import Lora
from vino_core.training.flops import ForwardCost, visual_tokens
from vino_core.training.lora import add_lora
from vino_core.training.network import checkpointed

VINO = get_system("vino")
TEXT = 700
"""Tokens of a prompt with one reference picture and the learnable tokens."""
CARDS = (24, 48, 80)


@dataclass(frozen=True)
class Job:
    """What a step learns: `references` pictures of the same size stand before the target."""

    width: int
    height: int
    frames: int
    references: int = 1

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, {self.references} reference(s)"


STACK = Job(848, 480, 33)
LORA = (Job(512, 512, 1, 0), Job(640, 640, 1), Job(848, 480, 17), Job(848, 480, 33), Job(848, 480, 85))
SMALL = Job(64, 64, 5)


@dataclass(frozen=True)
class Measured:
    """Seconds of a step, its operations, and the most memory it held, in bytes."""

    seconds: float
    operations: float
    peak: int


def measure(model: MMDiT, trained: Iterable[nn.Parameter], job: Job, backward: float, steps: int = 3) -> Measured:
    """Best of `steps` after one to warm up. `backward`: operations of the backward pass for one of the forward pass."""
    parameters = [parameter for parameter in trained if parameter.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    shape = (1, VINO.latent_channels)
    latents = torch.randn(*shape, *VINO.latent_grid(job.frames, job.height, job.width), device=device)
    picture = torch.randn(*shape, *VINO.latent_grid(1, job.height, job.width), device=device)
    references = (picture,) * job.references
    width = model.config.hidden_size
    given = Conditioning(
        text=torch.randn(1, TEXT, model.config.text_dim, device=device),
        boundaries=torch.randn(1, 2 * job.references, width, device=device) if references else None,
        references=references,
    )
    guidance, timestep = torch.tensor([1000.0], device=device), torch.tensor([500.0], device=device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(latents, timestep, given, guidance, runner=checkpointed)
        velocity.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronise(device)
        return time.perf_counter() - started

    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = min(step() for _ in range(steps))
    operations = (1 + backward) * ForwardCost(model)(TEXT, visual_tokens(model, references, latents))
    return Measured(seconds, operations, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


def make_model(arguments: argparse.Namespace, device: torch.device) -> MMDiT:
    if not arguments.small:
        return random_model(arguments, device)
    config: MMDiTConfig = replace(
        VINO.mmdit,
        depth=arguments.depth,
        depth_single=arguments.depth_single,
        hidden_size=256,
        num_heads=2,
        text_dim=64,
    )
    model = MMDiT(config, VINO.layout, dtype=torch.bfloat16).to(device)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


def stack(arguments: argparse.Namespace, device: torch.device, peak: float) -> dict[str, object]:
    """All weights of a part of the blocks."""
    model = make_model(arguments, device).float().requires_grad_(True)
    job = SMALL if arguments.small else STACK
    found = measure(model, model.parameters(), job, backward=2)
    return {
        "trained": f"{arguments.depth} double and {arguments.depth_single} single blocks, every weight",
        "job": str(job),
        **_row(found, peak),
    }


def lora(arguments: argparse.Namespace, device: torch.device, peak: float) -> dict[str, object]:
    """LoRA of the whole model, job by job, until one does not fit this card."""
    rows: list[dict[str, object]] = []
    for rank in arguments.ranks:
        model = make_model(arguments, device).requires_grad_(False)
        blocks = tuple(name for name in Lora().targets if "connector" not in name)
        factors: dict[str, Tensor] = add_lora(model, Lora(rank=rank, targets=blocks), 0)
        for job in (SMALL,) if arguments.small else LORA:
            try:
                found = measure(model, factors.values(), job, backward=1)
            except torch.cuda.OutOfMemoryError:
                rows.append({"rank": rank, "job": str(job), "fits": "not even this card"})
                break
            row = _row(found, peak)
            fits = [card for card in CARDS if found.peak * 1.05 < card * 1e9]
            rows.append(
                {"rank": rank, "job": str(job), **row, "fits": f"{min(fits)} GB" if fits else "more than 80 GB"}
            )
        del model, factors
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {"lora": rows}


def _row(found: Measured, peak: float) -> dict[str, object]:
    return {
        "seconds per step": round(found.seconds, 3),
        "TFLOP/s": round(found.operations / found.seconds / 1e12, 2),
        "MFU": round(found.operations / found.seconds / peak, 3),
        "peak GB": round(found.peak / 1e9, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stack", "lora"), nargs="?", default="stack")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--depth", type=int, help="double blocks (default: 4 of a stack, all for LoRA)")
    parser.add_argument("--depth-single", type=int, help="single blocks (default: 8 of a stack, all for LoRA)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--small", action="store_true", help="a narrow model, to try the script")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu --depth 1 --depth-single 1 --small tries the script)")
        return
    whole = arguments.what == "lora"
    if arguments.depth is None:
        arguments.depth = VINO.mmdit.depth if whole else 4
    if arguments.depth_single is None:
        arguments.depth_single = VINO.mmdit.depth_single if whole else 8
    device = torch.device(arguments.device)
    peak = matrix_product(device)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "matrix product TFLOP/s": round(peak / 1e12, 3),
        **(lora if whole else stack)(arguments, device, peak),
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
