"""Every shipped workflow of VOGUE through a real ComfyUI server's HTTP API, on pictures and clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_server import ComfyServer, Graph, PromptFailed
from server_graphs import OF_TASKS, node_id, nodes, shipped, small
from server_media import UNIVIDEO, UNIVIDEO_FILES, published_files
from server_runs import check_answer, check_drawing, expected_size, small_areas
from tiny_vogue_weights import FP8_FILE
from tiny_weights import MODEL_FILE
from workflows.kits import VOGUE_KIT
from workflows.task import Task

TASKS = {name: task for name, task in OF_TASKS.items() if task.kit is VOGUE_KIT}
PUBLISHED = pytest.mark.skipif(not UNIVIDEO.is_dir(), reason="the published examples are not beside the project")


@pytest.fixture
def area(server: ComfyServer) -> Iterator[int]:
    with small_areas(server) as pixels:
        yield pixels


def check(server: ComfyServer, task: Task, graph: Graph, area: int) -> None:
    if task.answer:
        check_answer(server, graph)
    else:
        check_drawing(server, graph, expected_size(server, graph, VOGUE_KIT.system, area))


@pytest.mark.parametrize("name", TASKS)
def test_shipped_workflow_runs(server: ComfyServer, area: int, name: str) -> None:
    check(server, TASKS[name], small(shipped(name)), area)


@PUBLISHED
@pytest.mark.parametrize("name", UNIVIDEO_FILES)
def test_it_runs_on_the_published_examples(server: ComfyServer, area: int, name: str) -> None:
    check(server, TASKS[name], published_files(small(shipped(name)), name), area)


def test_it_runs_at_the_published_size(server: ComfyServer) -> None:
    task = TASKS["vogue_edit_image"]
    assert task.settings.area == 480 * 832
    check(server, task, published_files(small(shipped(task.name)), task.name), task.settings.area)


def loader_of_another_system(graph: Graph) -> None:
    next(nodes(graph, "VINOModelLoader"))["model_name"] = Path(MODEL_FILE).name


def stock_loader(graph: Graph) -> None:
    graph[node_id(graph, "VINOTextEncoderLoader")] = {
        "class_type": "CLIPLoader",
        "inputs": {"clip_name": Path(FP8_FILE).name, "type": VOGUE_KIT.load_clip, "device": "default"},
    }


@pytest.mark.parametrize(
    ("name", "mistake", "words"),
    [
        ("vogue_text_to_image", loader_of_another_system, ["made for vogue", "belongs to vino"]),
        ("vogue_understand", stock_loader, ["lm_head.weight", "VINO Text Encoder Loader"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    server: ComfyServer, area: int, name: str, mistake: object, words: list[str]
) -> None:
    graph = small(shipped(name))
    mistake(graph)
    with pytest.raises(PromptFailed) as caught:
        server.run(graph)
    assert [word for word in words if word not in caught.value.message] == [], caught.value.message
