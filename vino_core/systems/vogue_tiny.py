"""VOGUE at miniature size, for the toy world: the same parts, packing and branches, small pictures and short words.

It is the variant without learnable queries. It starts from vino-tiny's base, as VOGUE and VINO start from the same one,
and shares its VAE.
"""

from __future__ import annotations

from dataclasses import replace

from .base import PixelLimits, Preset, Thinking
from .vino_tiny import VINO_TINY
from .vogue import VOGUE

_FRAME = PixelLimits(32, 64 * 64, 128 * 128)
_INSTRUCTIONS = {
    "t2i": "Draw a picture. ",
    "t2v": "Draw a video. ",
    "i2v": "Go on from the picture. ",
    "i2i_edit": "Change the picture. ",
    "i+i2i_edit": "Change the last picture. ",
    "multiid": "Draw the subjects. ",
    "v2v_edit": "Change the video. ",
    "i+v2v_edit": "Change the video. ",
}

# Word for word as the text encoder is trained on them (tools/tiny/vlm_drawings.py).
_THINKING = {
    "annotated": Thinking(
        task="i2v",
        plan="What do the marks in Image 1 say?{words}",
        prompt="The marks in Image 1 say: {plan}{words} Write the prompt.",
        words=" {text}",
    ),
    "canvas": Thinking(
        task="multiid",
        plan="What does the canvas in Image 1 say?{words}",
        prompt="The canvas in Image 1 says: {plan}{words} Write the prompt.",
        words=" {text}",
    ),
}


def _preset(task: str, published: Preset) -> Preset:
    """The miniature's settings of a task: a size of its own only where the published one has one."""
    side = None if published.width is None else 64
    return replace(
        published,
        width=side,
        height=side,
        frames=1 if published.frames == 1 else 9,
        text_scale=2.0,
        image_scale=1.0,
        shift=2.0,
        negative="",
        steps=20,
        area=None,
        instruction=_INSTRUCTIONS[task],
    )


VOGUE_TINY = replace(
    VOGUE,
    name="vogue-tiny",
    prompt=replace(
        VOGUE.prompt,
        system="You draw.",
        understanding="You describe.",
        # The toy world's instructions call references by number.
        image_label=VOGUE.prompt.image_tag,
        video_label=VOGUE.prompt.video_tag,
        image_tag="",
        video_tag="",
    ),
    vision=replace(VOGUE.vision, image_first=_FRAME, video_first=_FRAME, frames=8, patch=16),
    presets={task: _preset(task, preset) for task, preset in VOGUE.presets.items()},
    jobs=(),
    negative_image="",
    negative_video="",
    area=VINO_TINY.area,
    question_area=None,
    max_frames=VINO_TINY.max_frames,
    frame_rate=VINO_TINY.frame_rate,
    thinking=_THINKING,
    guidance_input=VINO_TINY.guidance_input,  # what the base knows, as 6000 is what HunyuanVideo knows
    with_tokens=None,
    vae_of=VINO_TINY.name,
)
