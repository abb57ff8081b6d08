"""Reference runs of the official code, repeated through a real ComfyUI server with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comfy_reference import MODEL, TEXT_ENCODER, TOKENS, write_reference_weights
from comfy_server import ComfyServer, Graph
from paths import GOLDENS
from safetensors.torch import load_file, save_file
from server_graphs import node_id
from server_media import read_saved
from tiny_weights import VAE_FILE
from torch import Tensor
from workflows.graph import Workflow

from parity_groups import case_tensors, load
from parity_groups.pipeline import INDEX, reference_request
from vino_core.request import Request

ENTRIES = json.loads((GOLDENS / INDEX).read_text())["cases"]
SCALE = json.loads((GOLDENS / INDEX).read_text())["vae_config"]["scaling_factor"]
LATENT_LIMIT = 1e-3
GREY_LEVELS = 1


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load(GOLDENS / "pipeline_cases.safetensors")


@pytest.fixture(scope="module")
def reference_weights(server: ComfyServer) -> None:
    write_reference_weights(GOLDENS, server.models)


def write_references(request: Request, path: Path) -> None:
    """The request's prepared pictures and clips, for TestPreparedReferences."""
    tensors = {f"image.{i}": image.pixels for i, image in enumerate(request.references.images)}
    for index, video in enumerate(request.references.videos):
        tensors |= {f"video.{index}": video.frames, f"seen.{index}": video.vlm_frames}
    # A file of no tensors is not allowed.
    save_file({name: value.contiguous() for name, value in (tensors or {"none": torch.zeros(1)}).items()}, path)


def graph_of(case: str, request: Request) -> Graph:
    """The case as a graph of the pack's nodes; only references and VAE come from the tests' own."""
    flow = Workflow(case, case, "")
    with flow.group("all", "#888"):
        model = flow.add("VINOModelLoader", {"model_name": Path(MODEL).name, "weight_dtype": "default"})
        clip = flow.add("VINOTextEncoderLoader", {"text_encoder_name": Path(TEXT_ENCODER).name, "device": "default"})
        tokens = flow.add("VINOTokensLoader", {"tokens_name": Path(TOKENS).name})
        vae = flow.add("TestReferenceVAE", {"folder": str(GOLDENS), "stand_in": Path(VAE_FILE).name})
        references = flow.add("TestPreparedReferences", {"file": f"{case}.safetensors", "length": request.frames})
        negative = {"negative": "custom", "negative.negative_prompt": request.negative}
        prompt = {"prompt": request.prompt, "base_image": request.base_image, "image_scale": request.image_scale}
        context = flow.add("VINOEncoder", {"clip": clip[0], "references": references[0], **negative, **prompt})
        branches = flow.add("VINOLearnableTokens", {"clip": clip[0], "context": context[0], "tokens": tokens[0]})
        names = ("positive", "negative", "negative_image")
        if request.references.images or request.references.videos:
            encoded = {name: branches[slot] for slot, name in enumerate(names)}
            branches = flow.add("VINOReferenceLatents", {**encoded, "vae": vae[0], "references": references[0]})
        size = {"width": request.width, "height": request.height, "length": request.frames, "batch_size": 1}
        latent = flow.add("VINOEmptyLatent", size)
        settings = {name: getattr(request, name) for name in ("seed", "steps", "shift", "text_scale", "image_scale")}
        conditions = {name: branches[slot] for slot, name in enumerate(names)}
        start = {"model": model[0], **conditions, "latent_image": latent[0], "denoise": 1.0}
        samples = flow.add("VINOSampler", {**start, **settings})
        flow.add("TestSaveLatent", {"samples": samples[0], "filename_prefix": f"parity/{case}"})
        pictures = flow.add("VAEDecode", {"samples": samples[0], "vae": vae[0]})
        flow.add("SaveImage", {"images": pictures[0], "filename_prefix": f"parity/{case}"})
    return flow.api()


@pytest.mark.usefixtures("reference_weights")
@pytest.mark.parametrize("case", ENTRIES)
def test_reference_run(server: ComfyServer, recorded: dict[str, Tensor], case: str) -> None:
    expected = case_tensors(recorded, case)
    request = reference_request(GOLDENS, ENTRIES[case], expected)
    write_references(request, server.folders["input"] / f"{case}.safetensors")
    graph = graph_of(case, request)
    result = server.run(graph)

    latents = load_file(result.files(node_id(graph, "TestSaveLatent"))[0])["samples"] * SCALE
    assert latents.shape == expected["final_latents"].shape
    assert (latents - expected["final_latents"]).abs().max() <= LATENT_LIMIT

    frames = [read_saved(path).frames[0] for path in result.files(node_id(graph, "SaveImage"))]
    shown = torch.stack([torch.from_numpy(frame.copy()) for frame in frames])
    assert shown.shape == expected["output_u8"][0].shape
    assert (shown.int() - expected["output_u8"][0].int()).abs().max() <= GREY_LEVELS
