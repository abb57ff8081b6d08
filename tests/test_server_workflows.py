"""Every shipped workflow of VINO through a real ComfyUI server's HTTP API, on pictures and clips."""

from __future__ import annotations

import pytest
from comfy_server import ComfyServer
from server_graphs import NAMES, VINO_NAMES, shipped, small
from server_media import media_sets
from server_runs import check_drawing, expected_size
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

# A clip at full size takes most of the time here: each of these has the nodes of another that runs at full size.
SMALL_TARGET = {("vino_clone_camera", ""), ("vino_clone_motion", ""), ("vino_edit_video", "real_")}


@pytest.mark.parametrize(("name", "media"), CASES)
def test_shipped_workflow_runs(server: ComfyServer, name: str, media: str) -> None:
    graph = small(shipped(name), media, small_target=(name, media) in SMALL_TARGET)
    check_drawing(server, graph, expected_size(server, graph, VINO_KIT.system))


def test_api_files_are_those_of_the_descriptions() -> None:
    assert {flow.name: flow.api() for flow in workflows()} == {name: shipped(name) for name in NAMES}
