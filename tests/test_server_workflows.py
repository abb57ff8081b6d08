"""Every shipped workflow through a real ComfyUI server's HTTP API, on pictures and clips."""

from __future__ import annotations

import av
import pytest
from comfy_server import ComfyServer, Graph
from PIL import Image
from safetensors.torch import load_file
from server_graphs import HEIGHT, LENGTH, NAMES, STEPS, WIDTH, node_id, nodes, shipped, small, with_latent
from server_media import assert_alive, media_sets, read_saved
from workflows.shipped import workflows

from vino_core.media.sizing import best_grid, crop_to_unit, fit_area

ON_PUBLISHED_MEDIA = (
    "vino_edit_image",
    "vino_edit_image_with_reference",
    "vino_references_to_video",
    "vino_edit_video",
    "vino_edit_video_with_reference",
)
CASES = [(name, "") for name in NAMES]
CASES += [(name, media) for media in media_sets()[1:] for name in ON_PUBLISHED_MEDIA]

# A clip at full size takes most of the time here: each of these has the nodes of another that runs at full size.
SMALL_TARGET = {("vino_clone_camera", ""), ("vino_clone_motion", ""), ("vino_edit_video", "real_")}


def expected_size(server: ComfyServer, graph: Graph) -> tuple[int, int]:
    """Width and height that the result must have, from the files that the graph loads."""
    (references,) = nodes(graph, "VINOReferences")
    if references["size"] == "custom":
        return WIDTH, HEIGHT
    if references["size"] == "last image":
        *_, last = nodes(graph, "LoadImage")
        height, width = best_grid(*Image.open(server.folders["input"] / last["image"]).size)
        return width, height
    (clip,) = nodes(graph, "LoadVideo")
    with av.open(str(server.folders["input"] / clip["file"])) as container:
        stream = container.streams.video[0]
        height, width = crop_to_unit(*fit_area(stream.width, stream.height))
    return width, height


def run_and_check(server: ComfyServer, graph: Graph) -> None:
    graph = with_latent(graph)
    is_clip = any(nodes(graph, "SaveVideo"))
    result = server.run(graph)

    (file,) = result.files(node_id(graph, "SaveVideo", "SaveImage"))
    saved = read_saved(file)
    assert saved.size == expected_size(server, graph)
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


@pytest.mark.parametrize(("name", "media"), CASES)
def test_shipped_workflow_runs(server: ComfyServer, name: str, media: str) -> None:
    run_and_check(server, small(shipped(name), media, small_target=(name, media) in SMALL_TARGET))


def test_api_files_are_those_of_the_descriptions() -> None:
    assert {flow.name: flow.api() for flow in workflows()} == {name: shipped(name) for name in NAMES}
