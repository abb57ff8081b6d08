"""A training run inside ComfyUI: its text encoder and VAE for the frozen half, its memory, its progress bar."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy.sd import CLIP
from torch import Tensor

from ...vino_core.checkpoints.files import load_mmdit
from ...vino_core.encoder.encode import BranchPrompt, append_tokens, encode_branches, encode_visuals
from ...vino_core.encoder.prompt import PromptPlan
from ...vino_core.errors import InputError
from ...vino_core.systems.base import System
from ...vino_core.training.config import RunConfig
from ...vino_core.training.encoded import EncodedExamples, EncodedTrainer, encode_examples
from ...vino_core.training.example import ExampleSource
from ...vino_core.training.export import export
from ...vino_core.training.loop import Report
from ...vino_core.training.metrics import read_record
from ...vino_core.training.parts import Parts
from ...vino_core.training.plot import loss_plot
from ...vino_core.training.prepare import Prepared
from ...vino_core.training.team import Team
from .vlm import ComfyVLM

_PREVIEW_SIZE, _PREVIEW_SECONDS = (640, 400), 2.0


class _QuietVLM(ComfyVLM):
    """Leaves the progress bar to the run, which counts examples."""

    def _advance(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()


def encode_all(
    run: RunConfig,
    sources: Mapping[str, ExampleSource],
    system: System,
    clip: CLIP,
    tokens: Tensor | None,
    expected_tokens: Callable[[Prepared], int],
    latents: Callable[[Tensor], Tensor],
) -> EncodedExamples:
    """Everything that the text encoder and the VAE do for a run, with ComfyUI's own copies of them.

    `tokens` None: there are none. `latents` makes unscaled latents of frames uint8 [T, H, W, 3].
    """
    engine = _QuietVLM(clip)
    progress: list[comfy.utils.ProgressBar] = []

    def text(sample: Prepared) -> tuple[PromptPlan, Tensor]:
        needed = engine.memory(expected_tokens(sample) + (0 if tokens is None else tokens.shape[0]))
        comfy.model_management.load_models_gpu([clip.patcher], memory_required=needed)
        with comfy.model_management.cuda_device_context(engine.device):
            visuals = encode_visuals(engine, sample.references, system.vision)
            prompt = BranchPrompt(sample.text, tuple(range(len(visuals))))
            (encoded,) = encode_branches(engine, system, [prompt], visuals)
            return encoded.plan, append_tokens(engine, encoded, tokens)

    def pixels(frames: Tensor) -> Tensor:
        return latents(frames) * system.latent_scale

    def advance(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not progress:
            progress.append(comfy.utils.ProgressBar(total))
        progress[0].update_absolute(done)

    dtype = getattr(torch, run.parallel.dtype)
    return encode_examples(run.data, sources, system, text, pixels, dtype, advance)


def train(run: RunConfig, system: System, examples: EncodedExamples) -> tuple[Path, int]:
    """Train to the end; the LoRA file in the run's folder and its number of steps.

    Raises `Interrupted` when the user stops it, after saving what there is.
    """
    with _training(), Team(run.parallel) as team:
        mmdit, _ = load_mmdit(run.files.model, getattr(torch, run.parallel.dtype), team.device)
        trainer = EncodedTrainer(run, Parts(system, None, None, mmdit, None), examples, team)
        started = trainer.state.step
        try:
            (file,) = trainer.train(_report(run, started))
        except comfy.model_management.InterruptProcessingException as error:
            if trainer.state.step == started:
                raise
            trainer.save()
            (file,) = export(run, trainer.network, trainer.state.ema, team, Path(run.out) / "export")
            raise Interrupted(file, trainer.state.step) from error
        return file, trainer.state.step


class Interrupted(comfy.model_management.InterruptProcessingException):
    """The user stopped a run behind step `step`; `file` is the LoRA as it was then. ComfyUI takes it for what it is."""

    def __init__(self, file: Path, step: int) -> None:
        super().__init__()
        self.file, self.step = file, step


def on_cpu() -> bool:
    """Whether ComfyUI computes on the processor."""
    return comfy.model_management.get_torch_device().type == "cpu"


def check_memory(weights: int, file: str) -> None:
    """Raise InputError when weights of so many bytes cannot fit: training keeps all of them on the device."""
    total = comfy.model_management.get_total_memory(comfy.model_management.get_torch_device())
    if weights > total:
        raise InputError(
            f"model_name '{file}': training keeps the whole model in memory, {weights / 1e9:.1f} GB in this "
            f"training_dtype, and there are {total / 1e9:.1f} GB. Use a larger card; a quantised file does not help, "
            "because it is trained unquantised."
        )


@contextmanager
def _training() -> Iterator[None]:
    """ComfyUI runs nodes in inference mode with its models in memory and a random state of its own: leave all three."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    device = comfy.model_management.get_torch_device()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        gc.collect()
        comfy.model_management.soft_empty_cache()


def _report(run: RunConfig, started: int) -> Report:
    """Moves the progress bar, draws the loss on the node, and stops the run when the user asks for it."""
    bar = comfy.utils.ProgressBar(run.steps)
    rows = read_record(Path(run.out))[:started]
    drawn = 0.0

    def report(step: int, total: int, record: Mapping[str, Any]) -> None:
        nonlocal drawn
        rows.append({"step": step, **record})
        preview = None
        if time.monotonic() - drawn > _PREVIEW_SECONDS or step == total:
            picture = loss_plot(*_columns(rows), total=total, size=_PREVIEW_SIZE)
            preview = ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION)
            drawn = time.monotonic()
        bar.update_absolute(step, total, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return report


def _columns(rows: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    return [row["step"] for row in rows], [row["loss"] for row in rows]


def plot(run: RunConfig, title: str) -> Tensor:
    """The run's loss so far as an IMAGE [1, H, W, 3]."""
    from torchvision.transforms.functional import pil_to_tensor

    picture = loss_plot(*_columns(read_record(Path(run.out))), title=title, total=run.steps)
    return pil_to_tensor(picture).movedim(0, -1)[None].float() / 255
