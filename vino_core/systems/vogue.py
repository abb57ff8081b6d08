"""VOGUE (released as UniVideo): Qwen2.5-VL-7B, one sequence of frames, conditions behind the noise (VOGUE paper).

Two checkpoints share this system: "hidden" gives the MMDiT all of the VLM's states, "queries" those of the text and of
512 learnable queries behind it. Which one is meant shows in whether there is a file of learnable tokens.
"""

from __future__ import annotations

from dataclasses import replace

from ..checkpoints.published import TRANSFORMER, ConnectorNames, OfficialFile, Published
from ..config import ConnectorConfig, MMDiTConfig
from ..errors import InputError
from ..media.canvases import prepare_sequence
from ..mmdit.packing import sequential_layout
from .base import Arrangement, Job, PixelLimits, Preset, PromptTemplate, System, VisionLimits
from .vogue_thinking import ANNOTATED, CANVAS

SYSTEM_PROMPT = (
    "You are a helpful assistant for generating visual content. Read the following instruction carefully and strictly "
    "follow it to produce the required output."
)
NEGATIVE = (
    "Bright tones, overexposed, oversharpening, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, "
    "extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused "
    "fingers, still picture, messy background, three legs, walking backwards, computer-generated environment, "
    "weak dynamics, distorted and erratic motions, unstable framing and a disorganized composition."
)
_INSTRUCTIONS = {
    "t2i": (
        "You will be given an image caption. Your task is to generate a high quality image that accurately "
        "reflects the caption. Focus specifically on the color, shape, size, texture, quantity, text, and "
        "spatial relationships of all objects and the background: "
    ),
    "t2v": (
        "You will be given a video caption. Your task is to generate a high quality video that accurately "
        "reflects the caption. Focus specifically on the color, shape, size, texture, quantity, text, spatial "
        "relationships and motion of all objects and the background: "
    ),
    "i2v": (
        "You will be given an image and a video caption. Your task is to generate a high-quality video that "
        "extends the given image into motion while remaining consistent with the caption. Ensure temporal "
        "continuity and preserve the color, shape, size, texture, quantity, text, and spatial relationships of "
        "all objects and the background: "
    ),
    "i2i_edit": (
        "You will be given an image and an editing instruction. Your task is to generate a high-quality image "
        "by applying the specified edits, ensuring consistency in visual quality and alignment with the "
        "instruction: "
    ),
    "i+i2i_edit": (
        "You will be given a reference image, an image to be modified, and an editing instruction. Your task is"
        " to generate a high-quality image by applying the specified edits, ensuring consistency with the "
        "reference image and alignment with the instruction: "
    ),
    "multiid": (
        "You will be provided with multiple reference images and a video caption. Your task is to generate a "
        "high-quality video that combines all the subjects from the images into a single coherent scene, "
        "consistent with the caption. Use the following text as the caption for the video: "
    ),
    "v2v_edit": (
        "You will be given a video and an editing instruction. Your task is to generate a high-quality video by"
        " applying the specified edits, ensuring consistency in visual quality, temporal coherence, and "
        "alignment with the instruction: "
    ),
}

_INSTRUCTIONS["i+v2v_edit"] = _INSTRUCTIONS["v2v_edit"]
_WIDE, _WIDER = 480 * 832, 480 * 854


def _preset(task: str, frames: int, text_scale: float, image_scale: float, area: int, steps: int = 50) -> Preset:
    """Settings of a task. It has no size: a condition decides that, unless the task is given one of its own."""
    return Preset(
        width=None,
        height=None,
        frames=frames,
        text_scale=text_scale,
        image_scale=image_scale,
        shift=7.0,
        negative=NEGATIVE,
        steps=steps,
        area=area,
        instruction=_INSTRUCTIONS[task],
    )


_MOST = 16
"""Pictures at most: each is a frame of its own, as large as the result. At most four were trained and tested with."""

