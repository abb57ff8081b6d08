"""The rules of a training step, each on its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from training_runs import Numbers, config, frozen, one_thread, parts, sources, tasks, train  # noqa: F401
from training_runs import parts as make_parts

from vino_core.encoder.encode import BranchPrompt, append_tokens, encode_branches, encode_visuals
from vino_core.encoder.prompt import build_prompt
from vino_core.media.sizing import best_grid
from vino_core.sampling.sampler import euler
from vino_core.sampling.schedule import sigmas
from vino_core.systems.base import System
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE
from vino_core.training import draws
from vino_core.training.conditioning import encode_samples
from vino_core.training.config import Flow, Optimizer
from vino_core.training.dropout import Dropped, draw_dropped, visible
from vino_core.training.fitting import affordable_frames
from vino_core.training.loop import Trainer
from vino_core.training.loss import draw_sigma, noised, velocity_loss
from vino_core.training.mixture import task_of_step
from vino_core.training.optimizer import rate
from vino_core.training.prepare import cover, prepare
from vino_core.training.team import Team


def test_the_velocity_that_is_trained_is_the_one_that_euler_integrates() -> None:
    latents, noise = torch.randn(2, 2, 16, 1, 4, 4)
    assert float(velocity_loss(noise - latents, latents, noise).max()) == 0
    reached = euler(lambda x, sigma: noise - latents, noise, sigmas(5, 3.0))
    assert (reached - latents).abs().max() < 1e-5
    level = torch.tensor([0.25, 1.0])
    assert torch.allclose(noised(latents, noise, level)[1], noise[1])
    assert torch.allclose(noised(latents, noise, level)[0], 0.75 * latents[0] + 0.25 * noise[0])


@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
def test_noise_levels_follow_the_shift(law: str) -> None:
    flow = Flow(shift=3.0, time=law)
    drawn = torch.stack([draw_sigma(flow, draws.tensors(0, "time", n)) for n in range(2000)])
    assert 0 < drawn.min() and drawn.max() < 1
    assert abs(float(drawn.median()) - 0.75) < 0.02  # t = 1/2 becomes 3/4
    spread = float((drawn < 0.5).float().mean())  # t < 1/4
    expected = 0.25 if law == "uniform" else float(torch.distributions.Normal(0, 1).cdf(torch.tensor(-1.0986)))
    assert abs(spread - expected) < 0.03


def test_the_task_of_a_step_depends_on_seed_and_step_only() -> None:
    weights = {"t2i": 3.0, "t2v": 1.0}
    first = [task_of_step(weights, 0, step) for step in range(2000)]
    torch.manual_seed(5)
    assert first == [task_of_step(dict(reversed(weights.items())), 0, step) for step in range(2000)]
    assert first != [task_of_step(weights, 1, step) for step in range(2000)]
    assert abs(Counter(first)["t2i"] / 2000 - 0.75) < 0.03


def test_conditions_drop_independently_and_pictures_together() -> None:
    drawn = [draw_dropped(0.1, 0, step, sample, images=1) for step in range(2000) for sample in range(2)]
    for modality in ("text", "images", "videos"):
        assert abs(sum(getattr(d, modality) for d in drawn) / len(drawn) - 0.1) < 0.015
    both = sum(d.text and d.images for d in drawn) / len(drawn)
    assert 0.004 < both < 0.018
    ones = [[draw_dropped(0.3, 0, step, sample, 1).images for sample in range(8)] for step in range(50)]
    many = [[draw_dropped(0.3, 0, step, sample, 3).images for sample in range(8)] for step in range(50)]
    assert any(len(set(step)) == 2 for step in ones)
    assert all(len(set(step)) == 1 for step in many) and len({step[0] for step in many}) == 2


def test_what_a_sample_sees_without_a_condition() -> None:
    example = Numbers("tiv2v").example(0)
    assert visible(example, Dropped(), VINO) == BranchPrompt(example.prompt, (0, 1))
    assert visible(example, Dropped(text=True), VINO) == BranchPrompt("", (0, 1))
    assert visible(example, Dropped(images=True), VINO) == BranchPrompt(example.prompt, (1,))
    assert visible(example, Dropped(videos=True), VINO) == BranchPrompt(example.prompt, (0,))
    edit = replace(example, images=example.images * 3, videos=(), base_image=True)
    assert visible(edit, Dropped(images=True), VINO).references == (2,)
    assert visible(replace(edit, base_image=False), Dropped(images=True), VINO).references == ()


REFERENCES = {"t2i": "", "i2v": "i", "ti2i": "i", "ti2i_baseimg": "i", "ti2v": "i", "tv2v": "v", "tiv2v": "iv"}
"""Which kinds of references a task has: images, videos."""


@pytest.mark.parametrize("system", [VINO, VOGUE], ids=lambda system: system.name)
@pytest.mark.parametrize(("task", "kinds"), REFERENCES.items())
def test_each_kind_of_reference_is_seen_as_often_as_it_is_drawn(system: System, task: str, kinds: str) -> None:
    """Losing text, pictures (but a base image) or clips: each in one sample of ten, whatever else is lost."""
    example, many = Numbers(task).example(0), 6000
    images = len(example.images)
    lost = {"text": [], "i": [], "v": []}
    for step in range(many):
        seen = visible(example, draw_dropped(0.1, 0, step, 0, images), system)
        lost["text"].append(not seen.text)
        lost["i"].append(0 not in seen.references)
        lost["v"].append(images not in seen.references)
        whole = {*range(images)}, {*range(images, images + len(example.videos))}
        remain = {index for index in seen.references if index < images}
        base_stays = example.base_image and images > 1 and system is VINO
        assert remain in (whole[0], {images - 1} if base_stays else set())
        assert {index for index in seen.references if index >= images} in (whole[1], set())
    for kind in ("text", *kinds):
        assert abs(sum(lost[kind]) / many - 0.1) < 0.012, kind
    for one, other in combinations(("text", *kinds), 2):
        both = sum(a and b for a, b in zip(lost[one], lost[other], strict=True)) / many
        assert abs(both - 0.01) < 0.004, (one, other)


def test_gradients_of_the_learnable_tokens_equal_those_of_a_full_pass(tmp_path: Path) -> None:
    """Two samples of one layout go through the VLM together and the tokens behind its cache."""
    run = config(tmp_path, data={"tasks": tasks("tiv2v"), "batch": 2})
    made = make_parts(run)
    engine, system = made.engine, made.system
    samples = [prepare(Numbers("tiv2v").example(n), Dropped(), run.data, system) for n in (0, 1)]
    (group,) = encode_samples(engine, made.vae, system, samples, "cpu")
    tokens = made.tokens.clone().requires_grad_()
    states = append_tokens(engine, group.prompt, tokens)
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    (states * weight).sum().backward()

    again = made.tokens.clone().requires_grad_()
    for number, sample in enumerate(samples):
        visuals = encode_visuals(engine, sample.references, system.vision)
        branch = BranchPrompt(sample.text, tuple(range(len(visuals))))
        full = full_pass(engine, system, branch, visuals, again)
        assert (full - states[number]).abs().max() < 1e-5
        (full * weight[number]).sum().backward()
    assert tokens.grad.abs().max() > 1e-3
    assert (tokens.grad - again.grad).abs().max() < 1e-5 * again.grad.abs().max() + 1e-6
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def full_pass(engine, system, branch, visuals, tokens):
    """States [n + q, width] of one decode without any cache."""
    from vino_core.encoder.encode import embed_prompt
    from vino_core.encoder.engine import VisualInjection
    from vino_core.encoder.positions import appended_positions

    plan = build_prompt(system, engine, branch.text, [visual.item for visual in visuals])
    x, injection = embed_prompt(engine, plan, visuals)
    mask = torch.cat([injection.mask, torch.zeros(len(tokens), dtype=torch.bool)])
    positions = torch.cat([plan.positions, appended_positions(plan.positions, len(tokens))], dim=1)
    states, _ = engine.decode(
        torch.cat([x, tokens[None]], dim=1), positions, VisualInjection(mask, injection.deepstack)
    )
    return states[0]


def test_training_and_inference_encode_alike(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("ti2v")})
    made = make_parts(run)
    sample = prepare(Numbers("ti2v").example(3), Dropped(), run.data, made.system)
    (group,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
    visuals = encode_visuals(made.engine, sample.references, made.system.vision)
    (encoded,) = encode_branches(made.engine, made.system, [BranchPrompt(sample.text, (0, 1))], visuals)
    assert (group.prompt.states - encoded.states).abs().max() < 1e-5
    assert group.boundaries == encoded.plan.boundaries and len(group.references) == 2


def test_image_reconstruction_shows_the_picture_to_the_vlm_only(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("reconstruct_image", "select_image")})
    made = make_parts(run)
    for task, packed in (("reconstruct_image", 0), ("select_image", 3)):
        sample = prepare(Numbers(task).example(0), Dropped(), run.data, made.system)
        (group,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
        assert len(group.references) == len(group.boundaries) == packed
        assert len(group.prompt.plan.boundaries) == len(sample.references.images) > 0


STAGES = [
    (0, ["mmdit", "plain_text"], ["t2i"]),
    (1, ["connectors", "tokens"], ["ti2i", "reconstruct_image"]),
    (2, ["connectors", "tokens", "mmdit"], ["t2i", "ti2i"]),
    (3, ["connectors", "tokens", "mmdit"], ["ti2v", "tv2v"]),
]


@pytest.mark.parametrize(("stage", "trained", "names"), STAGES)
def test_only_what_the_stage_names_changes(tmp_path: Path, stage: int, trained: list, names: list) -> None:
    tokens = None if stage == 0 else 4
    run = config(
        tmp_path,
        stage=stage,
        train=trained,
        data={"tasks": tasks(*names)},
        tokens=tokens,
        steps=3,
        optimizer={"learning_rate": 1e-3, "weight_decay": 0.0},
    )  # decay alone moves what has no gradient
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        before = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
        vlm = {name: tensor.clone() for name, tensor in frozen()[0].model.named_parameters()}
        vae = {name: tensor.clone() for name, tensor in frozen()[1].module.named_parameters()}
        trainer.train()
    changed: dict[str, set[bool]] = {}
    for name, tensor in trainer.network.named_parameters():
        changed.setdefault(trainer.module_parts[name], set()).add(not torch.equal(tensor, before[name]))
    assert {part for part, moved in changed.items() if moved == {True}} == set(trained)
    assert all(moved == {False} for part, moved in changed.items() if part not in trained)
    assert all(torch.equal(tensor, vlm[name]) for name, tensor in frozen()[0].model.named_parameters())
    assert all(torch.equal(tensor, vae[name]) for name, tensor in frozen()[1].module.named_parameters())


def test_the_optimizer_is_the_configs(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.25, "betas": [0.5, 0.75], "weight_decay": 0.125, "eps": 1e-3}
    run = config(tmp_path, optimizer=settings)
    with Team(run.parallel) as team:
        (group,) = Trainer(run, parts(run), sources(run), team).state.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (0.25, (0.5, 0.75), 0.125, 1e-3)


def test_the_rate_warms_up_and_decays() -> None:
    settings = Optimizer(learning_rate=1.0, warmup=4, decay=2)
    assert [rate(settings, step, 8) for step in range(1, 9)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.5]
    assert {rate(Optimizer(learning_rate=1.0), step, 8) for step in range(1, 9)} == {1.0}


def test_gradients_are_clipped_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path, steps=1, optimizer={"learning_rate": 1e-3, "clip": 0.01})
    seen = []
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        step = trainer.state.optimizer.step

        def look() -> None:
            gradients = [p.grad.flatten() for p in trainer.state.parameters.values()]
            seen.append(float(torch.cat(gradients).norm()))
            step()

        monkeypatch.setattr(trainer.state.optimizer, "step", look)
        trainer.train()
    assert seen == [pytest.approx(0.01, rel=1e-4)]


def test_the_average_is_kept_in_float32(tmp_path: Path) -> None:
    run = config(tmp_path, steps=3, ema=0.75, parallel={"dtype": "bfloat16"})
    history: list[torch.Tensor] = []
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        expected = trainer.network.tokens.detach().clone()
        trainer.train(lambda *_: history.append(trainer.network.tokens.detach().clone()))
    for tokens in history:
        expected = 0.75 * expected + 0.25 * tokens
    assert trainer.state.ema.shadow["tokens"].dtype == torch.float32
    assert torch.allclose(trainer.state.ema.shadow["tokens"], expected, atol=1e-6)
    weights = trainer.network.tokens.detach().clone()
    with trainer.state.ema.applied():
        assert torch.allclose(trainer.network.tokens, expected, atol=1e-6)
    assert torch.equal(trainer.network.tokens, weights)


def test_frames_adapt_to_what_a_sequence_may_cost() -> None:
    assert affordable_frames(17, 100, pictures=0, videos=0, budget=None) == 17
    assert affordable_frames(17, 100, pictures=0, videos=0, budget=300) == 9
    assert affordable_frames(17, 100, pictures=102, videos=0, budget=302) == 5
    assert affordable_frames(17, 100, pictures=0, videos=1, budget=402) == 5
    assert affordable_frames(17, 100, pictures=306, videos=0, budget=302) == 0


def test_buckets_keep_the_aspect_and_the_area() -> None:
    for height, width in ((64, 64), (30, 90), (100, 50), (17, 16)):
        covered = cover(torch.zeros(1, height, width, 3, dtype=torch.uint8), 4096, 16)
        assert covered.shape[1:3] == best_grid(width, height, 4096, 16)
    grid = torch.arange(64 * 64, dtype=torch.uint8).view(1, 64, 64, 1).expand(-1, -1, -1, 3)
    assert torch.equal(cover(grid, 4096, 16), grid)  # a picture of the right size is left alone


def test_an_edits_picture_stays_aligned_with_its_target(tmp_path: Path) -> None:
    run = config(tmp_path, data={"tasks": tasks("ti2i", "tv2v"), "area": 1024})
    made = make_parts(run)
    picture = torch.randint(0, 256, (37, 51, 3), dtype=torch.uint8)
    example = replace(Numbers("ti2i").example(0), images=(picture,), target=picture[None])
    sample = prepare(example, Dropped(), run.data, made.system)
    assert torch.equal(sample.references.images[0].pixels, sample.target[0])
    clip = torch.randint(0, 256, (9, 37, 51, 3), dtype=torch.uint8)
    example = replace(Numbers("tv2v").example(0), videos=(clip,), target=clip)
    sample = prepare(example, Dropped(), run.data, made.system)
    assert len(sample.target) == 5 and torch.equal(sample.references.videos[0].frames, sample.target)


def test_a_few_steps_learn(tmp_path: Path) -> None:
    """One picture, over and over: the loss falls."""
    run = config(tmp_path, steps=80, data={"tasks": tasks("t2i"), "dropout": 0}, optimizer={"learning_rate": 1e-2},
                 save={"every": 80})  # fmt: skip
    rows = train(run, given={"t2i": Numbers("t2i", length=1)})
    losses = [row["loss"] for row in rows]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
