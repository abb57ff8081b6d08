"""Many small requests at once: what an evaluation asks for by the thousand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..branches import branch_prompts
from ..encoder.encode import BranchPrompt, append_tokens
from ..errors import InputError
from ..media.references import References
from ..mmdit.batch import mixed_velocity
from ..mmdit.connectors import connect
from ..mmdit.model import Conditioning
from ..pipeline import Pipeline
from ..request import Request
from ..sampling.guidance import Branch, guided_velocity
from ..sampling.sampler import euler, initial_noise
from ..sampling.schedule import sigmas
from ..systems.base import Arrangement
from ..training.conditioning import Group, encode_samples
from ..training.example import PreparedLatents
from ..training.prepare import Prepared

_SHARED = ("width", "height", "frames", "steps", "shift", "text_scale", "image_scale")


@torch.inference_mode()
def generate_batch(pipeline: Pipeline, requests: Sequence[Request]) -> list[Tensor]:
    """Frames uint8 [T, H, W, 3] of each request, as `Pipeline.generate` makes them one by one.

    Prompts may differ in length and references in number. Raises InputError for values outside the system's range and
    for requests of several sizes, steps, shifts or scales, or of which only some go on from a picture.
    """
    system = pipeline.system
    for request in requests:
        request.validate(system)
    for name in _SHARED:
        values = {getattr(request, name) for request in requests}
        if len(values) > 1:
            raise InputError(f"{name}: {', '.join(map(str, values))} in one batch. Ask for them apart.")
    first = requests[0]
    size = system.latent_channels, *system.latent_grid(first.frames, first.height, first.width)
    noise = torch.cat([initial_noise((1, *size), request.seed) for request in requests]).to(pipeline.device)
    starts = [request.arrangement(system).first_frame for request in requests]
    if None in starts and any(start is not None for start in starts):
        raise InputError("Requests that go on from a picture and others in one batch. Ask for them apart.")
    references = [pipeline.reference_latents(request) for request in requests]
    given = [found[start] for found, start in zip(references, starts, strict=True) if start is not None]
    branches, conditionings = _encode(pipeline, requests, references, noise)
    guidance, dtype = pipeline.guidance(), pipeline.model.img_in.proj.weight.dtype

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        count = len(branches)
        timestep = pipeline.timestep(sigma).to(latents.device).repeat(count)
        repeated = latents.to(dtype).repeat(count, 1, 1, 1, 1)
        with pipeline.resident(pipeline.model):
            found = mixed_velocity(pipeline.model, repeated, timestep, conditionings, guidance).float()
        return guided_velocity(
            dict(zip(branches, found.chunk(count), strict=True)), first.text_scale, first.image_scale
        )

    latents = euler(velocity, noise[:, :, bool(given) :], sigmas(first.steps, first.shift))
    if given:
        latents = torch.cat((torch.cat(given).to(latents), latents), dim=2)
    return list(pipeline.decode(latents))


def _encode(
    pipeline: Pipeline, requests: Sequence[Request], latents: Sequence[Sequence[Tensor]], noise: Tensor
) -> tuple[tuple[Branch, ...], list[Conditioning]]:
    """The branches, and conditionings [1, ...] of the first branch of every request, of the second, and so on.

    `latents` are those of each request's references.
    """
    prompts = [
        branch_prompts(
            pipeline.system,
            request.instructed(pipeline.system),
            request.negative,
            len(request.references.images),
            len(request.references.videos),
            request.base_image,
            request.text_scale,
            request.image_scale,
        )
        for request in requests
    ]
    branches = tuple(prompts[0])
    if any(tuple(each) != branches for each in prompts):
        raise InputError("Requests with and without pictures in one batch, with image guidance. Ask for them apart.")
    samples = [
        _sample(request.references, request.arrangement(pipeline.system), each[branch], latent, target)
        for branch in branches
        for request, each, latent, target in zip(requests, prompts, latents, noise, strict=True)
    ]
    with pipeline.resident(pipeline.engine.model):
        # The latents of targets and references are there, so the VAE is not asked.
        groups = encode_samples(pipeline.engine, pipeline.vae, pipeline.system, samples, pipeline.device)
        states = [append_tokens(pipeline.engine, group.prompt, pipeline.tokens) for group in groups]
    found: dict[int, Conditioning] = {}
    with pipeline.resident(pipeline.model):
        for group, state in zip(groups, states, strict=True):
            found.update(zip(group.members, _conditionings(pipeline, group, state), strict=True))
    return branches, [found[number] for number in range(len(samples))]


def _sample(
    references: References, arrangement: Arrangement, prompt: BranchPrompt, latents: Sequence[Tensor], target: Tensor
) -> Prepared:
    count = len(references.images)
    seen = References(
        tuple(references.images[index] for index in prompt.references if index < count),
        tuple(references.videos[index - count] for index in prompt.references if index >= count),
    )
    chosen = PreparedLatents(target, tuple(latents[index][0] for index in prompt.references))
    places, given = arrangement.among(prompt.references), int(arrangement.first_frame is not None)
    return Prepared("", "", prompt.text, seen, torch.empty(0), True, places, given, chosen)


def _conditionings(pipeline: Pipeline, group: Group, states: Tensor) -> list[Conditioning]:
    """Each member's own, without the padding between its prompt and the learnable tokens."""
    dtype = pipeline.model.img_in.proj.weight.dtype
    connected = connect(pipeline.model, pipeline.system, states.to(pipeline.device, dtype), group.boundaries)
    left_out = group.prompt.plan.tokens.kept_from
    prompt = group.prompt.states.shape[1] - left_out
    found = []
    for row, whole in enumerate(group.lengths):
        here, length = slice(row, row + 1), whole - left_out
        found.append(
            Conditioning(
                text=torch.cat([connected.text[here, :length], connected.text[here, prompt:]], dim=1),
                boundaries=None if connected.boundaries is None else connected.boundaries[here],
                references=tuple(latents[here].to(dtype) for latents in group.references),
                conditions=tuple(latents[here].to(dtype) for latents in group.conditions),
            )
        )
    return found
