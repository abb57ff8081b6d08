"""A batch whose texts differ in length gives the numbers that its samples have on their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_mmdit import CONFIG, random_conditioning
from torch import Tensor
from training_runs import Numbers, config, one_thread, tasks  # noqa: F401
from training_runs import parts as make_parts

from vino_core.mmdit.batch import by_length, mixed_velocity, stack
from vino_core.mmdit.model import MMDiT
from vino_core.training.conditioning import Group, encode_plain, encode_samples
from vino_core.training.config import RunConfig
from vino_core.training.dropout import Dropped
from vino_core.training.loop import build_network
from vino_core.training.network import Network
from vino_core.training.prepare import Prepared, PreparedLatents, prepare

TEXTS = ("a fox", "", "a very red fox runs over the hill and far away", "two foxes")


def samples_of(run: RunConfig, made, task: str) -> list[Prepared]:
    source = Numbers(task)
    prepared = [prepare(source.example(n), Dropped(), run.data, made.system) for n in range(len(TEXTS))]
    return [replace(sample, text=text) for sample, text in zip(prepared, TEXTS, strict=True)]


def encode(network: Network, made, samples: Sequence[Prepared]) -> list[Group]:
    if network.plain_text is not None:
        return encode_plain(made.engine, made.vae, samples, "cpu")
    return encode_samples(made.engine, made.vae, made.system, samples, "cpu")


def results(network: Network, groups: Sequence[Group], sigmas: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Velocities in the samples' order and the gradients of a weighted sum of them."""
    network.zero_grad(set_to_none=True)
    noisy = [group.target for group in groups]
    velocities = network(groups, noisy, [sigmas[list(group.members)] for group in groups])
    found = torch.empty(sum(len(group.members) for group in groups), *velocities[0].shape[1:])
    for group, velocity in zip(groups, velocities, strict=True):
        found = found.index_put((torch.tensor(group.members),), velocity)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * weight).sum().backward()
    return found.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("stage", "task"), [(0, "t2i"), (2, "t2i"), (2, "ti2v"), (2, "tiv2v")])
def test_padded_batch_equals_its_samples_alone(tmp_path: Path, stage: int, task: str) -> None:
    tokens = None if stage == 0 else 4
    train = ["mmdit", "connectors", "tokens"] if stage else ["mmdit", "plain_text"]
    run = config(tmp_path, stage=stage, train=train, tokens=tokens, data={"tasks": tasks(task)})
    made = make_parts(run)
    network = build_network(run, made)
    samples, sigmas = samples_of(run, made, task), torch.tensor([0.1, 0.9, 0.5, 0.3])

    (together,) = encode(network, made, samples)
    assert len(together.members) == len(TEXTS) and together.padding.any()
    alone = []
    for number, sample in enumerate(samples):
        (group,) = encode(network, made, [sample])
        assert group.padding is None
        alone.append(replace(group, members=(number,)))

    velocity, gradients = results(network, [together], sigmas)
    expected, expected_gradients = results(network, alone, sigmas)
    assert (velocity - expected).abs().max() < 1e-5
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name
    for name in ("tokens", "mmdit.connector.mlp.0.weight") if stage else ("plain_text.words.weight",):
        assert gradients[name].abs().max() > 1e-3


def test_nothing_sees_the_padding(tmp_path: Path) -> None:
    model = MMDiT(CONFIG).requires_grad_(False)
    batch = stack([random_conditioning(length, (1, 4, 4), seed=length) for length in (3, 7)])
    assert batch.padding.tolist() == [[False] * 3 + [True] * 4, [False] * 7]
    latents, timestep = torch.randn(2, 16, 1, 4, 4), torch.tensor([900.0, 10.0])
    other = replace(batch, text=batch.text.masked_fill(batch.padding[..., None], 100.0))
    assert torch.equal(model(latents, timestep, batch), model(latents, timestep, other))


def test_texts_of_any_length_run_as_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MMDiT(CONFIG).requires_grad_(False)
    samples = [random_conditioning(length, (1, 4, 6), seed=length) for length in (9, 2, 5)]
    latents, timestep = torch.randn(3, 16, 1, 4, 4), torch.tensor([900.0, 500.0, 10.0])
    alone = [model(latents[n : n + 1], timestep[n : n + 1], sample) for n, sample in enumerate(samples)]
    calls = []
    forward = MMDiT.forward
    monkeypatch.setattr(MMDiT, "forward", lambda self, x, *rest: calls.append(len(x)) or forward(self, x, *rest))
    together = mixed_velocity(model, latents, timestep, samples)
    assert calls == [3]
    assert (together - torch.cat(alone)).abs().max() < 1e-5


def test_batches_are_cut_where_padding_costs_more_than_a_call() -> None:
    assert by_length([5, 9, 7], per_call=256) == [[0, 1, 2]]
    assert by_length([90, 10, 90, 11] * 4, per_call=256) == [[1, 3, 5, 7, 9, 11, 13, 15], [0, 2, 4, 6, 8, 10, 12, 14]]
    assert by_length([4, 4, 900], per_call=0) == [[0, 1], [2]]
    assert by_length([7]) == [[0]]


def test_references_of_one_size_share_a_call_of_the_vision_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path, data={"tasks": tasks("tiv2v")})
    made = make_parts(run)
    samples = samples_of(run, made, "tiv2v")
    calls = []
    visions = type(made.engine).visions
    monkeypatch.setattr(
        type(made.engine),
        "visions",
        lambda self, patches, grid: calls.append(len(patches)) or visions(self, patches, grid),
    )
    (group,) = encode_samples(made.engine, made.vae, made.system, samples, "cpu")
    assert calls == [4, 4] and len(group.members) == 4


def test_latents_made_beforehand_spare_the_vae(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("ti2i")})
    made = make_parts(run)
    samples = samples_of(run, made, "ti2i")
    (group,) = encode_samples(made.engine, made.vae, made.system, samples, "cpu")
    ready = [
        replace(sample, latents=PreparedLatents(group.target[n], tuple(clip[n] for clip in group.references)))
        for n, sample in enumerate(samples)
    ]
    (again,) = encode_samples(made.engine, None, made.system, ready, "cpu")
    assert torch.equal(again.target, group.target)
    assert all(torch.equal(a, b) for a, b in zip(again.references, group.references, strict=True))
