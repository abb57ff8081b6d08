"""LoRA training in a running ComfyUI: progress, stopping, going on, and drawing with the result at once."""

from __future__ import annotations

import time

import pytest
from comfy_server import ComfyServer, Graph, PromptFailed, PromptInterrupted
from server_graphs import node_id, nodes, shipped, small


def training_graph(**changes: object) -> Graph:
    graph = small(shipped("vino_train_lora"))
    next(nodes(graph, "VINOTrainLora")).update(changes)
    return graph


def wait_for_step(server: ComfyServer, prompt: str, graph: Graph, step: int, timeout: float = 120.0) -> None:
    """Wait until training has done `step` steps; the node's first progress counts examples, not steps."""
    node, steps = node_id(graph, "VINOTrainLora"), next(nodes(graph, "VINOTrainLora"))["steps"]
    deadline = time.monotonic() + timeout
    while not any(
        data["node"] == node and data["max"] == steps and data["value"] >= step
        for data in server.events(prompt, "progress")
    ):
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)


def loras(server: ComfyServer, name: str) -> list[int]:
    """Steps of the files of that name in models/loras."""
    found = (server.models / "loras").glob(f"{name}_*_steps_*.safetensors")
    return sorted(int(path.name.removeprefix(f"{name}_").split("_")[0]) for path in found)


def test_a_stopped_run_leaves_its_lora_and_goes_on_where_it_was(server: ComfyServer) -> None:
    graph = training_graph(lora_name="stopped", steps=10_000)
    before = server.previews
    prompt = server.queue(graph)
    wait_for_step(server, prompt, graph, 2)
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(prompt, timeout=120)
    (done,) = loras(server, "stopped")
    assert done >= 2
    assert server.previews > before, "the loss was not shown while training"

    further = training_graph(lora_name="stopped", steps=done + 2)
    result = server.run(further)
    assert loras(server, "stopped") == [done, done + 2]
    assert f"on from step {done} of {done + 2}" in server.log(500)
    trainer = node_id(further, "VINOTrainLora")
    values = [e["value"] for e in server.events(result.prompt_id, "progress") if e["node"] == trainer]
    assert values[-2:] == [done + 1, done + 2]
    (plot,) = result.files(trainer)
    assert plot.suffix == ".png"
    assert result.files(node_id(further, "SaveImage")), "nothing was drawn with the LoRA"


def test_the_lora_changes_the_picture(server: ComfyServer) -> None:
    """Stock LoraLoaderModelOnly, straight from the trainer; no key is left over."""
    graph = training_graph(lora_name="strong", steps=3, learning_rate=0.05)
    strength = next(nodes(graph, "LoraLoaderModelOnly"))
    (with_lora,) = server.run(graph).files(node_id(graph, "SaveImage"))
    strength["strength_model"] = 0.0
    (without,) = server.run(graph).files(node_id(graph, "SaveImage"))
    assert with_lora.read_bytes() != without.read_bytes()
    assert "lora key not loaded" not in server.log(500)


def test_an_empty_folder_is_named(server: ComfyServer) -> None:
    (server.folders["input"] / "nothing").mkdir(exist_ok=True)
    graph = training_graph()
    next(nodes(graph, "VINOLoraDataset"))["folder"] = "nothing"
    with pytest.raises(PromptFailed, match="no pictures or clips in it") as caught:
        server.run(graph)
    assert caught.value.node_type == "VINOLoraDataset"
