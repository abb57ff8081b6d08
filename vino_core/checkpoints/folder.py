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
    own = folder / f"{name}.safetensors"
    if name != "vae" or system.vae_of is None or own.exists():
        return own
    return folder.resolve().parent / system.vae_of / own.name


def place(name: str, system: System) -> str:
    """Where the file `name` (one of PARTS) of the system is, seen from its folder."""
    shared = name == "vae" and system.vae_of is not None
    return f"../{system.vae_of}/vae.safetensors" if shared else f"{name}.safetensors"
