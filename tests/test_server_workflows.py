"""Every shipped workflow of VINO through a real ComfyUI server's HTTP API, on pictures and clips."""

from __future__ import annotations

import pytest
from comfy_server import ComfyServer
from server_graphs import NAMES, VINO_NAMES, shipped, small
from server_media import media_sets
from server_runs import check_drawing, expected_size, small_areas
from workflows.kits import VINO_KIT
from workflows.shipped import workflows

ON_PUBLISHED_MEDIA = (
    "vino_edit_image",
    "vino_edit_image_with_reference",
    "vino_references_to_video",
    "vino_edit_video",
    "vino_edit_video_with_reference",
)
CASES = [(name, "") for name in VINO_NAMES]
CASES += [(name, media) for media in media_sets()[1:] for name in ON_PUBLISHED_MEDIA]

# At full size a run takes most of a minute: one that edits a picture and one that edits a clip hold every rule of it.
FULL_SIZE = ("vino_edit_image_with_reference", "vino_edit_video")


@pytest.mark.parametrize(("name", "media"), CASES)
def test_shipped_workflow_runs(server: ComfyServer, name: str, media: str) -> None:
    graph = small(shipped(name), media)
    if name in FULL_SIZE:
        check_drawing(server, graph, expected_size(server, graph, VINO_KIT.system))
        return
    with small_areas(server) as area:
        check_drawing(server, graph, expected_size(server, graph, VINO_KIT.system, area))


def test_api_files_are_those_of_the_descriptions() -> None:
    assert {flow.name: flow.api() for flow in workflows()} == {name: shipped(name) for name in NAMES}
