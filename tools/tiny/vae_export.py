"""Write the trained VAE as a file that ComfyUI's stock loader and vino_core read.

    python tools/tiny/vae_export.py RUN_FOLDER models/vino-tiny/vae.safetensors

Each latent channel's mean and spread over training pictures are folded into the 1x1x1 convolutions at the end of the
encoder and at the start of the decoder, so that latents times the scaling factor are white.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from vae_data import kept  # noqa: E402
from vae_train import decibels, unit  # noqa: E402

from vino_core.vae import WanVAE  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@torch.no_grad()
def fold(
    state: dict[str, Tensor], mean: Tensor, deviation: Tensor, noise: float, trained: tuple[Tensor, Tensor]
) -> None:
    """Change both convolutions in place. `trained`: the mean and deviation with which the decoder's input was whitened;
    `noise`: the deviation of the posterior, in units of a white latent's."""
    scale, channels = WanVAE.scale, len(mean)
    weight, bias = state["conv1.weight"], state["conv1.bias"]
    weight[:channels] /= (deviation * scale)[:, None, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / (deviation * scale)
    weight[channels:] = 0
    bias[channels:] = 2 * math.log(noise / scale)
    # white = (latent * scale * deviation + mean - trained mean) / trained deviation
    weight, bias = state["conv2.weight"], state["conv2.bias"]
    bias += weight[:, :, 0, 0, 0] @ ((mean - trained[0]) / trained[1])
    weight *= (scale * deviation / trained[1])[None, :, None, None, None]


@torch.no_grad()
def statistics(vae: WanVAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [16] of the encoder's latents."""
    latents = torch.cat([vae.posterior(unit(part))[0] for part in pixels.split(16)]).transpose(0, 1).flatten(1)
    return latents.mean(1), latents.std(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".cache/tiny"))
    parser.add_argument("--noise", type=float, default=0.03, help="that of the training")
    parser.add_argument("--keep", action="store_true", help="for a run that trained time alone: no new statistics")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    args = parser.parse_args()
    torch.set_num_threads(1)

    average = torch.load(args.run / "state.pt", weights_only=True)["average"]
    state = {name.removeprefix("vae."): value for name, value in average.items() if name.startswith("vae.")}
    seen = [kept(args.data, "pictures", 12000, "train")[:512], kept(args.data, "clips", 1500, "train")[:96]]
    load = lambda weights: WanVAE.from_tensors(weights, torch.float32, "cpu", str(args.run))  # noqa: E731
    trained = average["latents.mean"], average["latents.variance"].sqrt()
    # Time alone was trained on latents that are white already.
    found = trained if args.keep else statistics(load(state), seen[0])
    fold(state, *found, args.noise, trained)
    stored = {name: value.to(DTYPES[args.dtype]).contiguous() for name, value in state.items()}

    for label, weights in (("fp32", state), (args.dtype, stored)):
        vae = load(weights)
        for kind, count in (("pictures", 256), ("clips", 32)):
            pixels = kept(args.data, kind, count, "heldout")
            each = torch.cat(
                [decibels(vae.decode_unit(vae.encode_batch(part)), unit(part)) for part in pixels.split(16)]
            )
            print(f"{label}, held-out {kind}: {each.mean():.2f} dB, least {each.min():.2f}")
    for kind, pixels in zip(("pictures", "clips"), seen, strict=True):
        latents = torch.cat([vae.encode_batch(part) for part in pixels.split(16)]).transpose(0, 1).flatten(1)
        mean, deviation = latents.mean(1), latents.std(1)
        print(
            f"latents of {kind}: mean within {mean.abs().max():.3f}, std {deviation.min():.3f}..{deviation.max():.3f}"
        )

    metadata = {
        "format": "pt",
        "system": "vino-tiny",
        "kind": "vae",
        "shape": "Wan 2.1's: 4x in time, 8x in space, 16 channels; trained on 64 x 64 pixels of the toy world",
        "latents": f"mean 0 and deviation 1 in each channel when multiplied by {WanVAE.scale}",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    beside = args.out.with_suffix(".part")
    save_file(stored, beside, metadata)
    os.replace(beside, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
