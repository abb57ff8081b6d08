"""Write subgraphs/VINO Conditioning.json, the four conditioning nodes as one node for simple graphs.

    python tools/build_subgraph.py

Run it after changing an input of one of these nodes. ComfyUI lists the file among its subgraph blueprints.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = "VINO Conditioning"
TARGET = ROOT / "subgraphs" / f"{NAME}.json"
DESCRIPTION = (
    "References, encoder, learnable tokens and reference latents in one node: connect loaders, up to three images "
    "and a video, write the prompt, and connect the three conditionings to VINO Sampler."
)
IMAGES = 3
INPUT_NODE, OUTPUT_NODE = -10, -20


def identity(name: str) -> str:
    """The same id for the same name at every build."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"vino/{name}"))


@dataclass
class Inner:
    """A node inside: its sockets in the frontend's order, widgets with their values, outputs as (name, type)."""

    type: str
    sockets: list[tuple[str, str]]
    widgets: dict[str, tuple[str, Any]]
    outputs: list[tuple[str, str]]
    x: int
    width: int = 340

    def slot(self, name: str) -> int:
        return [*(socket for socket, _ in self.sockets), *self.widgets].index(name)


REFERENCES, ENCODER, TOKENS, LATENTS = 1, 2, 3, 4
CONDITIONINGS = [(name, "CONDITIONING") for name in ("positive", "negative", "negative_image")]
INNER = {
    REFERENCES: Inner(
        "VINOReferences",
        [(f"images.image_{n}", "IMAGE") for n in range(1, IMAGES + 1)]
        + [("videos.video_1", "VIDEO"), ("clip", "CLIP")],
        {"size": ("COMFY_DYNAMICCOMBO_V3", "auto"), "length": ("INT", 81), "task": ("COMBO", "auto")},
        [("references", "VINO_REFERENCES"), ("width", "INT"), ("height", "INT"), ("length", "INT")],
        x=0,
    ),
    ENCODER: Inner(
        "VINOEncoder",
        [("clip", "CLIP"), ("references", "VINO_REFERENCES"), ("tokens", "VINO_TOKENS")],
        {
            "prompt": ("STRING", ""),
            "negative": ("COMFY_DYNAMICCOMBO_V3", "auto"),
            "base_image": ("BOOLEAN", False),
            "image_scale": ("FLOAT", 1.0),
            "tags": ("BOOLEAN", False),
        },
        [("context", "VINO_CONTEXT")],
        x=420,
    ),
    TOKENS: Inner(
        "VINOLearnableTokens",
        [("clip", "CLIP"), ("context", "VINO_CONTEXT"), ("tokens", "VINO_TOKENS")],
        {},
        CONDITIONINGS,
        x=840,
    ),
    LATENTS: Inner(
        "VINOReferenceLatents",
        [*CONDITIONINGS, ("vae", "VAE"), ("references", "VINO_REFERENCES")],
        {},
        CONDITIONINGS,
        x=1260,
    ),
}
WIRES = [
    (REFERENCES, "references", ENCODER, "references"),
    (REFERENCES, "references", LATENTS, "references"),
    (ENCODER, "context", TOKENS, "context"),
    *((TOKENS, name, LATENTS, name) for name, _ in CONDITIONINGS),
]
OUTER_INPUTS: dict[str, list[tuple[int, str]]] = {
    "clip": [(REFERENCES, "clip"), (ENCODER, "clip"), (TOKENS, "clip")],
    "tokens": [(ENCODER, "tokens"), (TOKENS, "tokens")],
    "vae": [(LATENTS, "vae")],
    **{f"image_{n}": [(REFERENCES, f"images.image_{n}")] for n in range(1, IMAGES + 1)},
    "video_1": [(REFERENCES, "videos.video_1")],
    "prompt": [(ENCODER, "prompt")],
    "length": [(REFERENCES, "length")],
    "base_image": [(ENCODER, "base_image")],
    "image_scale": [(ENCODER, "image_scale")],
    "task": [(REFERENCES, "task")],
}
PROXIES = [
    (ENCODER, "prompt"),
    (REFERENCES, "task"),
    (REFERENCES, "size"),
    (REFERENCES, "length"),
    (ENCODER, "negative"),
    (ENCODER, "base_image"),
    (ENCODER, "image_scale"),
]
OUTER_OUTPUTS = [
    *((LATENTS, name) for name, _ in CONDITIONINGS),
    *((REFERENCES, name) for name in ("width", "height", "length")),
]


