"""Taking over latents that another VAE file or system made, where a trial shows that the two make the same ones.

A file of other bits is another VAE to a cache, though its encoder may be the same: another decoder, a repacked file.
Systems size references differently, but not those that have the size already.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from .encode import Job, PieceEncoder
from .latents import INDEX, LatentSource, cache_folder, cache_root, piece_length, read_index

TRIALS = 16
LIMIT = 0.01
"""Largest difference, as a share of the latents' own size, that counts as rounding."""


def adopt(job: Job, device: str) -> str | None:
    """Link pieces of a complete cache that differs in its VAE or system only into this job's; says so. None without
    one, or where this job's is complete.

    Raises InputError when latents of the trial differ, or when a file cannot be written.
    """
    settings, root = job.settings(), cache_root(job.run, job.task, job.path, job.held_out)
    folder = cache_folder(root, settings)
    if read_index(folder) is not None:
        return None
    indices = ((path.parent, read_index(path.parent)) for path in sorted(root.glob(f"*/{INDEX}")))
    found = [
        (other, index) for other, index in indices if other != folder and index and _alike(index["settings"], settings)
    ]
    found.sort(key=lambda each: each[1]["settings"]["vae"] != settings["vae"])  # the likeliest first
    refused = []
    for other, index in found:
        difference = _difference(job, LatentSource(job.source(), root, index["settings"]), device)
        if difference <= LIMIT:
            _link(other, folder, [piece["file"] for piece in index["pieces"]])
            return f"{folder}: taken over from {other.name}; {TRIALS} examples differ by {difference:.2%} at most"
        refused.append(f"{other} was made by a VAE or system whose latents differ by {difference:.1%} of their size")
    if refused:
        raise InputError(f"--adopt: {'; '.join(refused)} (at most {LIMIT:.0%}). Encode anew, without --adopt.")
    return None


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two caches differ in nothing but VAE and system, and cut the examples into the same pieces."""
    same = {**theirs, "vae": ours["vae"], "system": ours["system"]} == ours
    return same and piece_length(theirs) == piece_length(ours)


def _difference(job: Job, made: LatentSource, device: str) -> float:
    encoder = PieceEncoder(job, device)
    largest = 0.0
    for number in sorted({place * len(made) // TRIALS for place in range(TRIALS)}):
        if number in made.skipped:
            continue
        old = made.example(number).latents
        for one, other in zip((old.target, *old.references), encoder.latents_of(number), strict=True):
            if one.shape != other.shape:
                return float("inf")
            error = torch.linalg.vector_norm(one - other.float()) / torch.linalg.vector_norm(one).clamp(min=1e-6)
            largest = max(largest, float(error))
    return largest


def _link(source: Path, folder: Path, names: list[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            aside, place = folder / f".{name}.part", folder / name
            aside.unlink(missing_ok=True)
            try:
                os.link(source / name, aside)
            except OSError:  # some file systems have no links
                shutil.copyfile(source / name, aside)
            os.replace(aside, place)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}).") from error
