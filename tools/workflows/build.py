"""How the nodes of a task's workflow are put together.

Sizes, frame counts, scales, shifts and negative prompts are the published settings of the task.
"""

from __future__ import annotations

from .graph import Node, Output, Workflow
from .task import Task

BRANCHES = ("positive", "negative", "negative_image")


def _files(task: Task) -> list[str]:
    """The files that the workflow loads, below ComfyUI's folder."""
    kit = task.kit
    encoder = f"models/text_encoders/{kit.writer if task.writes else kit.text_encoder}"
    if task.answer:
        return [encoder]
    tokens = [] if kit.tokens is None else [f"models/embeddings/{kit.tokens}"]
    return [f"models/diffusion_models/{kit.model}", *tokens, encoder, f"models/vae/{kit.vae}"]


def _note(task: Task) -> str:
    kit = task.kit
    lines = [f"## {task.title}", task.about, ""]
    if task.images or task.videos:
        lines += ["**Choose your own files** in the Load nodes.", ""]
    lines += ["**Files this workflow needs**", *(f"- `{file}`" for file in _files(task)), ""]
    if kit.head and task.writes:
        lines += [kit.head, ""]
    if not task.answer:
        lines += [kit.origin, ""]
        lines += [kit.more, ""] if kit.more else []
    licences = [kit.encoder_licence] if task.answer else [*kit.licences, kit.encoder_licence]
    return "\n".join([*lines, f"**Licences of the weights**: {', '.join(licences)}."])


def _negative(task: Task) -> dict[str, str]:
    """The encoder's `negative` choice for the preset's negative prompt."""
    system, text = task.kit.system, task.settings.negative
    named = [("default for pictures", system.negative_image), ("default for videos", system.negative_video)]
    choices = dict(named if task.settings.frames == 1 else named[::-1])
    choice = next((name for name, known in {**choices, "none": ""}.items() if known == text), None)
    return {"negative": "custom", "negative.negative_prompt": text} if choice is None else {"negative": choice}


def _size(task: Task) -> dict[str, str | int]:
    """The `size` choice of VINO References."""
    settings = task.settings
    if settings.width is not None and settings.height is not None:
        return {"size": "custom", "size.width": settings.width, "size.height": settings.height}
    return {"size": "first video" if task.videos else "last image"}


def _text_encoder(flow: Workflow, task: Task) -> Node:
    kit = task.kit
    if kit.load_clip is None or task.writes:
        file = kit.writer if task.writes else kit.text_encoder
        return flow.add("VINOTextEncoderLoader", {"text_encoder_name": file, "device": "default"})
    return flow.add("CLIPLoader", {"clip_name": kit.text_encoder, "type": kit.load_clip, "device": "default"})


def _media(flow: Workflow, task: Task) -> dict[str, Output]:
    """Load nodes for what the user supplies; their outputs by input of VINO References."""
    media: dict[str, Output] = {}
    if task.images or task.videos:
        with flow.group("Pictures and clips", "#3f789e"):
            for number, (title, file) in enumerate(task.images, 1):
                media[f"images.image_{number}"] = flow.add("LoadImage", {"image": file}, title, height=300)[0]
            for number, (title, file) in enumerate(task.videos, 1):
                media[f"videos.video_{number}"] = flow.add("LoadVideo", {"file": file}, title, height=350)[0]
    return media


def _request(flow: Workflow, task: Task, media: dict[str, Output], clip: Output) -> tuple[Node, Output]:
    """Size, references and text of the request."""
    inputs = {**media, **_size(task), "length": task.settings.frames, "clip": clip}
    if task.settings.instruction:
        # The task decides words of the prompt, not only what is connected.
        inputs["task"] = task.preset
    references = flow.add("VINOReferences", inputs)
    # A node of its own for the text: it keeps the size that the user gives it, and can feed others.
    title = "Question" if task.answer else "Prompt"
    return references, flow.add("PrimitiveStringMultiline", {"value": task.prompt}, title, height=180)[0]


def _write(flow: Workflow, task: Task, node: str, clip: Output, references: Output, **text: str | Output) -> Node:
    """A node that lets the text encoder write."""
    inputs = {"clip": clip, "references": references, **text}
    inputs |= {"max_new_tokens": task.kit.system.prompt.answer_tokens, "temperature": 0.0, "seed": 0}
    # At temperature 0 another seed changes nothing but would run the text encoder again.
    return flow.add(node, inputs, frontend={"control_after_generate": "fixed"})


