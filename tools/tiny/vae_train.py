"""Train vino-tiny's VAE on the toy world, piece by piece.

    python tools/tiny/vae_train.py RUN_FOLDER --steps N [--clips] [...]

keeps everything in RUN_FOLDER/state.pt, so that an interrupted run goes on with the same command.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from vae_data import kept  # noqa: E402

from vino_core.vae import WanVAE  # noqa: E402
from vino_core.vae.wan import CausalConv, TimeConv, WanNetwork  # noqa: E402


class Latents(nn.Module):
    """Whitens each latent channel by the batch's statistics, keeps running ones, and adds noise."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.fixed = False
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, noise: float) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.variance, eps=1e-8)
        if self.fixed:
            return x + noise * torch.randn_like(x)
        white = F.batch_norm(x, self.mean, self.variance, training=True, momentum=0.02, eps=1e-8)
        return white + noise * torch.randn_like(white)


class Model(nn.Module):
    def __init__(self, width: int, noise: float) -> None:
        super().__init__()
        self.vae, self.latents, self.noise = WanNetwork(width), Latents(), noise
        for module in self.vae.modules():
            start(module)
        for module in self.vae.modules():
            if hasattr(module, "residual"):
                nn.init.zeros_(module.residual[6].weight)
            if hasattr(module, "proj"):
                nn.init.zeros_(module.proj.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels like `x` and the latents they came from."""
        white = self.latents(self.vae.encode(x)[0], self.noise)
        return self.vae.decode(white), white

    def train_time_alone(self, file: Path) -> None:
        """Start from an exported file and freeze all that a single picture passes through."""
        state = {name: value.float() for name, value in load_file(file).items()}
        state["conv1.weight"][:16] *= WanVAE.scale
        state["conv1.bias"][:16] *= WanVAE.scale
        state["conv2.weight"] /= WanVAE.scale
        self.vae.load_state_dict(state)
        self.latents.fixed = True
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, TimeConv):
                module.requires_grad_(True)
            elif isinstance(module, CausalConv) and module.kernel > 1:
                module.weight.requires_grad_(True)


def whiteness(latents: Tensor) -> Tensor:
    """How far the channels of the latents after the first are from mean 0 and deviation 1."""
    later = latents[:, :, 1:].transpose(0, 1).flatten(1)
    return (later.mean(1).square() + (later.std(1) - 1).square()).mean()


@torch.no_grad()
def start(module: nn.Module) -> None:
    """Each convolution keeps what it can of its input; only a kernel's own frame counts at first."""
    if isinstance(module, CausalConv):
        nn.init.zeros_(module.weight)
        last = torch.empty_like(module.weight[:, :, -1])
        nn.init.orthogonal_(last)
        module.weight[:, :, -1] = last
    elif isinstance(module, TimeConv):
        nn.init.zeros_(module.weight)
        outputs, inputs = module.weight.shape[:2]
        same = torch.eye(inputs).repeat(outputs // inputs, 1)
        if module.stride == 2:
            for tap, share in enumerate((0.25, 0.5, 0.25)):
                module.weight[:, :, tap, 0, 0] = share * same
        else:
            module.weight[:, :, -1, 0, 0] = same
    elif isinstance(module, nn.Conv2d):
        nn.init.orthogonal_(module.weight)
    else:
        return
    if module.bias is not None:
        # A part that does not depend on the picture lets normalised features keep brightness.
        nn.init.normal_(module.bias, std=0.3)


def orthogonal(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly (Newton-Schulz, five steps)."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


class Muon:
    """Muon for matrices and kernels, Adam for the rest.

    Of a causal kernel's three frames only the last is trained on pictures, and only the others on time alone.
    """

    def __init__(self, model: Model) -> None:
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.taps = slice(0, 2) if model.latents.fixed else slice(2, 3)
        self.state: dict[str, list[Tensor]] = {}
        self.count = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        self.count += 1
        for name, p in self.params.items():
            if p.grad is None:
                continue
            part, grad = p, p.grad
            if p.ndim == 5 and p.shape[-1] == 3:
                part, grad = p[:, :, self.taps], grad[:, :, self.taps]
            if p.ndim > 2 and min(p.shape[0], p[0].numel()) > 3:
                self._orthogonal_step(name, part, grad, rate)
            else:
                self._adam_step(name, part, grad, rate)
            p.grad = None

    def _orthogonal_step(self, name: str, p: Tensor, grad: Tensor, rate: float) -> None:
        (velocity,) = self.state.setdefault(name, [torch.zeros_like(grad)])
        velocity.mul_(0.95).add_(grad)
        update = orthogonal((grad + 0.95 * velocity).flatten(1)).view_as(grad)
        p.add_(update, alpha=-rate * 0.2 * math.sqrt(max(p.shape[0], p[0].numel())))

    def _adam_step(self, name: str, p: Tensor, grad: Tensor, rate: float) -> None:
        first, second = self.state.setdefault(name, [torch.zeros_like(grad), torch.zeros_like(grad)])
        first.lerp_(grad, 0.1)
        second.mul_(0.99).addcmul_(grad, grad, value=0.01)
        corrected = math.sqrt(1 - 0.99**self.count) / (1 - 0.9**self.count)
        p.addcdiv_(first, second.sqrt().add_(1e-8), value=-rate * corrected)


def unit(pixels: Tensor) -> Tensor:
    """[B, T, H, W, 3] of 0..255 as [B, 3, T, H, W] of -1..1."""
    return pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def batches(pixels: Tensor, size: int, count: int, frames: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random crops; frames from anywhere."""

    def pick(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    while True:
        crops = []
        for _ in range(count):
            t, y, x = pick(pixels.shape[1] - frames + 1), pick(65 - size), pick(65 - size)
            crop = pixels[pick(len(pixels)), t : t + frames, y : y + size, x : x + size]
            if pick(2):
                crop = crop.flip(2)
            crops.append(crop)
        yield unit(torch.stack(crops))


def decibels(shown: Tensor, expected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each of a batch in -1..1."""
    error = (shown.clamp(-1, 1) - expected).square().flatten(1).mean(1) / 4
    return -10 * error.clamp_min(1e-10).log10()


@torch.no_grad()
def measure(model: Model, pixels: Tensor) -> tuple[float, float]:
    """Mean of the decibels, and decibels of the mean error."""
    model.eval()
    each = torch.cat([decibels(model(unit(part))[0], unit(part)) for part in pixels.split(16)])
    model.train()
    return float(each.mean()), float(-10 * (10 ** (-each / 10)).mean().log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".cache/tiny"))
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.6, help="share of the steps over which the rate falls to zero")
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--init", type=Path, help="state of an earlier run whose averaged weights to start from")
    parser.add_argument("--file", type=Path, help="exported file: train on clips, only what pictures do not touch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--clips", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="faster steps after some 90 seconds")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    model = Model(args.width, args.noise)
    average = Model(args.width, args.noise)
    if args.init:
        model.load_state_dict(torch.load(args.init, weights_only=True)["average"])
    if args.file:
        model.train_time_alone(args.file)
        average.latents.fixed = True
    average.load_state_dict(model.state_dict())
    optimiser = Muon(model)
    step, spent = 0, 0.0
    file = args.folder / "state.pt"
    args.folder.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        saved: dict[str, Any] = torch.load(file, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.state, optimiser.count = saved["optimiser"], saved["step"]
        step, spent = saved["step"], saved["seconds"]

    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    kind, count = ("clips", args.clips) if args.file else ("pictures", args.pictures)
    frames = args.frames if args.file else 1
    crops = batches(kept(args.data, kind, count, "train"), args.crop, args.batch, frames, generator)
    heldout = kept(args.data, kind, 32 if args.file else 256, "heldout")[:96]
    forward = torch.compile(model) if args.compile else model
    begun = time.monotonic()
    logged = saved_at = begun

    def save() -> None:
        beside = file.with_suffix(".part")
        seconds = spent + time.monotonic() - begun
        state = {"optimiser": optimiser.state, "step": step, "seconds": seconds, "width": args.width}
        torch.save({"model": model.state_dict(), "average": average.state_dict(), **state}, beside)
        os.replace(beside, file)

    while step < args.steps:
        x = next(crops)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            shown, latents = forward(x)
        error = shown.float() - x
        loss = error.abs().mean() + 8 * error.square().mean()
        if args.file:
            loss = loss + 0.01 * whiteness(latents.float())
        loss.backward()
        step += 1
        left = (args.steps - step) / (args.steps * args.decay)
        optimiser.step(args.rate * min(1.0, step / 60, left))
        keep = min(args.ema, step / (step + 9))
        with torch.no_grad():
            for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mine.lerp_(theirs, 1 - keep)
        now = time.monotonic()
        if now - logged > 60 or step == args.steps:
            each, all_together = measure(average, heldout)
            minutes = (spent + now - begun) / 60
            print(f"{step} {minutes:.1f} min: loss {float(loss):.4f}, {each:.2f} dB ({all_together:.2f})", flush=True)
            logged = time.monotonic()
        if now - saved_at > 60 or step == args.steps:
            save()
            saved_at = now


if __name__ == "__main__":
    main()
