"""Tokens per second and MFU of a training step on this machine: vino-tiny's MMDiT and one of 300 million weights.

    python benchmarks/train_step.py [--model tiny|300m] [--dtype bfloat16|float32] [--steps 4] [--threads N]

A step of stage 0 with latents made beforehand: forward, backward, clipping, AdamW, running average. MFU counts the
operations of the tokens that there are (padding counts for nothing), against this machine's own matrix product.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from vino_core.mmdit.batch import padding_of  # noqa: E402
from vino_core.systems import get_system  # noqa: E402
from vino_core.training.conditioning import Group  # noqa: E402
from vino_core.training.config import Fresh, Optimizer, Parallel  # noqa: E402
from vino_core.training.ema import EMA  # noqa: E402
from vino_core.training.flops import ForwardCost, measured_peak, visual_tokens  # noqa: E402
from vino_core.training.loss import noised, velocity_loss  # noqa: E402
from vino_core.training.network import Network, PlainText  # noqa: E402
from vino_core.training.optimizer import clip_gradients, make_optimizer  # noqa: E402
from vino_core.training.parts import fresh_config, fresh_mmdit  # noqa: E402
from vino_core.training.stages import choose_trainable, parts_of  # noqa: E402
from vino_core.training.team import Team  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A model and the batch that it is trained on: pictures of `size` pixels, texts of `texts` tokens."""

    fresh: Fresh
    batch: int
    size: int
    texts: tuple[int, int]


CASES = {
    "tiny": Case(Fresh(192, 6, 3, 3, 1, 192, (8, 12, 12), patch_size=(1, 1, 1)), 64, 64, (36, 68)),
    "300m": Case(Fresh(896, 14, 5, 10, 2, 896, (16, 24, 24)), 2, 256, (60, 68)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CASES, default="tiny")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case, system, generator = CASES[options.model], get_system("vino-tiny"), torch.Generator().manual_seed(0)

    mmdit = fresh_mmdit(fresh_config(case.fresh, system, 128), system, 0)
    network = Network(mmdit, system, None, plain_text=PlainText(case.fresh.text_dim))
    parameters = choose_trainable(network, ("mmdit", "plain_text"))
    names = parts_of(network)
    optimizer = make_optimizer(parameters, Optimizer(learning_rate=1e-4))
    cost = ForwardCost(mmdit)

    shape = (case.batch, system.latent_channels, *system.latent_grid(1, case.size, case.size))
    latents, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    lengths = tuple(torch.randint(*case.texts, (case.batch,), generator=generator).tolist())
    ids = torch.randint(0, 8192, (case.batch, max(lengths)), generator=generator)
    group = Group(tuple(range(case.batch)), lengths, latents, ids=ids, padding=padding_of(lengths))
    sigma = torch.rand(case.batch, generator=generator)
    visual = visual_tokens(mmdit, (), latents)
    flops = sum(cost.training(length, visual) for length in lengths)

    with Team(Parallel(dtype=options.dtype, device="cpu")) as team:
        average = EMA(parameters, 0.999, team)
        peak = measured_peak(team.device, getattr(torch, options.dtype))

        def step() -> float:
            started = time.perf_counter()
            with team.autocast():
                (velocity,) = network([group], [noised(latents, noise, sigma)], [sigma])
            velocity_loss(velocity, latents, noise).mean().backward()
            clip_gradients(parameters, names, 1.0, team)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update()
            return time.perf_counter() - started

        step()
        seconds = min(step() for _ in range(options.steps))
    weights = sum(parameter.numel() for parameter in mmdit.parameters())
    tokens = sum(lengths) + visual * case.batch
    print(
        f"{options.model}: {weights / 1e6:.1f} M weights, {options.dtype}, {options.threads} thread(s): "
        f"{case.batch} pictures, {tokens} tokens in {seconds:.3f} s; {case.batch / seconds:.1f} pictures/s, "
        f"{tokens / seconds:.0f} tokens/s, {flops / seconds / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s, "
        f"MFU {flops / seconds / peak:.3f}"
    )


if __name__ == "__main__":
    main()
