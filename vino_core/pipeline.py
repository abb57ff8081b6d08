"""From a request to frames: encode -> pack -> sample -> decode (VINO paper section 2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .branches import branch_prompts
from .checkpoints.files import check_widths
from .encoder.encode import append_tokens, encode_branches, encode_visuals
from .encoder.transformers_engine import TransformersEngine
from .mmdit.connectors import connect
from .mmdit.model import Conditioning, MMDiT
from .request import Request
from .sampling.guidance import Branch, guided_velocity
from .sampling.sampler import StepReport, euler, initial_noise
from .sampling.schedule import sigmas
from .systems.base import System
from .vae import VAE

log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The parts of a loaded system. `device` is where they compute; the model keeps its own dtype.

    `offload` keeps each part on the CPU except while it works, which costs seconds per request and lets the largest
    part alone decide how much device memory is needed.
    """

    system: System
    engine: TransformersEngine
    tokens: Tensor | None
    model: MMDiT
    vae: VAE
    device: torch.device | str = "cpu"
    offload: bool = False

    def __post_init__(self) -> None:
        if self.tokens is not None and len(self.tokens) > 0:
            self.system = self.system.for_tokens(self.tokens)
        check_widths(self.model.config, self.tokens, self.engine.hidden_size)

    @contextmanager
    def resident(self, part: nn.Module) -> Iterator[None]:
        """`part` on the computing device within the block."""
        part.to(self.device)
        try:
            yield
        finally:
            if self.offload:
                part.to("cpu")

    def encode(self, request: Request) -> dict[Branch, Conditioning]:
        """The conditioning of every branch that the request's scales switch on.

        The vision tower and the VAE run once per reference, the visual prefix once per distinct list of references.
        """
        references = request.references
        branches = branch_prompts(
            self.system,
            request.instructed(self.system),
            request.negative,
            len(references.images),
            len(references.videos),
            request.base_image,
            request.text_scale,
            request.image_scale,
        )
        with self.resident(self.engine.model):
            visuals = encode_visuals(self.engine, references, self.system.vision)
            encoded = encode_branches(self.engine, self.system, list(branches.values()), visuals, request.tags)
            for message in encoded[0].plan.messages:
                log.warning("prompt: %s", message)
            states = [append_tokens(self.engine, prompt, self.tokens) for prompt in encoded]
        latents = self.reference_latents(request)
        arrangement = request.arrangement(self.system)

        conditionings = {}
        with self.resident(self.model):
            for (branch, seen), prompt, state in zip(branches.items(), encoded, states, strict=True):
                connected = connect(self.model, self.system, self._for_model(state), prompt.plan.boundaries)
                before, after = (
                    tuple(self._for_model(latents[index]) for index in places if index in seen.references)
                    for places in (arrangement.leading, arrangement.after)
                )
                conditionings[branch] = Conditioning(
                    text=connected.text,
                    boundaries=connected.boundaries,
                    references=before,
                    conditions=after,
                )
        return conditionings

    def reference_latents(self, request: Request) -> list[Tensor]:
        """Scaled latents [1, 16, t, h, w] of every reference, images first. The request's seed fixes samples."""
        pixels = request.references.packed
        if not pixels:
            return []
        generator = torch.Generator("cpu").manual_seed(request.seed)
        with self.resident(self.vae.module):
            return [self.vae.encode(item, request.posterior, generator) for item in pixels]

    def sample(
        self,
        request: Request,
        conditionings: Mapping[Branch, Conditioning],
        report: StepReport | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Latents [1, 16, t, h, w] in float32 from noise (the request's seed, unless `noise` of that shape is given).

        A first frame stands in the place of the noise's own, and what is reported at each step lacks it.
        """
        shape = self.system.latent_grid(request.frames, request.height, request.width)
        if noise is None:
            noise = initial_noise((1, self.system.latent_channels, *shape), request.seed)
        guidance = self.guidance()
        dtype = self.model.img_in.proj.weight.dtype

        def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
            timestep = self.timestep(sigma)
            velocities = {
                branch: self.model(latents.to(dtype), timestep, conditioning, guidance).float()
                for branch, conditioning in conditionings.items()
            }
            return guided_velocity(velocities, request.text_scale, request.image_scale)

        first = conditionings[Branch.POSITIVE].references[-1:]
        if request.arrangement(self.system).first_frame is None:
            first = ()
        noisy = noise[:, :, len(first) :].to(self.device)
        with self.resident(self.model):
            latents = euler(velocity, noisy, sigmas(request.steps, request.shift), report)
        return torch.cat((*(frame.to(latents) for frame in first), latents), dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames uint8 [B, T, H, W, 3] of scaled latents."""
        with self.resident(self.vae.module):
            return self.vae.decode(latents)

    @torch.inference_mode()
    def generate(self, request: Request, report: StepReport | None = None) -> Tensor:
        """Frames uint8 [T, H, W, 3] of a request. Raises InputError for values outside the system's range."""
        request.validate(self.system)
        return self.decode(self.sample(request, self.encode(request), report))[0]

    def _for_model(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.model.img_in.proj.weight.dtype)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The MMDiT's timestep [B] at noise level `sigma` [B], in the precision that the system is used to."""
        timestep = sigma.to(self.device) * self.system.timestep_scale
        if self.system.rounded_timestep:
            return timestep.to(self.model.img_in.proj.weight.dtype).float()
        return timestep

    def guidance(self) -> Tensor | None:
        """The MMDiT's second scalar input [1], or None where the system has none."""
        if self.system.guidance_input is None:
            return None
        return torch.tensor([self.system.guidance_input], device=self.device)
