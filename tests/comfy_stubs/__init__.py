"""For tests only: nodes that bring reference numbers into a graph and latents out of it, Load CLIP for a miniature.

Never shipped.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from aiohttp import web
from comfy.model_patcher import CoreModelPatcher
from comfy.text_encoders import llama
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file, save_file
from server import PromptServer

PACK_FOLDER = "vino"


def pack_module(name: str) -> ModuleType:
    """Module `name` of the VINO pack, as ComfyUI loaded it."""
    packs = [module for module in sys.modules if module.endswith(f"custom_nodes/{PACK_FOLDER}")]
    if len(packs) != 1:
        raise RuntimeError(f"expected one loaded VINO pack, found {packs}")
    return importlib.import_module(f"{packs[0]}.{name}")


class TestSaveLatent(io.ComfyNode):
    """Writes a latent's samples to a safetensors file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestSaveLatent",
            category="tests",
            inputs=[io.Latent.Input("samples"), io.String.Input("filename_prefix")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: dict, filename_prefix: str) -> io.NodeOutput:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}.safetensors"
        save_file({"samples": samples["samples"].contiguous()}, str(Path(folder) / file))
        return io.NodeOutput(ui={"latents": [{"filename": file, "subfolder": subfolder, "type": "output"}]})


class TestPreparedReferences(io.ComfyNode):
    """References that are prepared already: `image.N` and `video.N`, `seen.N` of a safetensors file in input/."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPreparedReferences",
            category="tests",
            inputs=[io.String.Input("file"), io.Int.Input("length")],
            outputs=[io.Custom("VINO_REFERENCES").Output()],
        )

    @classmethod
    def execute(cls, file: str, length: int) -> io.NodeOutput:
        core, types = pack_module("vino_core.media.references"), pack_module("nodes.types")
        stored = load_file(str(Path(folder_paths.get_input_directory()) / file))
        kinds = {kind: sum(name.startswith(f"{kind}.") for name in stored) for kind in ("image", "video")}
        images = (core.ImageReference(stored[f"image.{i}"]) for i in range(kinds["image"]))
        videos = (core.VideoReference(stored[f"video.{i}"], stored[f"seen.{i}"], 24.0) for i in range(kinds["video"]))
        references = core.References(tuple(images), tuple(videos))
        size, system = types.TargetSize(0, 0, length), pack_module("vino_core.systems").get_system("vino")
        return io.NodeOutput(types.PreparedReferences(lambda _: (references, size), system))


class _DiffusersVAE(torch.nn.Module):
    """diffusers' HunyuanVideo VAE with the two methods that ComfyUI's VAE calls."""

    def __init__(self, config: dict, weights: dict) -> None:
        super().__init__()
        from diffusers import AutoencoderKLHunyuanVideo

        self.vae = AutoencoderKLHunyuanVideo(**config)
        self.vae.load_state_dict(weights)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.mode()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents).sample


class TestReferenceVAE(io.ComfyNode):
    """The miniature HunyuanVideo VAE of a folder of reference numbers, as a stock VAE.

    ComfyUI's own loader knows this VAE in full width only, hence this way round: a stock VAE object of the same strides
    is made from `stand_in` of models/vae, then its network is exchanged.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestReferenceVAE",
            category="tests",
            inputs=[io.String.Input("folder"), io.String.Input("stand_in")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, folder: str, stand_in: str) -> io.NodeOutput:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("vae", stand_in)))
        index = json.loads((Path(folder) / "pipeline_index.json").read_text())
        weights = {name.removeprefix("vae."): value for name, value in load_file(Path(folder) / index["vae"]).items()}
        vae.first_stage_model = _DiffusersVAE(index["vae_config"], weights).eval().requires_grad_(False)
        vae.patcher = CoreModelPatcher(
            vae.first_stage_model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
        )
        return io.NodeOutput(vae)


def load_any_size(state_dicts: list[dict], *arguments: Any, **options: Any) -> comfy.sd.CLIP:
    """How Load CLIP loads, for a Qwen2.5-VL of any size: core's class knows the published one only."""
    families = pack_module("nodes.comfy.families")
    family = families.family_in(state_dicts[0])
    if family is None or family.model.__module__ != llama.__name__:
        return load_published_size(state_dicts, *arguments, **options)
    sizes = family.read(state_dicts[0], {}, {})
    # As core: it leaves the head out.
    sizes.text["lm_head"] = False
    with patch.object(llama, family.model.__name__, families.builder(family, sizes)):
        return load_published_size(state_dicts, *arguments, **options)


load_published_size = comfy.sd.load_text_encoder_state_dicts
comfy.sd.load_text_encoder_state_dicts = load_any_size


@PromptServer.instance.routes.post("/tests/area")
async def set_area(request: web.Request) -> web.Response:
    """Let VINO References prepare what decides the size of a result at {"area": pixels}; null: as published."""
    area = (await request.json())["area"]
    references, core = pack_module("nodes.references"), pack_module("vino_core.tasks")
    references.prepare_references = partial(core.prepare_references, area=area)
    return web.Response()


class TestNodes(ComfyExtension):
    """The nodes above."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestSaveLatent, TestPreparedReferences, TestReferenceVAE]


async def comfy_entrypoint() -> TestNodes:
    return TestNodes()