@dataclass
class Links:
    """Links of the subgraph, numbered as they are made."""

    made: list[dict[str, Any]] = field(default_factory=list)

    def add(self, origin: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        number = len(self.made) + 1
        self.made.append(
            {
                "id": number,
                "origin_id": origin[0],
                "origin_slot": origin[1],
                "target_id": target[0],
                "target_slot": target[1],
                "type": kind,
            }
        )
        return number

    def into(self, node: int, slot: int) -> int | None:
        return next((e["id"] for e in self.made if (e["target_id"], e["target_slot"]) == (node, slot)), None)

    def out_of(self, node: int, slot: int) -> list[int]:
        return [e["id"] for e in self.made if (e["origin_id"], e["origin_slot"]) == (node, slot)]


def _output(node: int, name: str) -> tuple[int, str]:
    """Slot and type of an inner node's output."""
    names = [output for output, _ in INNER[node].outputs]
    return names.index(name), INNER[node].outputs[names.index(name)][1]


def _input_type(node: int, name: str) -> str:
    inner = INNER[node]
    return dict(inner.sockets).get(name) or inner.widgets[name][0]


def make_links() -> Links:
    links = Links()
    for origin, output, target, name in WIRES:
        slot, kind = _output(origin, output)
        links.add((origin, slot), (target, INNER[target].slot(name)), kind)
    for index, targets in enumerate(OUTER_INPUTS.values()):
        for node, name in targets:
            links.add((INPUT_NODE, index), (node, INNER[node].slot(name)), _input_type(node, name))
    for index, (node, name) in enumerate(OUTER_OUTPUTS):
        slot, kind = _output(node, name)
        links.add((node, slot), (OUTPUT_NODE, index), kind)
    return links


def _inner_node(number: int, inner: Inner, links: Links) -> dict[str, Any]:
    sockets = [
        {"name": name, "type": kind, "link": links.into(number, inner.slot(name))} for name, kind in inner.sockets
    ]
    for socket in sockets:
        if "." in socket["name"]:
            socket |= {"label": socket["name"].rpartition(".")[2], "shape": 7}
    widgets = [
        {"name": name, "type": kind, "widget": {"name": name}, "link": links.into(number, inner.slot(name))}
        for name, (kind, _) in inner.widgets.items()
    ]
    outputs = [
        {"name": name, "type": kind, "links": links.out_of(number, slot)}
        for slot, (name, kind) in enumerate(inner.outputs)
    ]
    return {
        "id": number,
        "type": inner.type,
        "pos": [inner.x, 0],
        "size": [inner.width, 220],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": sockets + widgets,
        "outputs": outputs,
        "properties": {"Node name for S&R": inner.type},
        "widgets_values": [value for _, value in inner.widgets.values()],
    }


def blueprint() -> dict[str, Any]:
    """The file's content: a workflow with one node, and what is in it."""
    links, definition = make_links(), identity(NAME)
    kinds = [_input_type(*targets[0]) for targets in OUTER_INPUTS.values()]
    inputs = [
        {
            "id": identity(f"input {name}"),
            "name": name,
            "type": kind,
            "linkIds": links.out_of(INPUT_NODE, index),
            "pos": [-120, 20 * index],
        }
        for index, (name, kind) in enumerate(zip(OUTER_INPUTS, kinds, strict=True))
    ]
    outputs = [
        {
            "id": identity(f"output {name}"),
            "name": name,
            "type": _output(node, name)[1],
            "linkIds": [links.into(OUTPUT_NODE, index)],
            "pos": [1700, 20 * index],
        }
        for index, (node, name) in enumerate(OUTER_OUTPUTS)
    ]
    widgets = {name for _, name in PROXIES}
    outer_inputs = [
        {"name": name, "type": kind, "link": None, **({"widget": {"name": name}} if name in widgets else {})}
        for name, kind in zip(OUTER_INPUTS, kinds, strict=True)
    ]
    for entry in outer_inputs:
        if entry["type"] in ("IMAGE", "VIDEO"):
            entry["shape"] = 7
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [
            {
                "id": 1,
                "type": definition,
                "pos": [0, 0],
                "size": [400, 520],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": outer_inputs,
                "outputs": [{"name": entry["name"], "type": entry["type"], "links": []} for entry in outputs],
                "properties": {"proxyWidgets": [[str(node), name] for node, name in PROXIES]},
                "widgets_values": [],
                "title": NAME,
            }
        ],
        "links": [],
        "version": 0.4,
        "definitions": {
            "subgraphs": [
                {
                    "id": definition,
                    "version": 1,
                    "state": {
                        "lastGroupId": 0,
                        "lastNodeId": len(INNER),
                        "lastLinkId": len(links.made),
                        "lastRerouteId": 0,
                    },
                    "revision": 0,
                    "config": {},
                    "name": NAME,
                    "inputNode": {"id": INPUT_NODE, "bounding": [-240, -20, 140, 20 * len(inputs) + 48]},
                    "outputNode": {"id": OUTPUT_NODE, "bounding": [1680, -20, 140, 20 * len(outputs) + 48]},
                    "inputs": inputs,
                    "outputs": outputs,
                    "widgets": [],
                    "nodes": [_inner_node(number, inner, links) for number, inner in INNER.items()],
                    "groups": [],
                    "links": links.made,
                    "extra": {},
                    "category": "VINO",
                    "description": DESCRIPTION,
                }
            ]
        },
        "extra": {"BlueprintDescription": DESCRIPTION},
    }


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(blueprint(), indent=1) + "\n", encoding="utf-8")
    print(TARGET)
