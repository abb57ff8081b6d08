"""From prompts and references to encoded branches."""

from __future__ import annotations

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..vino_core.branches import branch_prompts, check_base_image, check_tags
from ..vino_core.encoder.encode import EncodedPrompt, encode_branches, encode_visuals
from ..vino_core.media.references import References
from ..vino_core.sampling.guidance import Branch
from ..vino_core.systems.base import Preset, System
from ..vino_core.tasks import get_preset
from .comfy.messages import show
from .comfy.systems import clip_system, expect_same
from .comfy.vlm import open_engine
from .types import (
    Context,
    ContextType,
    EncodedBranch,
    LearnableTokens,
    PreparedReferences,
    ReferencesType,
    TokensType,
)


class VINOEncoder(io.ComfyNode):
    """Runs the text encoder over prompt and references, for every branch of guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOEncoder",
            display_name="VINO Interleaved Encoder",
            category="VINO/conditioning",
            description="Encodes the prompt together with the references it names. What the branches share is "
            "computed once.",
            search_aliases=["text encode", "prompt", "clip text encode", "vision language", "vino"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="Qwen3-VL-4B-Instruct (VINO) or Qwen2.5-VL-7B-Instruct (VOGUE), or another system's text "
                    "encoder.",
                ),
                ReferencesType.Input("references", tooltip="From VINO References, also when it has nothing connected."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to generate or change. Name references as Image 1, Image 2 ... and Video 1.",
                ),
                io.DynamicCombo.Input(
                    "negative",
                    options=[
                        io.DynamicCombo.Option("auto", []),
                        io.DynamicCombo.Option("default for pictures", []),
                        io.DynamicCombo.Option("default for videos", []),
                        io.DynamicCombo.Option("none", []),
                        io.DynamicCombo.Option(
                            "custom",
                            [
                                io.String.Input(
                                    "negative_prompt",
                                    multiline=True,
                                    dynamic_prompts=True,
                                    tooltip="What to avoid.",
                                )
                            ],
                        ),
                    ],
                    tooltip="What to avoid. auto: as in the published examples of the task (with VINO none for videos "
                    "from pictures and for editing a video by text alone).",
                ),
                io.Boolean.Input(
                    "base_image",
                    default=False,
                    tooltip="The last picture is the one being edited, the others are only referred to. Image "
                    "guidance then pushes towards the others and keeps the last.",
                ),
                io.Float.Input(
                    "image_scale",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Set it as at the sampler or guider. Above 1 negative_image is encoded too.",
                ),
                io.Boolean.Input(
                    "tags",
                    default=False,
                    optional=True,
                    tooltip="VOGUE: put 'Image 1: ', 'Video 1: ' before the references, as its paper does. The "
                    "published model runs without. VINO labels its references anyway.",
                ),
                TokensType.Input(
                    "tokens",
                    optional=True,
                    tooltip="From VINO Tokens Loader. Only needed here for VOGUE 'queries', whose prompts are laid out "
                    "for them; with VINO it is enough to connect them to VINO Learnable Tokens.",
                ),
            ],
            outputs=[ContextType.Output(display_name="context", tooltip="For VINO Learnable Tokens.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        clip: io.Clip.Type,
        references: PreparedReferences,
        prompt: str,
        negative: io.DynamicCombo.Type,
        base_image: bool,
        image_scale: float,
        tags: bool = False,
        tokens: LearnableTokens | None = None,
    ) -> io.NodeOutput:
        system = clip_system(clip)
        if tokens is not None:
            expect_same("tokens", tokens.system, system, "the text encoder")
            system = system.for_tokens(tokens.values)
        prepared = references.for_system(system)
        counts = len(prepared.images), len(prepared.videos)
        check_tags(system, tags)
        check_base_image(system, base_image, references.task_for(system), *counts)
        preset = get_preset(system, references.task_for(system, base_image))
        # The negative prompt is encoded whatever the text scale: behind the shared references it costs little.
        negative_prompt = _negative_prompt(system, negative, preset)
        prompt = preset.instruction + prompt
        scales = {"text_scale": 2.0, "image_scale": image_scale}
        branches = branch_prompts(system, prompt, negative_prompt, *counts, base_image, **scales)
        distinct = {branch.references for branch in branches.values() if branch.references}
        passes = len(branches) + len(distinct)
        with open_engine(clip, expected_tokens(system, prepared), passes, sum(counts)) as engine:
            visuals = encode_visuals(engine, prepared, system.vision)
            encoded = encode_branches(engine, system, list(branches.values()), visuals, tags)
        context = Context(
            {
                branch: EncodedBranch(_stored(encoded_prompt), seen.references)
                for (branch, seen), encoded_prompt in zip(branches.items(), encoded, strict=True)
            },
            repeats_negative=Branch.NEGATIVE_IMAGE not in branches and image_scale > 1,
            system=system,
            tokens=tokens,
        )
        return io.NodeOutput(context, ui=show("VINO Interleaved Encoder", encoded[0].plan.messages, cls.hidden))


def expected_tokens(system: System, references: References, understanding: bool = False) -> int:
    """About how many tokens a prompt with these references has, for the memory it needs."""
    vision = system.vision
    side = vision.patch * vision.merge
    sizes = [image.pixels.shape[0] * image.pixels.shape[1] for image in references.images]
    pixels = sum(min(max(size, vision.image_first.min_pixels), vision.image_first.max_pixels) for size in sizes)
    for video in references.videos:
        frames = len(video.frames if understanding and vision.whole_clips else video.vlm_frames)
        pixels += -(-frames // vision.temporal_patch) * vision.video_first.max_pixels
    return pixels // side**2 + 1024


def _negative_prompt(system: System, negative: io.DynamicCombo.Type, preset: Preset) -> str:
    texts = {
        "auto": preset.negative,
        "default for pictures": system.negative_image,
        "default for videos": system.negative_video,
        "none": "",
    }
    choice = negative["negative"]
    return texts[choice] if choice in texts else negative["negative_prompt"]


def _stored(prompt: EncodedPrompt) -> EncodedPrompt:
    """The prompt where ComfyUI keeps results between nodes, so that it holds no device memory meanwhile."""
    device = comfy.model_management.intermediate_device()

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    cache = tuple((move(keys), move(values)) for keys, values in prompt.cache)
    return EncodedPrompt(prompt.plan, move(prompt.states), cache)
