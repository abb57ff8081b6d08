"""`vino convert`: the official checkpoint to the files that are used here, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoints.convert import plan_conversion
from ..checkpoints.files import LEARNABLE, made_for
from ..checkpoints.manifest import has_manifest
from ..checkpoints.official import read_dimensions
from ..checkpoints.restore import restore
from ..checkpoints.writing import write_safetensors
from ..errors import InputError
from ..systems import SYSTEMS, get_system

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FOLDERS = {"model": "models/diffusion_models", "tokens": "models/embeddings", "text encoder": "models/text_encoders"}
"""Where ComfyUI looks for each kind of file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: `vino convert vino.ckpt --out models` writes models/vino_bf16.safetensors (MMDiT and connectors, "
        "for models/diffusion_models) and models/vino_tokens.safetensors (for models/embeddings). "
        "`vino convert --back vino_bf16.safetensors vino_tokens.safetensors --out vino.ckpt` undoes it. "
        "`vino convert model.ckpt mllm.ckpt --out models` does the same with VOGUE (UniVideo), and writes its text "
        "encoder too; its variant without learnable tokens is model.ckpt alone."
    )
    parser.add_argument(
        "input",
        nargs="+",
        type=Path,
        help="the official checkpoint (.ckpt, .pt, .safetensors, an index of shards, or several files that together "
        "hold it); with --back the model file and the tokens file",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder to write into; with --back the file to write (VOGUE: the folder for model.ckpt and mllm.ckpt)",
    )
    parser.add_argument(
        "--system",
        choices=tuple(name for name in SYSTEMS if has_manifest(name)),
        help="whose checkpoint it is (default: the one that its names tell)",
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="keep", help="dtype of the weights (default: keep, each as stored)"
    )
    parser.add_argument("--name", help="write vino_NAME.safetensors and vino_tokens_NAME.safetensors")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of Qwen2.5-VL-7B-Instruct: put its config.json and tokenizer.json into the text encoder's file, "
        "so that `vino generate` needs no other (VOGUE)",
    )
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
        help="with --back: the text encoder (folder or file), whose weights are copied too, so that no published name "
        "is missing; VOGUE's tokens are written as rows of it, so they need it",
    )


def _back(options: argparse.Namespace) -> int:
    flags = ("name", "config", "ignore", "system", "tokenizer")
    forward_only = [f"--{name}" for name in flags if getattr(options, name)]
    if options.dtype != "keep":
        forward_only.append("--dtype")
    if forward_only:
        raise InputError(f"{', '.join(forward_only)}: not used with --back. Leave it out.")
    if len(options.input) > 2:
        raise InputError(
            f"--back takes the model file and the tokens file, {len(options.input)} files were given. "
            "Example: vino convert --back vino_bf16.safetensors vino_tokens.safetensors --out vino.ckpt"
        )
    model, tokens = (*options.input, None)[:2]
    with tqdm(unit="B", unit_scale=True, desc="converting") as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        paths = restore(model, tokens, options.out, vlm=options.vlm, overwrite=options.overwrite, progress=progress)
    for path in paths:
        print(f"{path}  ({path.stat().st_size / 1e6:,.1f} MB, official layout)")
    published = made_for(model).published
    for file in published.files[len(paths) :]:
        print(
            f"{file.name} was not written: it holds the text encoder, and the learnable tokens of the variant that has "
            f"them. Name {published.vlm_title} with --vlm, and the tokens file if there is one, to write it too."
        )
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
        options.system and get_system(options.system),
        dtype=DTYPES[options.dtype],
        dimensions=dimensions,
        ignore=options.ignore,
        name=options.name,
        tokenizer=options.tokenizer,
    )
    with tqdm(total=sum(plan.size for plan in plans), unit="B", unit_scale=True, desc="converting") as bar:
        write_safetensors(plans, options.overwrite, bar.update)
    for plan in plans:
        folder = FOLDERS[plan.metadata["kind"]]
        print(f"{plan.path}  ({plan.size / 1e6:,.1f} MB; ComfyUI looks for it in {folder})")
    if plans[0].metadata.get(LEARNABLE) == "0":
        alone = all(plan.metadata["kind"] == "model" for plan in plans)
        files = get_system(plans[0].metadata["system"]).published.files
        if alone and len(files) > 1:
            print(f"{files[-1].name} was not named, so this is taken for the variant without learnable tokens.")
        else:
            print("This is the variant without learnable tokens: there is no tokens file.")
    return 0
