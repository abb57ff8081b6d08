"""Published settings of each task."""

from __future__ import annotations

from comfy_api.latest import io

from ..vino_core.systems import SYSTEMS
from ..vino_core.tasks import get_preset
from .comfy.systems import clip_system, expect_task

TASKS = list(dict.fromkeys(name for system in SYSTEMS.values() for name in system.presets))
"""Names that any of the systems knows."""

TASKS_TOOLTIP = (
    "VINO: i: from pictures, v: from a video, t: from text; then what comes out. baseimg: the last of several pictures "
    "is edited. clone: motion or expression of a video. camclone: camera path of a video. paper: the scales of the "
    "paper. VOGUE: i2i_edit and v2v_edit: edit a picture or a video. i+i2i_edit and i+v2v_edit: edit it with the other "
    "pictures as references. multiid: combine what several pictures show."
)


class VINOPreset(io.ComfyNode):
    """The numbers of the published examples, to connect to the other nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOPreset",
            display_name="VINO Task Preset",
            category="VINO/sampling",
            description="The settings of the published examples. Connect what you need of them.",
            search_aliases=["settings", "defaults", "task", "recipe", "vino"],
            inputs=[
                io.Combo.Input(
                    "task",
                    options=TASKS,
                    tooltip=TASKS_TOOLTIP,
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder, which tells whose settings are meant. Published VINO's without it.",
                ),
            ],
            outputs=[
                io.Int.Output(display_name="length", tooltip="Frames to generate."),
                io.Int.Output(display_name="steps", tooltip="Sampling steps."),
                io.Float.Output(display_name="shift", tooltip="For the scheduler or sampler."),
                io.Float.Output(display_name="text_scale", tooltip="For the guider or sampler."),
                io.Float.Output(display_name="image_scale", tooltip="For the encoder and the guider or sampler."),
                io.String.Output(
                    display_name="negative_prompt",
                    tooltip="For the encoder's negative 'custom'; may be empty on purpose.",
                ),
            ],
        )

    @classmethod
    def execute(cls, task: str, clip: io.Clip.Type | None = None) -> io.NodeOutput:
        system = clip_system(clip)
        expect_task(system, task)
        preset = get_preset(system, task)
        return io.NodeOutput(
            preset.frames, preset.steps, preset.shift, preset.text_scale, preset.image_scale, preset.negative
        )
