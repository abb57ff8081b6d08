"""Write `locales/en/nodeDefs.json`, the node texts that translators start from, out of the nodes themselves.

COMFYUI_PATH=... python tools/write_locales.py
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"


def node_texts() -> dict[str, Any]:
    """ComfyUI's translation table for every node of the pack."""
    from comfy_inprocess import pack

    async def classes() -> list[Any]:
        return await (await pack("nodes").comfy_entrypoint()).get_node_list()

    texts = {}
    for node in asyncio.run(classes()):
        schema = node.define_schema()
        texts[schema.node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {entry.id: {"name": entry.id, "tooltip": entry.tooltip} for entry in schema.inputs},
            "outputs": {
                str(index): {"name": entry.display_name or entry.io_type, "tooltip": entry.tooltip}
                for index, entry in enumerate(schema.outputs)
            },
        }
    return texts


if __name__ == "__main__":
    LOCALE.parent.mkdir(parents=True, exist_ok=True)
    LOCALE.write_text(json.dumps(node_texts(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(LOCALE)
