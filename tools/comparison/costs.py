"""What one generation costs at full size, counted with the systems' own code on their own dimensions; no weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from vino_core.branches import branch_prompts
from vino_core.checkpoints.manifest import official_manifest
from vino_core.encoder.visual import image_sizes, video_sizes
from vino_core.media.references import Clip, References
from vino_core.mmdit.model import MMDiT
from vino_core.systems.base import System
from vino_core.tasks import prepare_references, target_size
from vino_core.training.flops import ForwardCost, visual_tokens

from .jobs import Job

GIVEN = (720, 1280)
"""Height and width of every picture and clip that is given."""
PROMPT = 200
"""Assumed tokens of the prompt, with what stands around it."""
_FEW = 5
"""Frames of a clip that are really prepared: its length changes no size."""


@dataclass(frozen=True)
class Cost:
    """One generation with its task's published settings. `tokens`: the longest joint sequence of its branches."""

    preset: str
    width: int
    height: int
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

    @property
    def text_encoder(self) -> int:
        """Weights of the vision-language model, by the published checkpoint's list of tensors."""
        published = self.system.published
        left_out = published.vlm + published.head if published.tied else None
        shapes = official_manifest(self.system.name).items()
        return sum(prod(shape) for name, shape in shapes if name.startswith(published.vlm) and name != left_out)

    def of(self, job: Job) -> Cost | None:
        """The cost of `job`: all steps, every branch with the references that it sees. None: there is no such task."""
        system = self.system
        if job.task not in system.training_tasks:
            return None
        task = system.trained_as(job.task, job.images)
        preset = system.presets[task]
        pictures = [torch.zeros(*GIVEN, 3, dtype=torch.uint8)] * job.images
        clips = [Clip(torch.zeros(_FEW, *GIVEN, 3, dtype=torch.uint8), system.frame_rate)] * job.videos
        references = prepare_references(system, task, pictures, clips, min(preset.frames, _FEW))
        height, width, _ = target_size(preset, references, preset.frames)
        prompts = branch_prompts(
            system, "", "", job.images, job.videos, job.base_image,
            text_scale=preset.text_scale, image_scale=preset.image_scale,
        )  # fmt: skip
        latents = [
            self._latents(preset.frames if number >= job.images else 1, *pixels.shape[1:3])
            for number, pixels in enumerate(references.packed)
        ]
        places = system.places(task, job.images, job.videos)
        noisy = self._latents(preset.frames, height, width)
        seen_by_vlm = self._vlm_tokens(references)
        lengths = []
        for prompt in prompts.values():
            seen, kept = places.among(prompt.references), [latents[index] for index in prompt.references]
            before, after = ([kept[index] for index in part] for part in (seen.leading, seen.after))
            # The first frame of the result is given, not made.
            made = noisy if seen.first_frame is None else noisy[:, :, 1:]
            text = PROMPT + system.learnable_tokens + sum(seen_by_vlm[index] for index in prompt.references)
            lengths.append((text, visual_tokens(self.model, before, made, after)))
        flops = preset.steps * sum(self._flops(text, visual) for text, visual in lengths)
        longest = max(text + visual for text, visual in lengths)
        return Cost(task, width, height, preset.frames, preset.steps, len(lengths), longest, flops / 1e15)

    def _latents(self, frames: int, height: int, width: int) -> Tensor:
        grid = self.system.latent_grid(frames, height, width)
        return torch.empty(1, self.system.latent_channels, *grid, device="meta")

    def _vlm_tokens(self, references: References) -> list[int]:
        """Tokens that each reference becomes in the VLM."""
        vision = self.system.vision
        sizes = [(1, image_sizes(*image.pixels.shape[:2], vision)[1]) for image in references.images]
        for video in references.videos:
            groups = -(-len(video.vlm_frames) // vision.temporal_patch)
            sizes.append((groups, video_sizes(*video.vlm_frames.shape[1:3], vision)[1]))
        return [groups * height * width // (vision.patch * vision.merge) ** 2 for groups, (height, width) in sizes]
