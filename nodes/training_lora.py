"""LoRA training from a graph."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..vino_core.checkpoints.files import check_variant, check_widths, made_for, open_model
from ..vino_core.checkpoints.writing import written_aside
from ..vino_core.errors import InputError
from ..vino_core.media.sizing import check_frames
from ..vino_core.systems import MAX_FRAMES, UNIT
from ..vino_core.systems.base import System
from ..vino_core.tasks import get_preset
from ..vino_core.training.config import Data, Files, Flow, Lora, Optimizer, Parallel, RunConfig, Save, Task, Watch
from ..vino_core.training.prepare import vlm_frames
from .comfy import training
from .comfy.digest import weights_digest
from .comfy.messages import show
from .comfy.systems import clip_system, expect_same
from .comfy.vlm import network_of
from .encode import expected_tokens
from .loaders import check_scales, file_input
from .packing import encode_frames
from .training_dataset import Dataset, DatasetType
from .types import LearnableTokens, TokensType

log = logging.getLogger(__name__)
LoraType = io.Custom("LORA_MODEL")
"""ComfyUI's own type: what its Load LoRA Model and Save LoRA Weights take."""
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_PACKAGES = {"accelerate": "accelerate>=1.6", "peft": "peft>=0.15"}
_RUNS = "vino_training"
_FINISHED = "finished.json"


