"""What each shipped workflow does, and how the nodes for it are put together.

Sizes, frame counts, scales, shifts and negative prompts are the published settings of VINO (`vino_core.systems.vino`);
the texts are examples that a user replaces.
"""

from __future__ import annotations

from dataclasses import dataclass

from vino_core.systems.base import Preset
from vino_core.systems.vino import NEGATIVE_IMAGE, NEGATIVE_VIDEO, VINO

from .graph import Node, Output, Workflow

MODEL_FILE = "vino_bf16.safetensors"
TEXT_ENCODER_FILE = "qwen3vl_4b_bf16.safetensors"
TOKENS_FILE = "vino_tokens.safetensors"
VAE_FILE = "hunyuan_video_vae_bf16.safetensors"


@dataclass(frozen=True)
class Task:
    """One workflow. `images` and `videos` are (title, file) of what the user supplies, in prompt order."""

    name: str
    title: str
    about: str
    preset: str
    prompt: str
    images: tuple[tuple[str, str], ...] = ()
    videos: tuple[tuple[str, str], ...] = ()
    base_image: bool = False
    understand: bool = False
    separate_sampler: bool = False

    @property
    def settings(self) -> Preset:
        return VINO.presets[self.preset]


TASKS = (
    Task(
        name="vino_text_to_image",
        title="Text to image",
        about="Describe a picture; VINO draws it.",
        preset="t2i",
        prompt="A brass telescope on a wooden balcony at dusk, a violet mountain range behind it, soft film grain.",
    ),
    Task(
        name="vino_text_to_video",
        title="Text to video",
        about="Describe a scene and what moves in it.",
        preset="t2v",
        prompt="A red kayak glides down a narrow river between tall pines. Mist drifts over the water, the paddle dips "
        "left and right, and the camera follows slowly from behind.",
    ),
    Task(
        name="vino_image_to_video",
        title="Image to video",
        about="The picture becomes the first frame. Its shape decides the shape of the clip.",
        preset="i2v",
        prompt="Use Image 1 as the first frame. The camera moves forward slowly while the clouds drift to the right.",
        images=(("Image 1: the first frame", "landscape.png"),),
    ),
    Task(
        name="vino_edit_image",
        title="Edit an image",
        about="Say what should change; the rest of the picture stays.",
        preset="ti2i",
        prompt="Add round sunglasses to the person in the image.",
        images=(("Image 1: the picture to edit", "person.png"),),
    ),
    Task(
        name="vino_edit_image_with_reference",
        title="Edit an image with a reference image",
        about="The last picture is the base that is edited, the others are references: `base_image` says so to the "
        "encoder. A second guidance scale says how closely to follow the references. This workflow shows the sampler "
        "in its parts, so that each can be exchanged.",
        preset="ti2i_baseimg",
        prompt="Put the hat from Image 1 on the person in Image 2.",
        images=(("Image 1: reference", "hat.png"), ("Image 2: the picture to edit", "person.png")),
        base_image=True,
        separate_sampler=True,
    ),
    Task(
        name="vino_references_to_video",
        title="Several references to video",
        about="Pictures of a person, of clothes, of a thing; the prompt calls them Image 1, Image 2, Image 3.",
        preset="ti2v",
        prompt="The person in Image 1 wears the shirt in Image 2 and the hat in Image 3, and talks to the camera.",
        images=(
            ("Image 1: person", "person.png"),
            ("Image 2: clothes", "shirt.png"),
            ("Image 3: hat", "hat.png"),
        ),
    ),
    Task(
        name="vino_edit_video",
        title="Edit a video",
        about="Say what should change in the clip. Size and length follow the clip.",
        preset="tv2v",
        prompt="Turn the video into an oil painting with thick brush strokes.",
        videos=(("Video 1: the clip to edit", "clip.mp4"),),
    ),
    Task(
        name="vino_edit_video_with_reference",
        title="Edit a video with a reference image",
        about="Bring something from a picture into a clip. Size and length follow the clip.",
        preset="tiv2v",
        prompt="Put the hat from Image 1 on the person in the video.",
        images=(("Image 1: reference", "hat.png"),),
        videos=(("Video 1: the clip to edit", "clip.mp4"),),
    ),
    Task(
        name="vino_clone_motion",
        title="Clone motion or expression",
        about="The person in the picture does what the person in the clip does.",
        preset="tiv2v_clone",
        prompt="Apply the human motion of the reference video to the person in the image.",
        images=(("Image 1: who should move", "person.png"),),
        videos=(("Video 1: the motion", "clip.mp4"),),
    ),
    Task(
        name="vino_clone_camera",
        title="Clone a camera move",
        about="The camera of the clip moves around the frozen scene of the picture. The negative prompt speaks against "
        "everything that moves by itself.",
        preset="tiv2v_camclone",
        prompt="Take the camera movement of the video and apply it to the scene in the image.",
        images=(("Image 1: the scene", "landscape.png"),),
        videos=(("Video 1: the camera move", "clip.mp4"),),
    ),
    Task(
        name="vino_understand_then_generate",
        title="Understand, then generate",
        about="The text encoder first works out what the request means and writes a full description; that "
        "description becomes the prompt.",
        preset="t2v",
        prompt="Make a video of the harbour at 41.38 N, 2.18 E on a summer morning in 1890.",
        understand=True,
    ),
)


