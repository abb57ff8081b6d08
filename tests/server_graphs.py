"""The shipped API graphs, cut down to what miniature weights on a CPU do in seconds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from comfy_server import ROOT, Graph
from workflows.kits import VINO_KIT
from workflows.shipped import TASKS
from workflows.task import Task

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
OF_TASKS: dict[str, Task] = {task.name: task for task in TASKS}
VINO_NAMES = [name for name in NAMES if name not in OF_TASKS or OF_TASKS[name].kit is VINO_KIT]
WIDTH, HEIGHT, LENGTH, STEPS = 96, 64, 5, 2

LOADERS = {"LoadImage": "image", "LoadVideo": "file"}
"""Nodes that load what the user supplies, and the input that names it."""

# Inputs to replace, by node type and input name; an input that a graph does not have stays away.
SMALL: dict[str, dict[str, Any]] = {
    "VINOReferences": {"size.width": WIDTH, "size.height": HEIGHT},
    "VINOSampler": {"steps": STEPS},
    "VINOScheduler": {"steps": STEPS},
    "VINOPromptRewriter": {"max_new_tokens": 8},
    "VINOAsk": {"max_new_tokens": 8},
    "VINOThink": {"max_new_tokens": 8},
    # One tile: overlapping ones would be decoded twice.
    "VAEDecodeTiled": {"tile_size": 1024},
    "VINOTrainLora": {"steps": STEPS, "rank": 2, "resolution": 64, "training_dtype": "fp32"},
}


def shipped(name: str) -> Graph:
    """An API graph as it is shipped."""
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def nodes(graph: Graph, class_type: str) -> Iterator[dict[str, Any]]:
    """The inputs of every node of a type."""
    return (node["inputs"] for node in graph.values() if node["class_type"] == class_type)


def node_id(graph: Graph, *class_types: str) -> str:
    """Id of the only node of one of these types."""
    found = [name for name, node in graph.items() if node["class_type"] in class_types]
    assert len(found) == 1, f"{class_types}: {found}"
    return found[0]


def small(graph: Graph, media: str = "") -> Graph:
    """The graph with few steps and frames, on the uploaded media whose names start with `media`.

    References keep the size they are prepared at, and so does a result that takes its size from one, unless it runs in
    `server_runs.small_areas`.
    """
    graph = copy.deepcopy(graph)
    for node in graph.values():
        changes = SMALL.get(node["class_type"], {})
        node["inputs"].update({name: value for name, value in changes.items() if name in node["inputs"]})
    for references in nodes(graph, "VINOReferences"):
        references["length"] = min(references["length"], LENGTH)
    for kind, name in LOADERS.items():
        for loader in nodes(graph, kind):
            loader[name] = media + loader[name]
    return graph


def with_latent(graph: Graph) -> Graph:
    """The graph, also writing the sampled latent; its file comes from node "latent"."""
    decoder = next(n for n in graph.values() if n["class_type"].startswith("VAEDecode"))
    saver = {"samples": decoder["inputs"]["samples"], "filename_prefix": "latent"}
    return {**graph, "latent": {"class_type": "TestSaveLatent", "inputs": saver}}