class VINOTrainLora(io.ComfyNode):
    """Trains a LoRA of the model and its connectors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOTrainLora",
            display_name="VINO Train LoRA",
            category="VINO/training",
            description="Trains a LoRA on the dataset and writes it to models/loras. Stop it whenever you like: what "
            "was trained so far is kept, and the same settings go on from there.",
            search_aliases=["train lora", "fine-tune", "finetune", "dreambooth", "style", "vino"],
            is_output_node=True,
            inputs=[
                file_input("model_name", "diffusion_models", "The model to train the LoRA on. It is read anew."),
                io.Clip.Input("clip", tooltip="Text encoder; only used before the first step."),
                io.Vae.Input("vae", tooltip="VAE; only used before the first step."),
                TokensType.Input(
                    "tokens",
                    optional=True,
                    tooltip="From VINO Tokens Loader. They stay as they are. VOGUE 'hidden' has none.",
                ),
                DatasetType.Input("dataset", tooltip="From VINO LoRA Dataset."),
                io.String.Input(
                    "lora_name",
                    default="vino_lora",
                    tooltip="Name of the file in models/loras; the number of steps and a counter are added, so that no "
                    "file is ever overwritten. A folder in front is allowed, as in 'styles/ink'.",
                ),
                io.Int.Input(
                    "steps",
                    default=1000,
                    min=1,
                    max=1000000,
                    tooltip="Training steps in all. Raise it later and the run goes on from where it was.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-7,
                    tooltip="How far each step goes: 1e-4 is usual. Lower it when the loss climbs, raise it when the "
                    "result changes too little.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=128,
                    tooltip="Rank of the LoRA layers: what it can learn, and the size of its file. alpha is the same "
                    "number.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=UNIT,
                    max=2048,
                    step=UNIT,
                    tooltip="Pictures and clips are scaled to resolution x resolution pixels, in their own shape. "
                    "Memory and time of a step grow with it.",
                ),
                io.Int.Input(
                    "length",
                    default=33,
                    min=1,
                    max=MAX_FRAMES,
                    step=4,
                    tooltip="Frames of a clip that are trained on: 5, 9, 13 ... Longer clips are cut to their first "
                    "frames. Without meaning for pictures.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=256, tooltip="Examples that are computed at once."),
                io.Int.Input(
                    "grad_accumulation_steps",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Batches that make one step together: the effect of a larger batch in less memory.",
                ),
                io.Float.Input(
                    "dropout",
                    default=0.1,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    round=0.01,
                    tooltip="How often the caption, the reference pictures and the reference clips are left out, each "
                    "by itself. Guidance needs some of it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    # Another seed after each run would make another run of it, which begins at step 0.
                    control_after_generate=False,
                    tooltip="Fixes the LoRA's first values, the order of the examples and the noise.",
                ),
                io.Combo.Input(
                    "training_dtype",
                    options=list(_DTYPES),
                    tooltip="Type of the model's weights and of the computation. The LoRA itself is trained in fp32.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    tooltip="Compute parts of a step twice instead of remembering them: far less memory, about a third "
                    "more time.",
                ),
            ],
            outputs=[
                LoraType.Output(display_name="lora", tooltip="The trained LoRA, for Load LoRA Model."),
                # The lists of files that loaders take are types of their own, which only this type fits.
                io.AnyType.Output(
                    display_name="lora_name", tooltip="Its file in models/loras, for lora_name of LoraLoaderModelOnly."
                ),
                io.Image.Output(display_name="loss_plot", tooltip="The loss of every step and its average."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model_name: str,
        clip: io.Clip.Type,
        vae: io.Vae.Type,
        dataset: Dataset,
        lora_name: str,
        steps: int,
        learning_rate: float,
        rank: int,
        resolution: int,
        length: int,
        batch_size: int,
        grad_accumulation_steps: int,
        dropout: float,
        seed: int,
        training_dtype: str,
        gradient_checkpointing: bool,
        tokens: LearnableTokens | None = None,
    ) -> io.NodeOutput:
        _check_packages()
        model = Path(folder_paths.get_full_path_or_raise("diffusion_models", model_name))
        system = _check_system(model, model_name, clip, tokens, training_dtype)
        check_frames(length, system.max_frames)
        target = _check_name(lora_name)
        run = RunConfig(
            out="-",
            stage=None,
            steps=steps,
            train=(),
            system=system.name,
            seed=seed,
            files=Files(text_encoder="clip", vae="vae", model=str(model)),
            optimizer=Optimizer(learning_rate=learning_rate, betas=(0.9, 0.99)),
            flow=Flow(shift=max(_shifts(system, dataset))),
            data=Data(
                tasks={
                    task: Task(weight=count, source="folder", path=str(dataset.folder))
                    for task, count in dataset.tasks.items()
                },
                area=resolution**2,
                frames=length,
                unit=system.unit,
                batch=batch_size,
                dropout=dropout,
                workers=0,
            ),
            parallel=Parallel(
                dtype=_DTYPES[training_dtype],
                checkpointing=gradient_checkpointing,
                accumulation=grad_accumulation_steps,
                device="cpu" if training.on_cpu() else "auto",
            ),
            save=Save(every=100, keep=1),
            watch=Watch(tensorboard=False, progress=comfy.utils.PROGRESS_BAR_ENABLED, peak_tflops=1.0),
            lora=Lora(rank=rank, alpha=float(rank)),
        )
        run = _placed(run, target, model, dataset, tokens, clip, vae)
        notes: list[str] = []
        file = _finished(run, target)
        if file is None:
            _check_steps(run)
            examples = training.encode_all(
                run,
                dataset.sources(length, vlm_frames(run.data, system)),
                system,
                clip,
                None if tokens is None else tokens.values,
                lambda sample: expected_tokens(system, sample.references),
                lambda frames: encode_frames(system, vae, frames),
            )
            notes += [f"left out: {reason}" for reason in examples.skipped]
            file = _train(run, system, examples, target)
        picture = training.plot(run, f"{file.stem}: loss")
        shown = show("VINO Train LoRA", notes, cls.hidden)
        return io.NodeOutput(
            comfy.utils.load_torch_file(str(file), safe_load=True),
            os.path.relpath(file, _loras()),
            picture,
            ui={**ui.PreviewImage(picture).as_dict(), **(shown.as_dict() if shown else {})},
        )


def _check_packages() -> None:
    missing = [wanted for name, wanted in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"LoRA training needs packages that ComfyUI does not bring: {', '.join(missing)}. Install them with "
            "ComfyUI's python: python -m pip install " + " ".join(f'"{name}"' for name in missing)
        )


def _check_system(model: Path, name: str, clip: io.Clip.Type, tokens: LearnableTokens | None, dtype: str) -> System:
    """The system that everything belongs to, as it is for these tokens.

    Raises InputError when the parts do not fit together or into memory.
    """
    system = clip_system(clip)
    if tokens is None and system.learnable_tokens:
        raise InputError(f"tokens: {system.name} has learnable tokens, and none are connected. Add VINO Tokens Loader.")
    checkpoint, config = open_model(model)
    check_scales(name, checkpoint.tensors)
    expect_same(f"model_name '{name}'", made_for(model), system, "the text encoder")
    values = None
    if tokens is not None:
        expect_same("tokens", tokens.system, system, "the text encoder")
        values = tokens.values
    check_widths(config, values, network_of(clip)[0].model.config.hidden_size)
    check_variant(model, values)
    count = sum(info.size // info.dtype.itemsize for info in checkpoint.tensors.values())
    training.check_memory(count * getattr(torch, _DTYPES[dtype]).itemsize, name)
    return system.for_tokens(values)


def _shifts(system: System, dataset: Dataset) -> list[float]:
    """Those of the tasks that the examples are to the system. Raises InputError for one that it does not have."""
    names = [system.trained_as(task, images) for task in dataset.tasks for images in (1, 2)]
    return [get_preset(system, name).shift for name in names]


def _loras() -> Path:
    return Path(folder_paths.get_folder_paths("loras")[0])


def _check_name(lora_name: str) -> Path:
    """The path that `lora_name` stands for, without steps, counter and extension."""
    text = lora_name.strip().replace("\\", "/").removesuffix(".safetensors")
    target = Path(os.path.abspath(_loras() / text))
    if not text or text.endswith("/") or not folder_paths.is_within_directory(str(_loras()), str(target)):
        raise InputError(
            f"lora_name is '{lora_name}'; it must be a name inside models/loras, such as 'vino_lora' or 'styles/ink'."
        )
    return target


def _placed(
    run: RunConfig,
    target: Path,
    model: Path,
    dataset: Dataset,
    tokens: LearnableTokens | None,
    clip: io.Clip.Type,
    vae: io.Vae.Type,
) -> RunConfig:
    """The run with a folder of its own, the same for the same settings: that is how a stopped run is found again."""
    found = model.stat()
    what = {
        "settings": run.identity(),
        "model": [model.name, found.st_size, found.st_mtime_ns],
        "dataset": dataset.fingerprint,
        "tokens": "" if tokens is None else sha256(tokens.values.float().cpu().numpy().tobytes()).hexdigest(),
        "clip": weights_digest(clip),
        "vae": weights_digest(vae),
    }
    short = sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    name = target.relative_to(_loras().absolute()).as_posix().replace("/", "_")
    out = Path(folder_paths.get_output_directory()) / _RUNS / f"{name}_{short}"
    return replace(run, out=str(out))


def _check_steps(run: RunConfig) -> None:
    checkpoints = sorted(Path(run.out).glob("checkpoints/step_*/state.json"))
    done = json.loads(checkpoints[-1].read_text(encoding="utf-8"))["step"] if checkpoints else 0
    if done > run.steps:
        raise InputError(
            f"steps is {run.steps}, but a run with these settings has done {done} already. Choose {done} or more, or "
            "another seed for a new run."
        )
    if done:
        log.info("VINO Train LoRA: on from step %d of %d (%s)", done, run.steps, run.out)


def _train(run: RunConfig, system: System, examples: training.EncodedExamples, target: Path) -> Path:
    """The finished LoRA in models/loras. What a stopped run has learnt is put there too."""
    try:
        made, step = training.train(run, system, examples)
    except training.Interrupted as stopped:
        file = _publish(stopped.file, target, stopped.step)
        log.info("VINO Train LoRA: stopped at step %d of %d. What it learnt is in %s; the same settings go on from "
                 "there.", stopped.step, run.steps, file)  # fmt: skip
        raise
    file = _publish(made, target, step)
    note = Path(run.out) / _FINISHED
    aside = note.with_name(f".{note.name}.part")
    aside.write_text(json.dumps({"steps": step, "file": os.path.relpath(file, _loras())}), encoding="utf-8")
    os.replace(aside, note)
    log.info("VINO Train LoRA: %d steps, %s", step, file)
    return file


def _publish(made: Path, target: Path, step: int) -> Path:
    """Copy a LoRA to models/loras under the first name that is free."""
    counter = 1
    while (file := target.with_name(f"{target.name}_{step}_steps_{counter:05}_.safetensors")).exists():
        counter += 1
    with written_aside([file], [made.stat().st_size]) as (aside,):
        shutil.copyfile(made, aside)
    return file


def _finished(run: RunConfig, target: Path) -> Path | None:
    """The LoRA of an equal run that has been finished before, if it is still there."""
    try:
        note = json.loads((Path(run.out) / _FINISHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    file = _loras() / note["file"]
    if note["steps"] != run.steps or not file.is_file():
        return None
    log.info("VINO Train LoRA: nothing to do, %s was trained with these very settings", file)
    return file