def _note(task: Task) -> str:
    lines = [f"## {task.title}", task.about, ""]
    if task.images or task.videos:
        lines += ["**Choose your own files** in the Load nodes.", ""]
    lines += [
        "**Files this workflow needs**",
        f"- `models/diffusion_models/{MODEL_FILE}`",
        f"- `models/embeddings/{TOKENS_FILE}`",
        f"- `models/text_encoders/{TEXT_ENCODER_FILE}`",
        f"- `models/vae/{VAE_FILE}`",
        "",
        "The first two come from the official checkpoint through `vino convert`; the others are the files that "
        "ComfyUI uses for Qwen3-VL-4B-Instruct and HunyuanVideo.",
        "",
        "**Licences of the weights**: VINO CC BY-NC 4.0 (no commercial use), HunyuanVideo VAE Tencent Community "
        "Licence, Qwen3-VL-4B Apache-2.0.",
    ]
    return "\n".join(lines)


def _negative(text: str) -> dict[str, str]:
    """The encoder's `negative` choice for a preset's negative prompt."""
    named = {NEGATIVE_IMAGE: "default for pictures", NEGATIVE_VIDEO: "default for videos", "": "none"}
    if text in named:
        return {"negative": named[text]}
    return {"negative": "custom", "negative.negative_prompt": text}


def _size(task: Task) -> dict[str, str | int]:
    """The `size` choice of VINO References."""
    settings = task.settings
    if settings.width is not None and settings.height is not None:
        return {"size": "custom", "size.width": settings.width, "size.height": settings.height}
    return {"size": "first video" if task.videos else "last image"}


def _sampler(flow: Workflow, task: Task, model: Output, conditions: list[Output], latent: Output) -> Output:
    """The sampling nodes; the finished latent."""
    settings = task.settings
    scales = {"text_scale": settings.text_scale, "image_scale": settings.image_scale}
    branches = dict(zip(("positive", "negative", "negative_image"), conditions, strict=True))
    if not task.images:
        # Without images there is nothing that the third branch could leave out.
        del branches["negative_image"]
    if not task.separate_sampler:
        inputs = {"model": model, **branches, "latent_image": latent, "seed": 0, "steps": settings.steps}
        return flow.add("VINOSampler", {**inputs, "shift": settings.shift, **scales, "denoise": 1.0}, height=480)[0]
    guider = flow.add("VINODualCFGGuider", {"model": model, **branches, **scales})
    noise = flow.add("RandomNoise", {"noise_seed": 0})
    sampler = flow.add("KSamplerSelect", {"sampler_name": "euler"})
    sigmas = flow.add("VINOScheduler", {"steps": settings.steps, "shift": settings.shift, "denoise": 1.0})
    parts = {"noise": noise[0], "guider": guider[0], "sampler": sampler[0], "sigmas": sigmas[0]}
    return flow.add("SamplerCustomAdvanced", {**parts, "latent_image": latent}, height=320)[0]


