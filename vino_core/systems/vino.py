"""VINO: Qwen3-VL-4B, 256 learnable tokens, boundary tokens around every reference (VINO paper sections 2 and 3)."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoints.published import ConnectorNames, OfficialFile, Published
from ..config import ConnectorConfig, MMDiTConfig
from ..media.references import prepare_each
from ..mmdit.packing import bounded_layout
from .base import Job, PixelLimits, Preset, PromptTemplate, System, VisionLimits, all_before

NEGATIVE_IMAGE = (
    "low quality, blurry, low resolution, jpeg artifacts, noisy, bad anatomy, bad proportions, deformed face, "
    "extra limbs, extra fingers, fused fingers, malformed hands, unnatural pose, distorted eyes, poor lighting, "
    "overexposed, underexposed, bad composition, cropped, duplicate, ghosting, motion blur, watermark, logo, text, nsfw"
)
NEGATIVE_VIDEO = (
    "low quality, blurry, flickering, temporal inconsistency, ghosting, motion blur, jitter, unstable structure, "
    "distorted anatomy, extra limbs, extra fingers, malformed hands, warped face, inconsistent identity, "
    "poor lighting, overexposed, underexposed, bad composition, cropped, duplicate frames, color flicker, "
    "watermark, logo, text, nsfw"
)
NEGATIVE_CAMERA_CLONE = (
    "moving objects, dynamic elements, animation, character movement, walking, running, talking, blinking, living, "
    "breathing, flowing water, wind, distortion, morphing, mutating, shifting, jittery, flickering, "
    "frame interpolation artifacts, static camera, still image, frozen camera, low resolution, blurry, watermark, "
    "text, bad composition"
)

_IMAGE = Preset(width=640, height=640, frames=1, text_scale=5.0, image_scale=1.0, shift=5.0, negative=NEGATIVE_IMAGE)
_VIDEO = Preset(width=848, height=480, frames=85, text_scale=7.0, image_scale=1.0, shift=7.0, negative=NEGATIVE_VIDEO)
_EDIT = replace(_IMAGE, width=None, height=None)
_VIDEO_EDIT = replace(_VIDEO, width=None, height=None, frames=81, negative="")
_TASKS = "t2i t2v i2v ti2v ti2i ti2i_baseimg tv2v tiv2v tiv2v_clone tiv2v_camclone".split()


def default_task(images: int, videos: int, frames: int, base_image: bool) -> str:
    """The task that a request is, from what is connected; no task name reaches the model."""
    if videos:
        return "tiv2v" if images else "tv2v"
    if images == 0:
        return "t2i" if frames == 1 else "t2v"
    if frames == 1:
        return "ti2i_baseimg" if base_image else "ti2i"
    return "i2v" if images == 1 else "ti2v"


def kept(images: int, videos: int, base_image: bool) -> tuple[int, ...]:
    """The third branch keeps videos, and a base image unless it is the only picture (VINO paper section 3.2)."""
    first = images - 1 if base_image and images > 1 else images
    return tuple(range(first, images + videos))


VINO = System(
    name="vino",
    prompt=PromptTemplate(
        system="You are a helpful assistant aimed at generating an output video caption.",
        understanding=(
            "You are a helpful assistant aimed at generating an output video caption. Based on the user's input "
            "command, provide a caption describing the video and output it directly. "
        ),
    ),
    vision=VisionLimits(
        image_first=PixelLimits(28, 4 * 28**2, 16384 * 28**2),
        image_second=PixelLimits(32, 65_536, 16_777_216),
        video_first=PixelLimits(28, 262_144, 602_112),
        video_second=PixelLimits(32, 4_096, 25_165_824),
    ),
    mmdit=MMDiTConfig(
        connectors=(ConnectorConfig("connector", 2560, 4096), ConnectorConfig("connector_vae_branch", 2560, 3072)),
    ),
    text_connector="connector",
    boundary_connector="connector_vae_branch",
    layout=bounded_layout,
    default_task=default_task,
    arrange=all_before,
    kept=kept,
    prepare=prepare_each,
    presets={
        "t2i": _IMAGE,
        "t2v": _VIDEO,
        "i2v": replace(_VIDEO, width=None, height=None, negative=""),
        "ti2i": _EDIT,
        "ti2i_baseimg": replace(_EDIT, image_scale=3.0),
        "ti2v": replace(_VIDEO, frames=81, image_scale=3.0, negative=""),
        "tv2v": _VIDEO_EDIT,
        "tiv2v": replace(_VIDEO_EDIT, image_scale=3.0, negative=NEGATIVE_VIDEO),
        "tiv2v_clone": _VIDEO_EDIT,
        "tiv2v_camclone": replace(_VIDEO_EDIT, negative=NEGATIVE_CAMERA_CLONE),
        "paper": replace(_VIDEO, image_scale=1.5, text_scale=5.0),
        "paper_text": _VIDEO,
    },
    training_tasks={
        **{task: (task, task) for task in _TASKS},
        # What the two proxy tasks of stages 1 and 2 show is placed as references are.
        **{task: ("ti2i", "ti2i") for task in ("reconstruct_image", "select_image")},
    },
    jobs=(
        Job("picture 640x640", 1, 640, 640),
        Job("picture 640x640, 1 reference", 1, 640, 640, images=1),
        Job("video 848x480, 49 frames", 49, 480, 848),
        Job("video 848x480, 85 frames", 85, 480, 848),
        Job("video 848x480, 81 frames, 3 references", 81, 480, 848, images=3),
        Job("video edit 848x480, 81 frames", 81, 480, 848, videos=1),
    ),
    negative_image=NEGATIVE_IMAGE,
    negative_video=NEGATIVE_VIDEO,
    learnable_tokens=256,
    published=Published(
        title="VINO",
        files=(OfficialFile("vino.ckpt"),),
        marks=("mm_encoder.",),
        hints=(
            ("connector_vae_branch.mlp.0.weight", "a VINO model in ComfyUI's layout: it is converted already"),
            ("mm_encoder.metaquery", "the published checkpoint of VINO: convert it with --system vino"),
            ("metaquery", "VINO's learnable tokens: they belong in models/embeddings"),
        ),
        connectors=ConnectorNames("mm_encoder.", "norm_qwen"),
        pooled=768,
        vlm="mm_encoder.mm_encoder.",
        vlm_title="Qwen3-VL-4B-Instruct",
        tokens="mm_encoder.metaquery",
        embedding="model.language_model.embed_tokens.weight",
        tied=True,
        renames=tuple((name, f"mm_encoder.mm_encoder.{name}") for name in ("model.", "lm_head.")),
    ),
)
