"""The machine: processor, memory, accelerators."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """Where models can run. Sizes in bytes, None where they cannot be asked for."""

    name: str
    description: str
    total: int | None
    free: int | None


def python_version() -> str:
    """For example "3.11.9, Linux x86_64"."""
    return f"{sys.version.split()[0]}, {platform.system()} {platform.machine()}"


def memory() -> tuple[int | None, int | None]:
    """Total and available main memory in bytes."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemTotal"].split()[0]) * 1024, int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, OSError, ValueError):
        return None, None


def devices() -> list[Device]:
    """All devices that torch can use, accelerators first. Needs torch."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Device(f"cuda:{index}", torch.cuda.get_device_name(index), total, free))
    total, free = memory()
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU, shares the main memory", total, free))
    found.append(Device("cpu", f"{os.cpu_count()} threads", total, free))
    return found
