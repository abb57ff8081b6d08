"""The workflow that trains a LoRA and draws with it at once."""

from __future__ import annotations

from .graph import Workflow
from .kits import VINO_KIT

FOLDER = "my_pictures"
"""The dataset of the example, a folder in ComfyUI's input folder."""

_NOTE = f"""## Train a LoRA
Teaches the model a style, a thing or a character from a few pictures, then draws with it.

**Your pictures**: put 10 to 50 of them into a folder in ComfyUI's `input` folder (here `{FOLDER}`), each with a text \
file of the same name that describes it: `cat.png`, `cat.txt`. Press *R* to see a new folder in the list. Clips work \
too.

**Run** trains and writes `models/loras/vino_lora_1000_steps_00001_.safetensors`. Stop at any time: what was trained \
so far is kept, and Run goes on from there. In other workflows, load the file with LoraLoaderModelOnly.

**Once**, with ComfyUI's python: `python -m pip install "accelerate>=1.6" "peft>=0.15"`

**Memory**: the whole model in bf16, 26 GB for the published VINO, plus what the steps need.

**Files this workflow needs**
- `models/diffusion_models/{VINO_KIT.model}`
- `models/embeddings/{VINO_KIT.tokens}`
- `models/text_encoders/{VINO_KIT.text_encoder}`
- `models/vae/{VINO_KIT.vae}`

**Licences of the weights**: VINO CC BY-NC 4.0 (no commercial use; a LoRA of it too), HunyuanVideo VAE Tencent \
Community Licence, Qwen3-VL-4B Apache-2.0."""


def train_lora() -> Workflow:
    """Dataset, training, and a picture drawn with the result."""
    settings = VINO_KIT.system.presets["t2i"]
    flow = Workflow("vino_train_lora", "Train a LoRA", _NOTE)
    with flow.group("Models", "#88A"):
        clip = flow.add("VINOTextEncoderLoader", {"text_encoder_name": VINO_KIT.text_encoder, "device": "default"})
        tokens = flow.add("VINOTokensLoader", {"tokens_name": VINO_KIT.tokens})
        vae = flow.add("VAELoader", {"vae_name": VINO_KIT.vae})

    with flow.group("Training", "#3f789e", width=420):
        dataset = flow.add("VINOLoraDataset", {"folder": FOLDER, "skip_unusable": False})
        wires = {"clip": clip[0], "vae": vae[0], "tokens": tokens[0], "dataset": dataset[0]}
        options = {"lora_name": "vino_lora", "steps": 1000, "learning_rate": 1e-4, "rank": 16, "resolution": 512}
        options |= {"length": 33, "batch_size": 1, "grad_accumulation_steps": 1, "dropout": 0.1, "seed": 0}
        options |= {"training_dtype": "bf16", "gradient_checkpointing": True}
        trained = flow.add("VINOTrainLora", {"model_name": VINO_KIT.model, **wires, **options}, height=720)

    with flow.group("Try it: model with the LoRA", "#88A"):
        model = flow.add("VINOModelLoader", {"model_name": VINO_KIT.model, "weight_dtype": "default"})
        with_lora = flow.add("LoraLoaderModelOnly", {"model": model[0], "lora_name": trained[1], "strength_model": 1.0})
        size = {"size": "custom", "size.width": settings.width, "size.height": settings.height}
        references = flow.add("VINOReferences", {**size, "length": settings.frames, "clip": clip[0]})
        prompt = flow.add(
            "PrimitiveStringMultiline",
            {"value": "A lighthouse on a cliff at dawn, in the style of the dataset."},
            "Prompt",
            height=180,
        )

    with flow.group("Conditioning", "#a1309b", width=340):
        encoder = {"clip": clip[0], "references": references[0], "prompt": prompt[0], "negative": "auto"}
        context = flow.add("VINOEncoder", {**encoder, "base_image": False, "image_scale": settings.image_scale})
        conditions = flow.add("VINOLearnableTokens", {"clip": clip[0], "context": context[0], "tokens": tokens[0]})
        shape = {name: references[slot] for slot, name in enumerate(("width", "height", "length"), 1)}
        latent = flow.add("VINOEmptyLatent", {**shape, "batch_size": 1})

    with flow.group("Sampling", "#8A8"):
        branches = {"positive": conditions[0], "negative": conditions[1], "latent_image": latent[0]}
        scales = {"shift": settings.shift, "text_scale": settings.text_scale, "image_scale": settings.image_scale}
        numbers = {"seed": 0, "steps": settings.steps, **scales, "denoise": 1.0}
        samples = flow.add("VINOSampler", {"model": with_lora[0], **branches, **numbers}, height=480)

    with flow.group("Result", "#b06634", width=420):
        pictures = flow.add("VAEDecode", {"samples": samples[0], "vae": vae[0]})
        flow.add("SaveImage", {"images": pictures[0], "filename_prefix": "vino/train_lora"}, height=340)
    return flow
