"""Load the pack inside this process, the way ComfyUI loads it, without starting a server.

`pack("nodes.comfy.vlm")` is a module of the loaded pack. Its `vino_core` is a copy of its own, as it is in ComfyUI:
compare values, not types, with the top-level `vino_core`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import lru_cache
from types import ModuleType

from comfy_server import ROOT, find_comfyui

_NAME = "vino_pack"


@lru_cache(maxsize=1)
def _load() -> None:
    # First, not last: ComfyUI's `nodes` and `utils` must win over folders of the same name beside us.
    sys.path.insert(0, str(find_comfyui()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    # Not the root `__init__`: it imports every node, and a test of one adapter should not need the others.
    package = ModuleType(_NAME)
    package.__path__ = [str(ROOT)]
    sys.modules[_NAME] = package


def pack(name: str) -> ModuleType:
    """The pack's module `name`, such as "nodes.references" or "vino_core.errors"."""
    _load()
    return importlib.import_module(f"{_NAME}.{name}")