_COUNTS: dict[str, tuple[range, int]] = {
    "t2i": (range(1), 0),
    "t2v": (range(1), 0),
    "i2v": (range(1, 2), 0),
    "i2i_edit": (range(1, 2), 0),
    "i+i2i_edit": (range(2, _MOST + 1), 0),
    "multiid": (range(1, _MOST + 1), 0),
    "v2v_edit": (range(1), 1),
    "i+v2v_edit": (range(1, _MOST + 1), 1),
}
"""Pictures and videos that each task takes."""


def default_task(images: int, videos: int, frames: int, base_image: bool) -> str:
    """The task of a request that names none."""
    if videos:
        return "i+v2v_edit" if images else "v2v_edit"
    if images == 0:
        return "t2i" if frames == 1 else "t2v"
    if base_image:
        return "i2i_edit" if images == 1 else "i+i2i_edit"
    if images == 1:
        return "i2i_edit" if frames == 1 else "i2v"
    return "multiid"


def arrange(task: str, images: int, videos: int) -> Arrangement:
    """References before the noisy frames, the edited picture or clip behind them (VOGUE paper section 2.2)."""
    pictures, clips = _COUNTS[task]
    if images not in pictures or videos != clips:
        count = f"{pictures[0]} to {pictures[-1]}" if len(pictures) > 1 else str(pictures[0])
        fitting = [name for name, (allowed, most) in _COUNTS.items() if images in allowed and videos == most]
        remedy = (
            f"Change what is connected, or choose a task that takes that ({', '.join(fitting)})."
            if fitting
            else f"No task takes more than {_MOST} pictures and one video: connect fewer."
        )
        raise InputError(
            f"task '{task}' takes {count} picture(s) and {clips} video(s), not {images} and {videos}. {remedy}"
        )
    everything = tuple(range(images + videos))
    if task == "i2v":
        return Arrangement(first_frame=0)
    if task == "multiid":
        return Arrangement(before=everything)
    return Arrangement(before=everything[:-1], after=everything[-1:])


def kept(images: int, videos: int, base_image: bool) -> tuple[int, ...]:
    """The third branch sees no reference at all, videos and edited pictures included."""
    return ()


_FRAME = PixelLimits(28, 200_704, 409_920)

_VLM = "mllm_backbone."
_TOP = (
    "x_embedder context_embedder time_text_embed transformer_blocks single_transformer_blocks norm_out proj_out "
    "qwen_project_in"
).split()
PUBLISHED = Published(
    title="VOGUE (UniVideo)",
    files=(OfficialFile("model.ckpt", TRANSFORMER), OfficialFile("mllm.ckpt", _VLM, _VLM)),
    marks=("qwen_project_in.", f"{TRANSFORMER}qwen_project_in.", _VLM),
    hints=(
        ("qwen_project_in.norm_qwen.weight", "a VOGUE model in ComfyUI's layout: it is converted already"),
        ("qwen_project_in.ln.weight", "VOGUE's model.ckpt: convert it with --system vogue"),
        (_VLM, "VOGUE's mllm.ckpt: name model.ckpt with it"),
    ),
    connectors=ConnectorNames(TRANSFORMER, "ln"),
    pooled=None,
    vlm=_VLM,
    vlm_title="Qwen2.5-VL-7B-Instruct",
    tokens=None,
    embedding="model.embed_tokens.weight",
    vocabulary=152_064,
    text_encoder="qwen_2.5_vl_7b",
    renames=(
        # Since transformers 4.52 the language model and the vision tower stand behind "model.".
        (f"{_VLM}model.language_model.", f"{_VLM}model."),
        (f"{_VLM}model.visual.", f"{_VLM}visual."),
        ("model.language_model.", f"{_VLM}model."),
        ("model.visual.", f"{_VLM}visual."),
        *((name, _VLM + name) for name in ("model.", "visual.", "lm_head.")),
        *((f"{name}.", f"{TRANSFORMER}{name}.") for name in _TOP),
    ),
)

