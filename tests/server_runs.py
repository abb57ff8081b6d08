"""Runs of shipped workflows through a real ComfyUI server, checked by the files that come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av
from comfy_server import ComfyServer, Graph, Result
from PIL import Image
from safetensors.torch import load_file
from server_graphs import HEIGHT, LENGTH, STEPS, WIDTH, node_id, nodes, with_latent
from server_media import assert_alive, read_saved

from vino_core.media.sizing import TARGET_AREA, best_grid, crop_to_unit, fit_area
from vino_core.systems.base import System


@contextmanager
def small_areas(server: ComfyServer) -> Iterator[int]:
    """Inside, what decides the size of a result is prepared at few pixels; how many."""
    server.post("/tests/area", {"area": WIDTH * HEIGHT})
    try:
        yield WIDTH * HEIGHT
    finally:
        server.post("/tests/area", {"area": None})


def expected_size(server: ComfyServer, graph: Graph, system: System, area: int = TARGET_AREA) -> tuple[int, int]:
    """Width and height that the result must have, from the files that the graph loads."""
    (references,) = nodes(graph, "VINOReferences")
    if references["size"] == "custom":
        return WIDTH, HEIGHT
    if references["size"] == "last image":
        *_, last = nodes(graph, "LoadImage")
        given = Image.open(server.folders["input"] / last["image"]).size
        height, width = crop_to_unit(*fit_area(*given, area)) if system.one_size else best_grid(*given, area)
        return width, height
    (clip,) = nodes(graph, "LoadVideo")
    with av.open(str(server.folders["input"] / clip["file"])) as container:
        stream = container.streams.video[0]
        height, width = crop_to_unit(*fit_area(stream.width, stream.height, area))
    return width, height


def check_texts(result: Result, graph: Graph) -> None:
    """Every text that the graph shows is there."""
    shown = [name for name, node in graph.items() if node["class_type"] == "PreviewAny"]
    assert [name for name in shown if not result.text(name).strip()] == []


def check_answer(server: ComfyServer, graph: Graph) -> None:
    """Run a graph that ends in a text, twice."""
    result = server.run(graph)
    check_texts(result, graph)
    (inputs,) = nodes(graph, "VINOAsk")
    written = server.events(result.prompt_id, "progress")
    assert inputs["max_new_tokens"] in [data["max"] for data in written if data["node"] == node_id(graph, "VINOAsk")]
    assert sorted(server.run(graph).cached) == sorted(graph), "an unchanged graph ran again"


def check_drawing(server: ComfyServer, graph: Graph, size: tuple[int, int]) -> None:
    """Run a graph that ends in a picture or clip of `size` (width, height), twice."""
    graph = with_latent(graph)
    is_clip = any(nodes(graph, "SaveVideo"))
    result = server.run(graph)
    check_texts(result, graph)

    (file,) = result.files(node_id(graph, "SaveVideo", "SaveImage"))
    saved = read_saved(file)
    assert saved.size == size
    assert len(saved.frames) == (LENGTH if is_clip else 1)
    assert saved.rate == (24 if is_clip else None)
    assert_alive(saved)

    latent = load_file(result.files("latent")[0])["samples"]
    width, height = saved.size
    assert latent.shape == (1, 16, (len(saved.frames) - 1) // 4 + 1, height // 8, width // 8)
    assert latent.isfinite().all()
    assert latent.std() > 0.05

    progress = [data["value"] for data in server.events(result.prompt_id, "progress") if data["max"] == STEPS]
    assert progress[-1] == STEPS

    again = server.run(graph)
    assert sorted(again.cached) == sorted(graph), "an unchanged graph ran again"