def _prompt(flow: Workflow, task: Task, clip: Output, references: Output, prompt: Output) -> Output:
    """What goes to the encoder: the user's text, or what the text encoder makes of it."""
    if task.understand:
        written = _write(flow, task, "VINOPromptRewriter", clip, references, prompt=prompt)
        flow.add("PreviewAny", {"source": written[0]}, "What it understood", height=180)
        return written[0]
    if task.think is not None:
        with flow.group("Thinking", "#3f9a8c", width=400):
            thought = _write(flow, task, "VINOThink", clip, references, kind=task.think, prompt=prompt)
            flow.add("PreviewAny", {"source": thought[0]}, "The plan", height=220)
            flow.add("PreviewAny", {"source": thought[1]}, "The prompt", height=220)
        return thought[1]
    return prompt


def _sampler(flow: Workflow, task: Task, model: Output, conditions: Node, latent: Output) -> Output:
    """The sampling nodes; the finished latent."""
    settings = task.settings
    scales = {"text_scale": settings.text_scale, "image_scale": settings.image_scale}
    # Where it would leave out no reference, the third branch would be the second.
    used = BRANCHES if task.drops_references else BRANCHES[:2]
    branches = {name: conditions[slot] for slot, name in enumerate(used)}
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
    system = task.kit.system
    prefix = task.name.replace("_", "/", 1)
    if task.settings.frames == 1:
        pictures = flow.add("VAEDecode", {"samples": samples, "vae": vae})
        return flow.add("SaveImage", {"images": pictures[0], "filename_prefix": prefix}, height=340)
    tiles = {"tile_size": 256, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    pictures = flow.add("VAEDecodeTiled", {"samples": samples, "vae": vae, **tiles})
    clip = flow.add("CreateVideo", {"images": pictures[0], "fps": system.frame_rate})
    return flow.add(
        "SaveVideo", {"video": clip[0], "filename_prefix": prefix, "format": "auto", "codec": "auto"}, height=340
    )


def _answer(task: Task) -> Workflow:
    """The workflow of a task whose result is a text."""
    flow = Workflow(task.name, task.title, _note(task))
    with flow.group("Models", "#88A"):
        clip = _text_encoder(flow, task)
    media = _media(flow, task)
    with flow.group("Request", "#b58b2a", width=400):
        references, question = _request(flow, task, media, clip[0])
    with flow.group("Result", "#b06634", width=420):
        answer = _write(flow, task, "VINOAsk", clip[0], references[0], question=question)
        flow.add("PreviewAny", {"source": answer[0]}, "Answer", height=260)
    return flow


def _drawing(task: Task) -> Workflow:
    """The workflow of a task whose result is a picture or a clip."""
    settings, kit = task.settings, task.kit
    flow = Workflow(task.name, task.title, _note(task))
    with flow.group("Models", "#88A"):
        model = flow.add("VINOModelLoader", {"model_name": kit.model, "weight_dtype": "default"})
        clip = _text_encoder(flow, task)
        learnable = {}
        if kit.tokens is not None:
            learnable["tokens"] = flow.add("VINOTokensLoader", {"tokens_name": kit.tokens})[0]
        vae = flow.add("VAELoader", {"vae_name": kit.vae})

    media = _media(flow, task)
    with flow.group("Request", "#b58b2a", width=400):
        references, prompt = _request(flow, task, media, clip[0])
        prompt = _prompt(flow, task, clip[0], references[0], prompt)

    with flow.group("Conditioning", "#a1309b", width=340):
        encoder = {"clip": clip[0], "references": references[0], "prompt": prompt, **_negative(task)}
        encoder |= {"base_image": task.base_image, "image_scale": settings.image_scale}
        context = flow.add("VINOEncoder", encoder)
        conditions = flow.add("VINOLearnableTokens", {"clip": clip[0], "context": context[0], **learnable})
        if media:
            branches = {name: conditions[slot] for slot, name in enumerate(BRANCHES)}
            conditions = flow.add("VINOReferenceLatents", {**branches, "vae": vae[0], "references": references[0]})

    with flow.group("Sampling", "#8A8"):
        shape = {name: references[slot] for slot, name in enumerate(("width", "height", "length"), 1)}
        latent = flow.add("VINOEmptyLatent", {**shape, "batch_size": 1})
        samples = _sampler(flow, task, model[0], conditions, latent[0])

    with flow.group("Result", "#b06634", width=420):
        _save(flow, task, samples, vae[0])
    return flow


def build(task: Task) -> Workflow:
    """The workflow of `task`."""
    return _answer(task) if task.answer else _drawing(task)
