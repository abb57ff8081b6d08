"""The files and the machine that commands which generate are told about, and the pipeline made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..allocator import keep_freed_memory
from ..checkpoints.folder import PARTS, place, standing
from ..errors import InputError
from ..systems import SYSTEMS, expect_system, get_system
from ..systems.base import System

if TYPE_CHECKING:
    from ..encoder.transformers_engine import TransformersEngine
    from ..pipeline import Pipeline


def add_file_arguments(parser: argparse.ArgumentParser, required: bool = True) -> argparse._ArgumentGroup:
    """Options that name the system and its files; the group, for options of the command's own.

    `required`: whether --model must be given.
    """
    parts = parser.add_argument_group("files")
    parts.add_argument(
        "--model",
        type=Path,
        required=required,
        help="vino_*.safetensors or vogue_*.safetensors, made by `vino convert`; or a folder of all files, such as "
        "models/vino-tiny",
    )
    parts.add_argument(
        "--tokens",
        type=Path,
        help="*_tokens*.safetensors, made by `vino convert`; VOGUE has a variant without them",
    )
    parts.add_argument(
        "--text-encoder", type=Path, help="folder of Qwen3-VL-4B-Instruct (VOGUE: Qwen2.5-VL-7B-Instruct), or its file"
    )
    parts.add_argument("--vae", type=Path, help="HunyuanVideo VAE, file or folder")
    parts.add_argument(
        "--system", choices=tuple(SYSTEMS), help="default: the one that the model file names or else seems made for"
    )
    return parts


def given_files(arguments: argparse.Namespace) -> dict[str, Path]:
    """The files of PARTS that there are, after `choose_system`: a variant without learnable tokens has no such file."""
    return {name: getattr(arguments, name) for name in PARTS if getattr(arguments, name) is not None}


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how exactly to compute."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="default: cuda, mps or cpu, the first that works")
    machine.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    machine.add_argument("--offload", action="store_true", help="keep on the device only the part that works")
    machine.add_argument("--vae-tiling", action="store_true", help="decode in tiles: less memory, slower")


def choose_system(arguments: argparse.Namespace, complete: bool = True) -> System:
    """The system to use: --system, else the one that the model file names or seems made for; its variant for learnable
    tokens where there is a file of them.

    Where --model is a folder of all files, those of them that have no option of their own are written into
    `arguments`. Raises InputError when the model file cannot be read and, if the files are to be `complete`, as
    `check_given` does.
    """
    from ..checkpoints.files import made_for, open_model

    folder = arguments.model
    whole = (folder / "model.safetensors").is_file()
    if whole:
        arguments.model = folder / "model.safetensors"
    system = made_for(arguments.model) if arguments.system is None else get_system(arguments.system)
    for name in PARTS[1:]:
        path = standing(folder, name, system)
        if getattr(arguments, name) is None and whole and path.exists():
            setattr(arguments, name, path)
    if any(_lacking(arguments, system, name) for name in PARTS):
        open_model(arguments.model)  # what is no model tells nothing about the files that belong to it
    if complete:
        check_given(arguments, system)
    return system.for_tokens(arguments.tokens)


def check_given(arguments: argparse.Namespace, system: System, parts: Sequence[str] = PARTS) -> None:
    """Raise InputError when the system needs one of the `parts` of which there is no file."""
    for name in parts:
        if _lacking(arguments, system, name):
            names = ", ".join(place(part, system) for part in PARTS)
            raise InputError(
                f"--{name.replace('_', '-')}: not given. Name the file, or give --model a folder with {names}. What "
                "`vino train` exports is the model and its tokens alone."
            )


def _lacking(arguments: argparse.Namespace, system: System, name: str) -> bool:
    return getattr(arguments, name) is None and not _optional(name, system)


def _optional(name: str, system: System) -> bool:
    return name == "tokens" and system.learnable_tokens == 0


def load_text_encoder(arguments: argparse.Namespace, system: System) -> TransformersEngine:
    """The text encoder alone, of the options above. Raises InputError as `load_pipeline` does."""
    from ..encoder.transformers_engine import load_engine

    device, dtype, _ = _placement(arguments)
    _expect_own("text_encoder", arguments.text_encoder, system)
    return load_engine(arguments.text_encoder, dtype, device)


def load_pipeline(arguments: argparse.Namespace, system: System) -> Pipeline:
    """The pipeline of the options above, after `choose_system`.

    Raises InputError for a device or files that cannot be used, and for files of another system.
    """
    from ..checkpoints.files import check_variant, load_mmdit, load_tokens
    from ..encoder.transformers_engine import load_engine
    from ..pipeline import Pipeline
    from ..vae import VAE

    device, dtype, home = _placement(arguments)
    for name, path in given_files(arguments).items():
        _expect_own(name, path, system)
    tokens = None if arguments.tokens is None else load_tokens(arguments.tokens)
    check_variant(arguments.model, tokens)
    model, _ = load_mmdit(arguments.model, dtype, home, unnamed=system.name)
    vae = VAE.load(arguments.vae, dtype=dtype, device=home)
    if arguments.vae_tiling:
        vae.enable_tiling()
    return Pipeline(
        system=system,
        engine=load_engine(arguments.text_encoder, dtype, home),
        tokens=tokens,
        model=model,
        vae=vae,
        device=device,
        offload=arguments.offload,
    )


def _placement(arguments: argparse.Namespace) -> tuple[str, Any, str]:
    """Where to compute, the torch.dtype, and where parts stay while they do not work."""
    import torch

    device = arguments.device or _best_device(torch)
    _check_device(torch, device)
    if device == "cpu":
        keep_freed_memory()
    return device, getattr(torch, arguments.dtype), "cpu" if arguments.offload else device


def _expect_own(name: str, path: Path, system: System) -> None:
    """Raise InputError when the file (one of PARTS) says that it was made for another system."""
    from ..checkpoints.files import read_metadata

    if path.suffix == ".safetensors":
        owner = read_metadata(path).get("system", system.name)
        if name != "vae" or owner != system.vae_of:
            expect_system(owner, system, path)


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(torch: Any, device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}). Choose cpu, or install its torch.") from error
