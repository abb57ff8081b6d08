"""Pictures and videos that the prompt talks about, and the size of the result."""

from __future__ import annotations

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io

from ..vino_core.errors import InputError
from ..vino_core.interruption import interruptible
from ..vino_core.media.references import References
from ..vino_core.media.sizing import MAX_PIXELS, TARGET_AREA, TEMPORAL_STRIDE, check_frames, check_size
from ..vino_core.request import check_references
from ..vino_core.systems import MAX_FRAMES, SYSTEMS, UNIT
from ..vino_core.systems.base import Preset, System
from ..vino_core.tasks import check_scaled, get_preset, prepare_references, target_size
from .comfy.pixels import clip_of, numbered, to_uint8
from .comfy.systems import clip_system, expect_task
from .presets import TASKS, TASKS_TOOLTIP
from .types import PreparedReferences, ReferencesType, TargetSize

AUTO = "auto"
SCALED = "scaled"
LAST_IMAGE = "last image"
MAX_IMAGES = 16
MAX_VIDEOS = 4


class VINOReferences(io.ComfyNode):
    """Prepares references once, for both the text encoder and the VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOReferences",
            display_name="VINO References",
            category="VINO/conditioning",
            description="Prepares pictures and videos for the prompt, which calls them Image 1, Image 2 ... and "
            "Video 1, and tells the size to generate. Leave everything unconnected to generate from text alone.",
            search_aliases=["reference image", "image to video", "image edit", "video to video", "vino"],
            inputs=[
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input("image", tooltip="Pictures; a batch counts as several references."),
                        names=[f"image_{number}" for number in range(1, MAX_IMAGES + 1)],
                        min=0,
                    ),
                    tooltip="Reference pictures in the order of their numbers. With a base image, that is the last "
                    "one, as is a picture to edit.",
                ),
                io.Autogrow.Input(
                    "videos",
                    template=io.Autogrow.TemplateNames(
                        io.Video.Input("video", tooltip="A video to edit or to take motion from."),
                        names=[f"video_{number}" for number in range(1, MAX_VIDEOS + 1)],
                        min=0,
                    ),
                    tooltip="Reference videos. The model sees the first frames; the text encoder 8 frames of the whole "
                    "clip (VINO), or 2 or 8 of those that the model sees (VOGUE).",
                ),
                io.DynamicCombo.Input(
                    "size",
                    options=[
                        io.DynamicCombo.Option("auto", []),
                        io.DynamicCombo.Option(
                            "custom",
                            [
                                io.Int.Input(
                                    "width",
                                    default=848,
                                    min=UNIT,
                                    max=8192,
                                    step=UNIT,
                                    tooltip="Width of the result in pixels, a multiple of 16.",
                                ),
                                io.Int.Input(
                                    "height",
                                    default=480,
                                    min=UNIT,
                                    max=8192,
                                    step=UNIT,
                                    tooltip="Height of the result in pixels, a multiple of 16.",
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(LAST_IMAGE, []),
                        io.DynamicCombo.Option("first video", []),
                        io.DynamicCombo.Option(
                            SCALED,
                            [
                                io.Int.Input(
                                    "area",
                                    default=TARGET_AREA,
                                    min=UNIT**2,
                                    max=MAX_PIXELS,
                                    tooltip="Pixels, about, of the picture or video to edit or animate, and so of the "
                                    "result; its shape stays. 407,040 is 480 x 848.",
                                )
                            ],
                        ),
                    ],
                    tooltip="Size of the result. auto: that of the video, or of the picture to edit or animate; where "
                    "nothing decides or several pictures are combined in a video, the published one of the task (VINO: "
                    "640x640 for pictures and 848x480 for videos). scaled: as auto, at an area of your choice; "
                    "less takes less memory.",
                ),
                io.Int.Input(
                    "length",
                    default=81,
                    min=1,
                    max=MAX_FRAMES,
                    step=TEMPORAL_STRIDE,
                    tooltip="Frames to generate: 1 for a picture, or 5, 9, 13 ... 89 (VOGUE: 129) for a video at 24 "
                    "frames per second. A reference video gives as many frames, fewer when it is shorter. VOGUE's "
                    "tasks t2i, i2i_edit and i+i2i_edit take 1 only.",
                ),
                io.Combo.Input(
                    "task",
                    options=[AUTO, *TASKS],
                    default=AUTO,
                    optional=True,
                    tooltip=f"What is to be done. {AUTO}: what is connected and length decide. It matters to automatic "
                    f"sizes, and to VOGUE, which prepares a picture to edit otherwise than others. {TASKS_TOOLTIP}",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder, which tells the system whose sizes apply. Published VINO's without it.",
                ),
            ],
            outputs=[
                ReferencesType.Output(display_name="references", tooltip="For the encoder and VINO Reference Latents."),
                io.Int.Output(display_name="width", tooltip="Width to generate."),
                io.Int.Output(display_name="height", tooltip="Height to generate."),
                io.Int.Output(display_name="length", tooltip="Frames to generate."),
            ],
        )

    @classmethod
    def execute(
        cls,
        size: io.DynamicCombo.Type,
        length: int,
        images: io.Autogrow.Type | None = None,
        videos: io.Autogrow.Type | None = None,
        task: str = AUTO,
        clip: io.Clip.Type | None = None,
    ) -> io.NodeOutput:
        chosen = None if task == AUTO else task

        def prepare_for(system: System) -> tuple[References, TargetSize]:
            return _prepare(size, length, images, videos, chosen, system)

        references = PreparedReferences(prepare_for, clip_system(clip), chosen)
        target = references.size
        return io.NodeOutput(references, target.width, target.height, target.frames)


def _prepare(
    size: io.DynamicCombo.Type,
    length: int,
    images: io.Autogrow.Type | None,
    videos: io.Autogrow.Type | None,
    task: str | None,
    system: System,
) -> tuple[References, TargetSize]:
    """What is connected, as `system` takes it, and the size to generate. Raises InputError for unusable input."""
    _check_length(length, system)
    if task is not None:
        expect_task(system, task)
    pictures = [pixels for name, batch in numbered(images) for pixels in to_uint8(batch, name)]
    clips = [clip_of(video, name) for name, video in numbered(videos)]
    task = task or system.default_task(len(pictures), len(clips), length, False)
    preset = get_preset(system, task)
    if size["size"] == LAST_IMAGE:
        _check_last_image(system, task, len(pictures), len(clips))
    chosen = (size["height"], size["width"]) if size["size"] == "custom" else None
    scaled = {"area": size["area"]} if size["size"] == SCALED else {}
    check_scaled(system, task, scaled.get("area"), of_result=True)
    with interruptible(throw_exception_if_processing_interrupted):
        references = prepare_references(system, task, pictures, clips, length, chosen, **scaled)
    height, width, frames = _result_size(size, references, length, preset)
    check_size(width, height, system.unit)
    check_references(system, task, references, width, height, frames)
    return references, TargetSize(width, height, frames)


def _check_length(length: int, system: System) -> None:
    """Raise InputError for a number of frames that the system does not make; others may, if they are connected."""
    longer = [other.name for other in SYSTEMS.values() if other.max_frames >= length > system.max_frames]
    if longer and length % TEMPORAL_STRIDE == 1:
        raise InputError(
            f"length is {length}, and {system.name} makes {system.max_frames} frames at most. Set it to that, or, if "
            f"the files are those of {' or '.join(longer)}, connect their text encoder to clip."
        )
    check_frames(length, system.max_frames)


def _check_last_image(system: System, task: str, pictures: int, clips: int) -> None:
    """Raise InputError when the last picture is to decide the size, and `task` gives it the size of the result."""
    if not (system.one_size and pictures):
        return
    deciding = system.arrange(task, pictures, clips).conditions
    if pictures - 1 not in deciding:
        instead = f"'{AUTO}' or '{SCALED}'" if deciding else "'custom' and give width and height"
        raise InputError(
            f"size is '{LAST_IMAGE}', but in the task {task} the picture is fitted into the result's size and does "
            f"not decide it. Choose {instead}."
        )


def _result_size(
    size: io.DynamicCombo.Type, references: References, length: int, preset: Preset
) -> tuple[int, int, int]:
    """Height, width and frames. Raises InputError when the chosen reference is not connected."""
    choice = size["size"]
    if choice == "custom":
        return size["height"], size["width"], length
    if choice == LAST_IMAGE:
        if not references.images:
            raise InputError(f"size is '{LAST_IMAGE}', but no image is connected. Connect one or choose 'custom'.")
        return *references.images[-1].packed.shape[:2], length
    if choice == "first video":
        if not references.videos:
            raise InputError("size is 'first video', but no video is connected. Connect one or choose 'custom'.")
        frames, height, width, _ = references.videos[0].frames.shape
        return height, width, frames
    return target_size(preset, references, length)
