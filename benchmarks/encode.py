"""Preparing and encoding one request with three references and dual guidance, against each branch on its own.

"Apart" does what the released inference code does for every branch: vision tower and VAE for its references, all
decoder layers, the LM head for every token, both connectors for every token. Pictures, prompts and learnable tokens
have the published sizes. The VLM has 18 decoder layers of 768 (published: 36 of 2560), vision tower and VAE a quarter
to a fifth of the published width; weights are random, in float32. At full size counting operations gives 1.9 times.
Run: `python benchmarks/encode.py [--repeats 2] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from paths import qwen_tokenizer  # noqa: E402

from vino_core.branches import branch_prompts  # noqa: E402
from vino_core.config import ConnectorConfig, MMDiTConfig  # noqa: E402
from vino_core.encoder.encode import BranchPrompt, EncodedVisual, embed_prompt  # noqa: E402
from vino_core.encoder.positions import appended_positions  # noqa: E402
from vino_core.encoder.prompt import VisualItem, build_prompt  # noqa: E402
from vino_core.encoder.transformers_engine import TransformersEngine  # noqa: E402
from vino_core.encoder.visual import image_patches  # noqa: E402
from vino_core.media.references import References, prepare_image  # noqa: E402
from vino_core.mmdit.model import MMDiT  # noqa: E402
from vino_core.pipeline import Pipeline  # noqa: E402
from vino_core.request import Request  # noqa: E402
from vino_core.systems import get_system  # noqa: E402
from vino_core.vae import HunyuanVAE  # noqa: E402

VINO = get_system("vino")
TARGET = 1.8
PROMPT = "Make the person in Image 1 wear the hat in Image 3 and the clothing in Image 2 and talk to the camera."
WIDTH, LAYERS = 768, 18
HEAD_SHARE = 0.107
"""Weights of the LM head by those of the decoder layers in Qwen3-VL-4B. The full vocabulary at this width would make
the head, and the saving, too large."""


def vision_language_model() -> TransformersEngine:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 2880,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 128,
        "vocab_size": 151936,
        "rope_theta": 5e6,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    }
    vision = {
        "depth": 24,
        "hidden_size": 256,
        "num_heads": 4,
        "intermediate_size": 1024,
        "out_hidden_size": WIDTH,
        "deepstack_visual_indexes": [5, 11, 17],
        "num_position_embeddings": 2304,
    }
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision))
    layers = sum(parameter.numel() for parameter in model.model.language_model.layers.parameters())
    model.lm_head = nn.Linear(WIDTH, round(HEAD_SHARE * layers / WIDTH), bias=False)
    return TransformersEngine(model, qwen_tokenizer())


def random_pipeline() -> Pipeline:
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    connectors = (ConnectorConfig("connector", WIDTH, 832), ConnectorConfig("connector_vae_branch", WIDTH, 640))
    config = MMDiTConfig(
        hidden_size=640, num_heads=5, depth=1, depth_single=1, depth_refiner=1, text_dim=832, connectors=connectors
    )
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(24, 48, 104, 104), norm_num_groups=8)
    model = MMDiT(config).eval()
    return Pipeline(VINO, vision_language_model(), torch.randn(VINO.learnable_tokens, WIDTH), model, HunyuanVAE(vae))


@dataclass
class Pictures:
    """Three pictures as a user might connect them, uint8 [H, W, 3]."""

    pixels: tuple[Tensor, ...]

    @classmethod
    def random(cls) -> Pictures:
        sizes = ((1080, 1920), (900, 1200), (1280, 960))
        return cls(tuple(torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in sizes))

    def request(self) -> Request:
        """The request with its references prepared."""
        preset = VINO.presets["ti2v"]
        return Request(
            prompt=PROMPT,
            negative=VINO.negative_video,
            width=preset.width,
            height=preset.height,
            frames=preset.frames,
            text_scale=preset.text_scale,
            image_scale=preset.image_scale,
            shift=preset.shift,
            steps=preset.steps,
            references=References(images=tuple(prepare_image(pixels) for pixels in self.pixels)),
        )


def together(pipeline: Pipeline, pictures: Pictures) -> list[Tensor]:
    """Text stream of every branch, as the pipeline makes it."""
    return [conditioning.text for conditioning in pipeline.encode(pictures.request()).values()]


def apart(pipeline: Pipeline, pictures: Pictures) -> list[Tensor]:
    """Text stream of every branch, each from its pictures and prompt alone."""
    request = pictures.request()
    branches = branch_prompts(
        pipeline.system,
        request.prompt,
        request.negative,
        len(request.references.images),
        text_scale=request.text_scale,
        image_scale=request.image_scale,
    )
    return [one_branch(pipeline, request, branch) for branch in branches.values()]


def one_branch(pipeline: Pipeline, request: Request, branch: BranchPrompt) -> Tensor:
    engine, tokens = pipeline.engine, pipeline.tokens
    visuals = []
    for index in branch.references:
        pixels = request.references.images[index].pixels
        patches, grid = image_patches(pixels, VINO.vision)
        visuals.append(EncodedVisual(VisualItem("image", grid), engine.vision(patches, grid)))
        pipeline.vae.encode(pixels)
    plan = build_prompt(VINO, engine, branch.text, [visual.item for visual in visuals])
    x, injection = embed_prompt(engine, plan, visuals)
    visible = {}
    if injection is not None:
        visible["visual_pos_masks"] = torch.cat([injection.mask, injection.mask.new_zeros(len(tokens))])[None]
        visible["deepstack_visual_embeds"] = list(injection.deepstack)
    entering: list[Tensor] = []
    language_model = engine.model.model.language_model
    hook = language_model.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    output = language_model(
        inputs_embeds=torch.cat([x, tokens[None]], dim=1),
        position_ids=torch.cat([plan.positions, appended_positions(plan.positions, len(tokens))], dim=1)[:, None],
        attention_mask=torch.ones(1, x.shape[1] + len(tokens), dtype=torch.int64),
        use_cache=False,
        **visible,
    )
    hook.remove()
    engine.model.lm_head(output.last_hidden_state)
    pipeline.model.get_submodule("connector_vae_branch")(entering[0])
    return pipeline.model.get_submodule("connector")(entering[0])


@torch.inference_mode()
def measure(repeats: int) -> dict[str, float]:
    """Best of `repeats` for both ways, taken in turn, so that a busy moment of the machine hits both alike."""
    pipeline, pictures = random_pipeline(), Pictures.random()
    ways = {"together": together, "apart": apart}
    best = dict.fromkeys(ways, float("inf"))
    results: dict[str, list[Tensor]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            results[name] = way(pipeline, pictures)
            best[name] = min(best[name], time.perf_counter() - started)
    difference = max(
        (one - other).abs().max().item() for one, other in zip(results["together"], results["apart"], strict=True)
    )
    return {
        "seconds together": round(best["together"], 2),
        "seconds apart": round(best["apart"], 2),
        "times faster": round(best["apart"] / best["together"], 2),
        "target": TARGET,
        "largest difference": difference,
        "tokens of the prompt with references": results["together"][0].shape[1],
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.repeats)
    print(", ".join(f"{name} {value}" for name, value in result.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
