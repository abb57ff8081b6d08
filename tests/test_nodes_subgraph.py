"""The subgraph blueprint: current, listed by ComfyUI, and in the real frontend a node that runs."""

from __future__ import annotations

import json
import urllib.request

import pytest
from build_subgraph import NAME, TARGET, blueprint
from comfy_server import ComfyServer
from PIL import Image
from workflows.frontend import find_chromium, frontend

# What a user does: put loaders, sampler and decoder around the blueprint's node, and fill in its widgets.
_BUILD = """async ([file, picture]) => {
    await app.loadGraphData(file)
    const node = app.graph.nodes[0]
    const add = type => {
        const made = LiteGraph.createNode(type)
        app.graph.add(made)
        return made
    }
    const place = (target, name) =>
        target.inputs.findIndex(input => input.name === name || input.widget?.name === name)
    const join = (origin, output, target, name) => {
        const slot = origin.outputs.findIndex(entry => entry.name === output)
        origin.connect(slot, target, place(target, name))
    }
    const set = (target, name, value) => { target.widgets.find(widget => widget.name === name).value = value }

    const [model, clip, tokens, vae, image] =
        ['VINOModelLoader', 'VINOTextEncoderLoader', 'VINOTokensLoader', 'VAELoader', 'LoadImage'].map(add)
    const [sampler, latent, decoder, saver] = ['VINOSampler', 'VINOEmptyLatent', 'VAEDecode', 'SaveImage'].map(add)
    set(image, 'image', picture)
    join(clip, 'CLIP', node, 'clip')
    join(tokens, 'tokens', node, 'tokens')
    join(vae, 'VAE', node, 'vae')
    join(image, 'IMAGE', node, 'image_2')
    join(model, 'MODEL', sampler, 'model')
    for (const name of ['positive', 'negative', 'negative_image']) join(node, name, sampler, name)
    for (const name of ['width', 'height', 'length']) join(node, name, latent, name)
    join(latent, 'LATENT', sampler, 'latent_image')
    join(sampler, 'LATENT', decoder, 'samples')
    join(vae, 'VAE', decoder, 'vae')
    join(decoder, 'IMAGE', saver, 'images')

    set(node, 'prompt', 'Make it blue.')
    set(node, 'length', 1)
    set(node, 'image_scale', 3.0)
    set(sampler, 'image_scale', 3.0)
    set(sampler, 'steps', 1)
    return (await app.graphToPrompt()).output
}"""


def test_blueprint_is_current() -> None:
    assert json.loads(TARGET.read_text()) == blueprint(), "run tools/build_subgraph.py"


def test_server_lists_it(server: ComfyServer) -> None:
    with urllib.request.urlopen(f"{server.url.rstrip('/')}/global_subgraphs") as answer:
        entries = json.load(answer).values()
    assert NAME in [entry["name"] for entry in entries]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on PATH")
def test_it_runs_from_the_frontend(server: ComfyServer) -> None:
    Image.new("RGB", (96, 64), "orange").save(server.folders["input"] / "blueprint.png")
    with frontend(server.url) as page:
        graph = page.page.evaluate(_BUILD, [blueprint(), "blueprint.png"])
        assert page.problems() == []
    inner = {node["class_type"]: node["inputs"] for node in graph.values()}
    assert inner["VINOEncoder"]["prompt"] == "Make it blue." and inner["VINOEncoder"]["image_scale"] == 3
    assert inner["VINOReferences"]["length"] == 1 and "images.image_2" in inner["VINOReferences"]
    (picture,) = server.run(graph).files()
    assert Image.open(picture).size == (784, 528)
