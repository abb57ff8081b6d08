"""Every shipped workflow in ComfyUI's own frontend, in a headless Chromium: it opens whole, and Run succeeds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_server import ComfyServer, Graph
from server_graphs import HEIGHT, LENGTH, LOADERS, NAMES, OF_TASKS, SMALL, WIDTH, WORKFLOWS, node_id, shipped
from server_media import assert_alive, published_files, read_saved
from server_runs import check_texts, expected_size, small_areas
from workflows.frontend import Frontend, find_chromium, frontend

from vino_core.systems.vino import VINO

REASON = os.environ.get("VINO_SKIP_BROWSER") or (None if find_chromium() else "no Chromium on PATH")

pytestmark = pytest.mark.skipif(REASON is not None, reason=f"browser tests: {REASON}")


@pytest.fixture(scope="module")
def browser(server: ComfyServer) -> Iterator[Frontend]:
    with small_areas(server), frontend(server.url) as page:
        yield page


def comparable(graph: Graph) -> dict[str, tuple[str, dict]]:
    """Types and inputs by node id, without what only the frontend adds: widgets at defaults, titles."""
    return {name: (node["class_type"], node["inputs"]) for name, node in graph.items()}


@pytest.fixture
def page(browser: Frontend, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Frontend]:
    """The browser; how it looked when a test failed is kept in the test's folder."""
    failed = request.session.testsfailed
    yield browser
    if request.session.testsfailed > failed:
        browser.page.screenshot(path=str(tmp_path / "page.png"))


@pytest.mark.parametrize("name", NAMES)
def test_opens_and_runs(server: ComfyServer, page: Frontend, name: str) -> None:
    wanted = published_files(shipped(name), name)
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node["type"] in LOADERS:
            node["widgets_values"][0] = wanted[str(node["id"])]["inputs"][LOADERS[node["type"]]]
    page.load(workflow)
    assert page.problems() == []

    shown = comparable(page.api())
    for node, (class_type, inputs) in comparable(wanted).items():
        assert shown[node][0] == class_type
        assert shown[node][1] | inputs == shown[node][1], "UI and API files differ"

    for class_type, values in SMALL.items():
        page.set_widgets(class_type, values)
    types = {class_type for class_type, _ in shown.values()}
    system = OF_TASKS[name].kit.system if name in OF_TASKS else VINO
    length = 1 if "SaveImage" in types else LENGTH
    # Where all have one size, that is the one of what is edited.
    size = {} if system.one_size else {"size": "custom", "size.width": WIDTH, "size.height": HEIGHT}
    page.set_widgets("VINOReferences", {**size, "length": length})
    graph = page.api()

    prompt = page.run()
    result = server.wait(prompt)
    page.wait_for_end(prompt)
    assert page.problems() == []
    check_texts(result, graph)
    if not types & {"SaveImage", "SaveVideo"}:
        return
    (file,) = result.files(node_id(graph, "SaveImage", "SaveVideo"))
    saved = read_saved(file)
    assert saved.size == expected_size(server, graph, system, WIDTH * HEIGHT)
    assert len(saved.frames) == length
    assert_alive(saved)


def test_templates_are_listed_with_pictures(server: ComfyServer, browser: Frontend) -> None:
    listed = server.get("/workflow_templates")["vino"]
    assert sorted(listed) == NAMES
    for name in NAMES:
        assert browser.page.request.get(f"{server.url}/api/workflow_templates/vino/{name}.jpg").ok
