"""How the pack behaves in a running ComfyUI: stopping, mistakes, stock nodes in place of ours, what is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from comfy_server import ComfyServer, Graph, PromptFailed, PromptInterrupted, PromptRejected
from safetensors.torch import load_file
from server_graphs import node_id, nodes, shipped, small, with_latent
from server_runs import small_areas
from tiny_weights import MODEL_FILE, VAE_FILE


def text_graph(prompt: str = "A lighthouse.", name: str = "vino_text_to_image") -> Graph:
    graph = small(shipped(name))
    next(nodes(graph, "PrimitiveStringMultiline"))["value"] = prompt
    return graph


def sampled(server: ComfyServer, graph: Graph) -> torch.Tensor:
    """The latent that the graph samples."""
    result = server.run(with_latent(graph))
    return load_file(result.files("latent")[0])["samples"]


def test_interrupt_stops_within_a_step_and_leaves_the_server_usable(server: ComfyServer) -> None:
    graph = text_graph("Interrupted.")
    next(nodes(graph, "VINOSampler"))["steps"] = 10_000
    prompt = server.queue(graph)
    server.wait_for_progress(prompt, node_id(graph, "VINOSampler"))
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(prompt, timeout=10)
    assert server.run(text_graph("After the interruption.")).files()


def test_progress_and_previews_arrive(server: ComfyServer) -> None:
    before = server.previews
    graph = text_graph("Watched.")
    next(nodes(graph, "VINOSampler"))["steps"] = 4
    result = server.run(graph)
    steps = [
        e["value"] for e in server.events(result.prompt_id, "progress") if e["node"] == node_id(graph, "VINOSampler")
    ]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    assert server.previews > before


def test_only_what_changed_runs_again(server: ComfyServer) -> None:
    graph = text_graph("Cached.")
    server.run(graph)
    next(nodes(graph, "VINOSampler"))["text_scale"] = 3.5
    cached = server.run(graph).cached
    assert node_id(graph, "VINOEncoder") in cached
    assert node_id(graph, "VINOModelLoader") in cached
    assert node_id(graph, "VINOSampler") not in cached


def test_the_seed_fixes_the_result(server: ComfyServer) -> None:
    graph = text_graph("Seeded.")
    first = sampled(server, graph)
    next(nodes(graph, "VINOSampler"))["seed"] = 1
    other = sampled(server, graph)
    next(nodes(graph, "VINOSampler"))["seed"] = 0
    # Or the first result would come out of the cache.
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert torch.equal(first, sampled(server, graph))
    assert not torch.allclose(first, other, atol=0.1)


def stock_models(graph: Graph) -> Graph:
    graph[node_id(graph, "VINOModelLoader")] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": Path(MODEL_FILE).name, "weight_dtype": "default"},
    }
    return graph


def stock_guider(graph: Graph) -> Graph:
    name = node_id(graph, "VINODualCFGGuider")
    ours = graph[name]["inputs"]
    graph[name] = {
        "class_type": "DualCFGGuider",
        "inputs": {
            "model": ours["model"],
            "cond1": ours["positive"],
            "cond2": ours["negative"],
            "negative": ours["negative_image"],
            "cfg_conds": ours["text_scale"],
            "cfg_cond2_negative": ours["image_scale"],
            "style": "regular",
        },
    }
    return graph


@pytest.mark.parametrize("replace", [stock_models, stock_guider])
def test_stock_nodes_give_the_same_numbers(server: ComfyServer, replace: Any) -> None:
    with small_areas(server):
        ours = sampled(server, small(shipped("vino_edit_image_with_reference")))
        stock = sampled(server, replace(small(shipped("vino_edit_image_with_reference"))))
    assert (ours - stock).abs().max() < 1e-4


def test_stock_ksampler_runs(server: ComfyServer) -> None:
    graph = text_graph("KSampler.")
    name = node_id(graph, "VINOSampler")
    ours = graph[name]["inputs"]
    kept = {key: ours[key] for key in ("model", "positive", "negative", "latent_image", "seed", "steps")}
    settings = {"cfg": 5.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    graph[name] = {"class_type": "KSampler", "inputs": {**kept, **settings}}
    latent = sampled(server, graph)
    assert latent.isfinite().all()
    assert latent.std() > 0.05


def change(class_type: str, **values: Any) -> Any:
    """A change to the inputs of every node of a type; double underscores stand for dots."""

    def apply(graph: Graph) -> None:
        for inputs in nodes(graph, class_type):
            inputs.update({name.replace("__", "."): value for name, value in values.items()})

    return apply


MISTAKES = [
    ("vino_text_to_image", change("VINOReferences", size__width=100), ["100", "multiple", "96"]),
    ("vino_text_to_video", change("VINOReferences", length=6), ["6", "5 or 9"]),
    ("vino_text_to_image", change("VINOReferences", size="last image"), ["last image", "no image is connected"]),
    ("vino_text_to_image", change("VINOEmptyLatent", height=50), ["50", "48"]),
    ("vino_text_to_image", change("VINOSampler", image_scale=2.0), ["image_scale"]),
    (
        "vino_text_to_image",
        change("VINOModelLoader", model_name="a_vae.safetensors"),
        ["a_vae", "not a model that loads here"],
    ),
    ("vino_text_to_image", change("VINOModelLoader", model_name="cut.safetensors"), ["cut.safetensors"]),
    (
        "vino_text_to_image",
        change("VINOTextEncoderLoader", text_encoder_name="a_vae.safetensors"),
        ["a_vae", "Qwen3-VL"],
    ),
    ("vino_text_to_image", change("VINOTokensLoader", tokens_name="a_vae.safetensors"), ["a_vae", "tokens"]),
]


@pytest.fixture(scope="module")
def wrong_files(server: ComfyServer) -> None:
    """A VAE where other files are expected, and a model cut short."""
    for folder in ("diffusion_models", "text_encoders", "embeddings"):
        shutil.copy(server.models / VAE_FILE, server.models / folder / "a_vae.safetensors")
    model = (server.models / MODEL_FILE).read_bytes()
    (server.models / "diffusion_models" / "cut.safetensors").write_bytes(model[: len(model) // 2])


@pytest.mark.usefixtures("wrong_files")
@pytest.mark.parametrize(("name", "mistake", "words"), MISTAKES)
def test_a_mistake_is_named_with_its_remedy(server: ComfyServer, name: str, mistake: Any, words: list[str]) -> None:
    graph = text_graph("Mistaken.", name)
    mistake(graph)
    with pytest.raises((PromptFailed, PromptRejected)) as caught:
        server.run(graph)
    message = caught.value.message if isinstance(caught.value, PromptFailed) else str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert server.run(text_graph("After a mistake.")).files()


def test_a_missing_file_is_refused_before_anything_runs(server: ComfyServer) -> None:
    graph = text_graph()
    change("VINOModelLoader", model_name="nowhere.safetensors")(graph)
    with pytest.raises(PromptRejected, match="nowhere.safetensors"):
        server.run(graph)


def test_a_reference_that_is_not_connected_gives_a_warning(server: ComfyServer) -> None:
    graph = small(shipped("vino_references_to_video"))
    next(nodes(graph, "PrimitiveStringMultiline"))["value"] = "Image 4 waves."
    with small_areas(server):
        text = server.run(graph).text(node_id(graph, "VINOEncoder"))
    assert "Image 4" in text


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    other = ComfyServer(tmp_path, pack=False)
    with pytest.raises(RuntimeError, match="did not answer"):
        other.start(timeout=0.5)
    process = psutil.Process(other.pid)
    assert process.is_running()
    other.stop()
    assert not process.is_running()