_HIDDEN = System(
    name="vogue",
    prompt=PromptTemplate(
        system=SYSTEM_PROMPT,
        understanding=SYSTEM_PROMPT,
        image_label="",
        video_label="",
        image_tag="Image {}: ",
        video_tag="Video {}: ",
        video_step=2,
        max_text_tokens=2048,
        keeps="turn",
        answer_tokens=1000,
        repetition_penalty=1.05,
    ),
    vision=VisionLimits(
        image_first=_FRAME,
        image_second=None,
        video_first=_FRAME,
        video_second=None,
        frames=2,
        whole_clips=True,
        patch=14,
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.3231638),
    ),
    mmdit=MMDiTConfig(connectors=(ConnectorConfig("qwen_project_in", 3584, 4096, "none", hidden_features=14336),)),
    text_connector="qwen_project_in",
    boundary_connector=None,
    layout=sequential_layout,
    default_task=default_task,
    arrange=arrange,
    kept=kept,
    prepare=prepare_sequence,
    presets={
        # 848 of the published 854 columns are left by the VAE; nothing published says more of the two without a size.
        "t2i": replace(_preset("t2i", 1, 7.0, 1.0, _WIDE), width=832, height=480),
        "t2v": replace(_preset("t2v", 61, 6.0, 1.0, _WIDER, steps=30), width=848, height=480),
        "i2v": _preset("i2v", 129, 5.0, 1.0, _WIDER, steps=30),
        "i2i_edit": _preset("i2i_edit", 1, 7.0, 2.0, _WIDE),
        "i+i2i_edit": _preset("i+i2i_edit", 1, 7.0, 2.0, _WIDE),
        "multiid": replace(_preset("multiid", 129, 5.0, 3.0, _WIDE), width=832, height=480),
        "v2v_edit": _preset("v2v_edit", 129, 7.0, 2.0, _WIDER),
        "i+v2v_edit": _preset("i+v2v_edit", 129, 7.0, 2.0, _WIDE),
    },
    training_tasks={
        "t2i": ("t2i", "t2i"),
        "t2v": ("t2v", "t2v"),
        "i2v": ("i2v", "i2v"),
        "ti2i": ("i2i_edit", "multiid"),
        "ti2i_baseimg": ("i2i_edit", "i+i2i_edit"),
        "ti2v": ("multiid", "multiid"),
        "tv2v": ("v2v_edit", "v2v_edit"),
        "tiv2v": ("i+v2v_edit", "i+v2v_edit"),
        "reconstruct_image": ("i2i_edit", "i2i_edit"),
    },
    jobs=(
        Job("picture 832x480", 1, 480, 832),
        Job("picture edit 832x480", 1, 480, 832, images=1),
        Job("video 848x480, 61 frames", 61, 480, 848),
        Job("video 832x480, 129 frames, 3 references", 129, 480, 832, images=3),
        Job("video edit 848x480, 129 frames", 129, 480, 848, videos=1),
    ),
    negative_image=NEGATIVE,
    negative_video=NEGATIVE,
    learnable_tokens=0,
    published=PUBLISHED,
    area=_WIDER,
    question_area=720 * 1280,
    max_frames=129,
    timestep_scale=1000.0,
    rounded_timestep=True,
    guidance_input=6000.0,
    min_text_scale=1.0,
    one_size=True,
    thinking={"annotated": ANNOTATED, "canvas": CANVAS},
)

_QUERIES = replace(
    _HIDDEN,
    prompt=replace(_HIDDEN.prompt, before_tokens="\n", keeps="text", token_step=1, marked_tokens=True),
    vision=replace(_HIDDEN.vision, frames=8),
    learnable_tokens=512,
)

VOGUE = replace(_HIDDEN, with_tokens=_QUERIES)
