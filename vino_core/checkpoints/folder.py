"""How a folder that holds all files of a system calls them."""

from __future__ import annotations

from pathlib import Path

from ..systems.base import System

PARTS = ("model", "tokens", "text_encoder", "vae")
"""The files of a system. A folder that holds them all calls them model.safetensors, tokens.safetensors, ... A VAE that
belongs to another system lies in that one's folder beside it."""


def standing(folder: Path, name: str, system: System) -> Path:
    """The file `name` (one of PARTS) of the system in `folder`: for a VAE that it shares, the owner's beside it unless
    there is one of its own."""
    own, owner = folder / f"{name}.safetensors", _owner(name, system)
    return own if owner is None or own.exists() else folder.resolve().parent / owner / own.name


def place(name: str, system: System) -> str:
    """Where the file `name` (one of PARTS) of the system is, seen from its folder."""
    owner = _owner(name, system)
    return f"{name}.safetensors" if owner is None else f"../{owner}/{name}.safetensors"


def _owner(name: str, system: System) -> str | None:
    """The other system that the file belongs to, if it does."""
    return system.vae_of if name == "vae" else None
