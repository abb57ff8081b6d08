"""Random draws that depend on what they are for and on nothing else.

A draw is keyed by (seed, purpose, step, number of the sample in the step's whole batch): the same on any number of
processes and after any resume, whatever else was drawn.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch


def _key(parts: tuple[int | str, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([crc32(part.encode()) if isinstance(part, str) else part for part in parts])


def numbers(*parts: int | str) -> np.random.Generator:
    """numpy's generator for this key."""
    return np.random.default_rng(_key(parts))


def tensors(*parts: int | str) -> torch.Generator:
    """torch's generator on the CPU for this key."""
    return torch.Generator("cpu").manual_seed(int(_key(parts).generate_state(1, np.uint64)[0] >> 1))
