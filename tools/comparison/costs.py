"""What one generation costs at full size, counted from the systems' own dimensions; no weights are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vino_core.branches import branch_prompts
from vino_core.encoder.visual import image_sizes, video_sizes
from vino_core.mmdit.model import MMDiT
from vino_core.systems.base import System
from vino_core.training.flops import ForwardCost, visual_tokens

_SIZE = (480, 848)
"""Height and width where a reference decides them: a wide picture or clip."""
_PROMPT = 200
"""Assumed tokens of the prompt itself."""


@dataclass(frozen=True)
class Job:
    """A task by the name that both systems train it under, with its number of references."""

    title: str
    task: str
    images: int = 0
    videos: int = 0


JOBS = (
    Job("text to image", "t2i"),
    Job("text to video", "t2v"),
    Job("image to video", "i2v", images=1),
    Job("edit an image", "ti2i", images=1),
    Job("two references to video", "ti2v", images=2),
    Job("edit a video", "tv2v", videos=1),
    Job("edit a video with a reference", "tiv2v", images=1, videos=1),
)


@dataclass(frozen=True)
class Cost:
    """One generation with its task's published settings. `tokens`: the longest joint sequence of its branches."""

    size: str
    frames: int
    steps: int
    branches: int
    tokens: int
    petaflops: float


class Costs:
    """Costs of one published system's jobs."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.model = MMDiT(system.mmdit, system.layout, device="meta", dtype=torch.float32)
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self._flops = ForwardCost(self.model)

    def of(self, job: Job) -> Cost:
        """The cost of `job`: all steps, every branch with the references that it sees."""
        system = self.system
        preset = system.presets[system.trained_as(job.task, job.images)]
        height, width = (preset.height, preset.width) if preset.height and preset.width else _SIZE
        prompts = branch_prompts(
            system, "", "", job.images, job.videos,
            text_scale=preset.text_scale, image_scale=preset.image_scale,
        )  # fmt: skip
        lengths = [self._lengths(job, prompt.references, preset.frames, height, width) for prompt in prompts.values()]
        flops = preset.steps * sum(self._flops(text, visual) for text, visual in lengths)
        longest = max(text + visual for text, visual in lengths)
        return Cost(f"{width} x {height}", preset.frames, preset.steps, len(lengths), longest, flops / 1e15)

    def _lengths(self, job: Job, seen: tuple[int, ...], frames: int, height: int, width: int) -> tuple[int, int]:
        """Text and visual tokens of a branch that sees the references `seen`."""
        system = self.system
        kinds = ["image"] * job.images + ["video"] * job.videos
        places = system.arrange(system.trained_as(job.task, job.images), job.images, job.videos).among(seen)
        kinds = [kinds[index] for index in seen]

        def latents(length: int) -> torch.Tensor:
            return torch.empty(1, system.latent_channels, *system.latent_grid(length, height, width), device="meta")

        lengths = [frames if kind == "video" else 1 for kind in kinds]
        noisy = latents(frames)
        if places.first_frame is not None:
            noisy = noisy[:, :, 1:]
        before, after = ([latents(lengths[index]) for index in part] for part in (places.leading, places.after))
        text = _PROMPT + system.learnable_tokens + sum(self._vlm_tokens(kind) for kind in kinds)
        return text, visual_tokens(self.model, before, noisy, after)

    def _vlm_tokens(self, kind: str) -> int:
        """Tokens that a reference becomes in the VLM."""
        vision = self.system.vision
        sizes, groups = (image_sizes, 1) if kind == "image" else (video_sizes, vision.frames // vision.temporal_patch)
        _, (height, width) = sizes(*_SIZE, vision)
        return groups * height * width // (vision.patch * vision.merge) ** 2
