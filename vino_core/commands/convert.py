"""`vino convert`: the official checkpoint to the files that are used here, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoints.convert import plan_conversion, read_dimensions
from ..checkpoints.restore import restore
from ..checkpoints.writing import write_safetensors
from ..errors import InputError
from ..systems import get_system

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: `vino convert vino.ckpt --out models` writes models/vino_bf16.safetensors (MMDiT and connectors, "
        "for models/diffusion_models) and models/vino_tokens.safetensors (for models/embeddings). "
        "`vino convert --back vino_bf16.safetensors vino_tokens.safetensors --out vino.ckpt` undoes it."
    )
    parser.add_argument(
        "input",
        nargs="+",
        type=Path,
        help="the official checkpoint (.ckpt, .pt, .safetensors, an index of shards, or several files that together "
        "hold it); with --back the model file and the tokens file",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; with --back the file to write")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="keep", help="dtype of the weights (default: keep, each as stored)"
    )
    parser.add_argument("--name", help="write vino_NAME.safetensors and vino_tokens_NAME.safetensors")
    parser.add_argument(
        "--config",
        type=Path,
        help="config.json of a diffusers HunyuanVideo transformer: check names and shapes against it instead of the "
        "published checkpoint (for checkpoints of another size)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out names that match, such as 'optimizer.*'; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist already")
    parser.add_argument("--back", action="store_true", help="from model and tokens file to the official layout")
    parser.add_argument(
        "--vlm",
        type=Path,
        help="with --back: copy the weights of this Qwen3-VL folder too, so that no published name is missing",
    )


def _back(options: argparse.Namespace) -> int:
    forward_only = [f"--{name}" for name in ("name", "config", "ignore") if getattr(options, name)]
    if options.dtype != "keep":
        forward_only.append("--dtype")
    if forward_only:
        raise InputError(f"{', '.join(forward_only)}: not used with --back. Leave it out.")
    if len(options.input) != 2:
        raise InputError(
            f"--back takes the model file and the tokens file, {len(options.input)} files were given. "
            "Example: vino convert --back vino_bf16.safetensors vino_tokens.safetensors --out vino.ckpt"
        )
    path = restore(*options.input, options.out, vlm=options.vlm, overwrite=options.overwrite)
    print(f"{path}  ({path.stat().st_size / 1e6:,.1f} MB, official layout)")
    return 0


def run(options: argparse.Namespace) -> int:
    """Convert, and say what was written. Raises InputError when the input cannot be used."""
    if options.back:
        return _back(options)
    if options.vlm is not None:
        raise InputError("--vlm: only used with --back. Leave it out: the text encoder is a file of its own.")
    dimensions = None if options.config is None else read_dimensions(options.config)
    plans = plan_conversion(
        options.input,
        options.out,
        get_system("vino"),
        dtype=DTYPES[options.dtype],
        dimensions=dimensions,
        ignore=options.ignore,
        name=options.name,
    )
    with tqdm(total=sum(plan.size for plan in plans), unit="B", unit_scale=True, desc="converting") as bar:
        write_safetensors(plans, options.overwrite, bar.update)
    for plan, folder in zip(plans, ("models/diffusion_models", "models/embeddings"), strict=True):
        print(f"{plan.path}  ({plan.size / 1e6:,.1f} MB; ComfyUI looks for it in {folder})")
    return 0
