"""Every shipped workflow of a task through a real ComfyUI server, with its miniature, on examples of the toy world.

A miniature that is not trained yet runs with random weights.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from comfy_server import ComfyServer
from drawings import drawn, workflow_of
from miniature import TINY_VINO, TINY_VOGUE
from safetensors.torch import load_file
from server_graphs import node_id, nodes, with_latent
from server_media import Saved, assert_alive, read_saved
from server_runs import check_texts
from tiny_vogue_weights import write_tiny_vogue_weights
from toy_runs import GRAPHS, ToyRun

from vino_core.toyworld.plans import ToyExample
from vino_core.toyworld.scorers import score

RUNS = (
    ToyRun("vino_text_to_image", "t2i", "two sprites"),
    ToyRun("vino_text_to_video", "t2v", "one sprite"),
    ToyRun("vino_image_to_video", "i2v", "motion"),
    ToyRun("vino_edit_image", "ti2i", "recolour"),
    ToyRun("vino_edit_image_with_reference", "ti2i_baseimg", "swap"),
    ToyRun("vino_references_to_video", "ti2v", "2 subjects"),
    ToyRun("vino_edit_video", "tv2v", "background"),
    ToyRun("vino_edit_video_with_reference", "tiv2v", "swap"),
    ToyRun("vino_clone_motion", "tiv2v_clone", "named motion"),
    ToyRun("vino_clone_camera", "tiv2v_camclone", "named movement"),
    ToyRun("vino_understand_then_generate", "t2v", "two sprites"),
    ToyRun("vogue_text_to_image", "t2i", "two sprites"),
    ToyRun("vogue_text_to_video", "t2v", "one sprite"),
    ToyRun("vogue_image_to_video", "i2v", "motion"),
    ToyRun("vogue_edit_image", "ti2i", "recolour"),
    ToyRun("vogue_edit_image_with_reference", "ti2i_baseimg", "swap"),
    ToyRun("vogue_references_to_video", "ti2v", "2 subjects"),
    ToyRun("vogue_edit_video", "tv2v", "background"),
    ToyRun("vogue_edit_video_with_reference", "tiv2v", "swap"),
    ToyRun("vogue_understand", "tv2v", "recolour"),
    ToyRun("vogue_think_annotated", "t2v", "one sprite"),
    ToyRun("vogue_think_canvas", "t2v", "one sprite"),
)
EACH = 4
ASKED = {
    "VINO draws": (
        ToyRun("vino_text_to_image", "t2i", "one sprite"),
        ToyRun("vino_text_to_image", "t2i", "two sprites"),
    ),
    "VINO edits": (ToyRun("vino_edit_image", "ti2i", "recolour"), ToyRun("vino_edit_video", "tv2v", "remove")),
    "VOGUE draws": (
        ToyRun("vogue_text_to_image", "t2i", "one sprite"),
        ToyRun("vogue_text_to_image", "t2i", "two sprites"),
    ),
    "VOGUE edits": (ToyRun("vogue_edit_image", "ti2i", "recolour"), ToyRun("vogue_edit_image", "ti2i", "remove")),
}
LEAST = {"VINO draws": 6, "VINO edits": 4, "VOGUE draws": 5, "VOGUE edits": 1}
"""Results that must be as asked, of EACH of both runs. There were 8, 6, 7 and 3; random weights reach none."""


@pytest.fixture(scope="module", autouse=True)
def miniatures(server: ComfyServer) -> None:
    TINY_VINO.write(server.models)
    if TINY_VOGUE.is_trained:
        TINY_VOGUE.write(server.models)
    else:
        write_tiny_vogue_weights(server.models, system=TINY_VOGUE.system, names=TINY_VOGUE.files, told=True)
        TINY_VOGUE.write_vae(server.models)


def moving(run: ToyRun) -> ToyExample:
    """The first example of a run whose own target would pass as alive."""
    for toy in run.examples():
        try:
            assert_alive(Saved(toy.example.target.numpy(), None))
        except AssertionError:
            continue
        return toy
    raise AssertionError("examples are endless")


def test_no_workflow_is_left_out() -> None:
    assert sorted(run.workflow for run in RUNS) == sorted(GRAPHS)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.workflow)
def test_workflow_runs(server: ComfyServer, tmp_path: Path, run: ToyRun) -> None:
    example, system = moving(run).example, run.miniature.system
    files = [server.upload(path) for path in run.write_inputs(example, tmp_path)]
    graph = run.graph(example, files)
    if any(nodes(graph, "VINOAsk")):
        check_texts(server.run(graph), graph)
        return
    graph = with_latent(graph)
    result = server.run(graph)
    check_texts(result, graph)

    (file,) = result.files(node_id(graph, "SaveVideo", "SaveImage"))
    saved = read_saved(file)
    frames = len(example.target)
    assert saved.frames.shape == tuple(example.target.shape)
    assert saved.rate == (None if frames == 1 else system.frame_rate)
    assert_alive(saved)
    latent = load_file(result.files("latent")[0])["samples"]
    assert latent.shape == (1, system.latent_channels, *system.latent_grid(frames, *saved.frames.shape[1:3]))
    assert latent.isfinite().all()
    (sampler,) = [*nodes(graph, "VINOSampler"), *nodes(graph, "VINOScheduler")]
    assert sampler["steps"] == run.preset.steps

    again = server.run(graph)
    assert sorted(again.cached) == sorted(graph), "an unchanged graph ran again"


@pytest.mark.parametrize("name", ASKED)
def test_it_does_what_it_is_asked(server: ComfyServer, tmp_path: Path, name: str) -> None:
    """Less than it reaches: whole runs through the server, not a measurement (that is `vino eval toy`)."""
    if not all(run.miniature.is_trained for run in ASKED[name]):
        pytest.skip("vogue-tiny is not trained yet")
    followed = {}
    for run in ASKED[name]:
        for toy in islice(run.examples(), EACH):
            files = [server.upload(path) for path in run.write_inputs(toy.example, tmp_path)]
            (file,) = server.run(run.graph(toy.example, files)).files()
            followed[toy.example.id] = score(torch.from_numpy(read_saved(file).frames.copy()), toy).followed
    assert sum(followed.values()) >= LEAST[name], followed


@pytest.mark.skipif(not TINY_VOGUE.is_trained, reason="vogue-tiny is not trained yet")
@pytest.mark.parametrize(("kind", "least"), [("canvas", 3), ("annotated", 2)])
def test_it_reads_what_is_drawn(server: ComfyServer, tmp_path: Path, kind: str, least: int) -> None:
    """Thinking mode through the nodes: of five drawings, so many plans and prompts tell the subject and its motion."""
    workflow, plans, prompts = workflow_of(kind), [], []
    for one in drawn(kind, 5):
        files = [server.upload(path) for path in workflow.write_inputs(one.toy.example, tmp_path)]
        graph = workflow.graph(one.toy.example, files)
        thinking = node_id(graph, "VINOThink")
        result = server.run(graph)
        shown = {
            node["inputs"]["source"][1]: name for name, node in graph.items() if node["class_type"] == "PreviewAny"
        }
        plans.append((one.in_plan(result.text(shown[0])), result.text(shown[0])))
        prompts.append((one.in_prompt(result.text(shown[1])), result.text(shown[1])))
        (encoder,) = nodes(graph, "VINOEncoder")
        assert encoder["prompt"] == [thinking, 1], "what it thinks is not what is drawn"
        (file,) = result.files(node_id(graph, "SaveVideo"))
        assert read_saved(file).frames.shape == one.toy.example.target.shape
    assert sum(right for right, _ in plans) >= least, plans
    assert sum(right for right, _ in prompts) >= least, prompts
