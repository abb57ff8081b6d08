"""Which packages are installed. Imports none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """A package with its lowest version that works; `extra` is the extra of this project that brings it, if any."""

    name: str
    floor: str
    extra: str | None
    purpose: str


REQUIREMENTS = (
    Requirement("torch", "2.7", "torch", "computation"),
    Requirement("numpy", "1.25", "torch", "computation"),
    Requirement("safetensors", "0.4.5", None, "weights"),
    Requirement("av", "14.2", None, "video in and out"),
    Requirement("pillow", "10.1", None, "pictures in and out"),
    Requirement("tqdm", "4.66", None, "progress"),
    Requirement("transformers", "4.57", "headless", "text encoder of `vino generate`"),
    Requirement("diffusers", "0.35", "headless", "VAE of `vino generate`"),
    Requirement("accelerate", "1.6", "training", "training: processes and devices"),
    Requirement("peft", "0.15", "training", "training: LoRA"),
    Requirement("pyyaml", "6.0", "training", "training: configs"),
    Requirement("tensorboard", "2.16", "training", "training: curves and previews"),
    Requirement("webdataset", "0.2.100", "training", "training: shards"),
    Requirement("deepspeed", "0.19", "deepspeed", "optional: `parallel.mode: deepspeed`"),
    Requirement("ray", "2.40", "ray", "optional: `vino data encode --engine ray`"),
)


COMFYUI = "0.30"
"""The oldest ComfyUI that works."""


@dataclass(frozen=True)
class PackageState:
    """One package: its version (None: not installed), and what to do about it, or None when all is well."""

    name: str
    installed: str | None
    floor: str
    purpose: str
    remedy: str | None


def release(text: str) -> tuple[int, ...]:
    """ "4.57.1.dev0+cpu" -> (4, 57, 1): the numbers by which versions are compared here."""
    return tuple(int(number) for number in re.match(r"[\d.]*", text)[0].strip(".").split(".") if number)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def comfyui_version(folder: Path) -> str | None:
    """The version of the ComfyUI in `folder`, or None where it does not say."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"""^__version__ = ["'](\d[^"']*)["']""", text, re.MULTILINE)
    return None if found is None else found[1]


def check_packages() -> list[PackageState]:
    """The state of every package that VINO uses, in the order of `REQUIREMENTS`."""
    states = []
    for requirement in REQUIREMENTS:
        found = _installed(requirement.name)
        remedy = None
        if found is None or release(found) < release(requirement.floor):
            remedy = f"pip install '{requirement.name}>={requirement.floor}'"
            if requirement.extra:
                remedy += f", or '.[{requirement.extra}]' in this project's folder"
        states.append(PackageState(requirement.name, found, requirement.floor, requirement.purpose, remedy))
    return states
