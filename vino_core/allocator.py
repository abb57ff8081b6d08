"""Memory of the C library, for long computations on the CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for the next allocation, however large; True where that is possible.

    By default blocks above 32 MB go back to the system at once, and every step of a model pays for clearing the same
    pages again: about 4 percent of an MMDiT step in float32. For programs of our own; ComfyUI's process is not ours to
    tune.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