def _save(flow: Workflow, task: Task, samples: Output, vae: Output) -> Node:
    """Decode and save; the saving node."""
    prefix = f"vino/{task.name.removeprefix('vino_')}"
    if task.settings.frames == 1:
        pictures = flow.add("VAEDecode", {"samples": samples, "vae": vae})
        return flow.add("SaveImage", {"images": pictures[0], "filename_prefix": prefix}, height=340)
    tiles = {"tile_size": 256, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    pictures = flow.add("VAEDecodeTiled", {"samples": samples, "vae": vae, **tiles})
    clip = flow.add("CreateVideo", {"images": pictures[0], "fps": VINO.frame_rate})
    return flow.add(
        "SaveVideo", {"video": clip[0], "filename_prefix": prefix, "format": "auto", "codec": "auto"}, height=340
    )


def build(task: Task) -> Workflow:
    """The workflow of `task`."""
    settings = task.settings
    flow = Workflow(task.name, task.title, _note(task))
    with flow.group("Models", "#88A"):
        model = flow.add("VINOModelLoader", {"model_name": MODEL_FILE, "weight_dtype": "default"})
        clip = flow.add("VINOTextEncoderLoader", {"text_encoder_name": TEXT_ENCODER_FILE, "device": "default"})
        tokens = flow.add("VINOTokensLoader", {"tokens_name": TOKENS_FILE})
        vae = flow.add("VAELoader", {"vae_name": VAE_FILE})

    media: dict[str, Output] = {}
    if task.images or task.videos:
        with flow.group("Pictures and clips", "#3f789e"):
            for number, (title, file) in enumerate(task.images, 1):
                media[f"images.image_{number}"] = flow.add("LoadImage", {"image": file}, title, height=300)[0]
            for number, (title, file) in enumerate(task.videos, 1):
                media[f"videos.video_{number}"] = flow.add("LoadVideo", {"file": file}, title, height=350)[0]

    with flow.group("Request", "#b58b2a", width=400):
        references = flow.add("VINOReferences", {**media, **_size(task), "length": settings.frames, "clip": clip[0]})
        # A node of its own for the text: it keeps the size that the user gives it, and can feed others.
        prompt = flow.add("PrimitiveStringMultiline", {"value": task.prompt}, "Prompt", height=180)
        if task.understand:
            rewriter = {"clip": clip[0], "references": references[0], "prompt": prompt[0]}
            options = {"max_new_tokens": 256, "temperature": 0.0, "seed": 0}
            # At temperature 0 another seed changes nothing but would run the text encoder again.
            fixed = {"control_after_generate": "fixed"}
            prompt = flow.add("VINOPromptRewriter", {**rewriter, **options}, frontend=fixed)
            flow.add("PreviewAny", {"source": prompt[0]}, "What it understood", height=180)

    with flow.group("Conditioning", "#a1309b", width=340):
        encoder = {"clip": clip[0], "references": references[0], "prompt": prompt[0], **_negative(settings.negative)}
        encoder |= {"base_image": task.base_image, "image_scale": settings.image_scale}
        context = flow.add("VINOEncoder", encoder)
        learnable = {"clip": clip[0], "context": context[0], "tokens": tokens[0]}
        conditions = flow.add("VINOLearnableTokens", learnable)
        if media:
            names = ("positive", "negative", "negative_image")
            branches = {name: conditions[slot] for slot, name in enumerate(names)}
            conditions = flow.add("VINOReferenceLatents", {**branches, "vae": vae[0], "references": references[0]})

    with flow.group("Sampling", "#8A8"):
        shape = {name: references[slot] for slot, name in enumerate(("width", "height", "length"), 1)}
        latent = flow.add("VINOEmptyLatent", {**shape, "batch_size": 1})
        samples = _sampler(flow, task, model[0], [conditions[slot] for slot in range(3)], latent[0])

    with flow.group("Result", "#b06634", width=420):
        _save(flow, task, samples, vae[0])
    return flow
