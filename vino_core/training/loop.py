"""The training loop: what one step does, and everything around it (VINO paper sections 2.3 and 3.1)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.writing import reported
from ..errors import InputError
from ..pipeline import Pipeline
from . import draws
from .assembly import assemble, build_network
from .conditioning import Group, encode_plain, encode_samples
from .config import RunConfig
from .contents import contents
from .dropout import draw_dropped
from .example import Example, ExampleSource
from .export import export
from .feed import Feed, Noted
from .finish import checkpoints_of, export_folder, way_on
from .fitting import at_drawn_area
from .flops import ForwardCost, measured_peak, visual_tokens
from .loss import draw_sigma, noised, velocity_loss
from .metrics import Metrics
from .mixture import task_of_step
from .optimizer import clip_gradients, rate
from .parts import Parts
from .prepare import Prepared, prepare
from .previews import previews, write_preview, written
from .stages import parts_of
from .state import Checkpoints, fingerprint
from .tally import Tally
from .team import Team, widest
from .validation import check_held_out, validation_losses
from .zero import ZeroOptimizer

Sources = Mapping[str, ExampleSource]
Report = Callable[[int, int, Mapping[str, Any]], None]
"""Called on every process after each step with (steps done, steps in all, its record); may raise to stop the run."""


class Trainer:
    """A run: made from its config, its networks and its data, at its last checkpoint if it has one."""

    def __init__(
        self, run: RunConfig, parts: Parts, sources: Sources, team: Team, validation: Sources | None = None
    ) -> None:
        self.run, self.parts, self.team, self.validation = run, parts, team, validation or {}
        self.out = Path(run.out)
        kinds = "skipped", "adapted", "skipped_held_out"
        *noted, held_out = [self.out / f"{what}_{team.rank:05d}.jsonl" for what in kinds]
        weights = {name: task.weight for name, task in run.data.tasks.items() if task.weight > 0}
        with team.together():  # before the first exchange, which those who fail would miss
            missing = sorted(set(weights) - set(sources))
            if missing:
                raise InputError(f"no examples for {', '.join(missing)}. Give data.tasks.{missing[0]} a source.")
            with reported(self.out):
                self.out.mkdir(parents=True, exist_ok=True)
            self.unusable = Noted("skipped, held out", held_out)
            if run.watch.validate and team.first:
                check_held_out(run, self.validation, parts.system, self.unusable)
            used = {name: sources[name] for name in weights}
            self.weights = weights
            self.feed = Feed(used, self._prepare, run.seed, run.data.workers, *noted)
            self.network = build_network(run, parts).to(team.device)
            self.cost = ForwardCost(parts.mmdit)
            frozen, inside = fingerprint(self.network), contents(run.files, parts, self.network, used)
        self.module_parts = parts_of(self.network)
        self.module, self.state = assemble(run, self.network, team)
        folder, settings = checkpoints_of(run), run.identity()
        self.checkpoints = Checkpoints(folder, run.save.keep, settings, inside, frozen, team)
        found = self.checkpoints.common()
        with team.together():
            if found is not None:
                self.checkpoints.restore(self.state, found)
                self._check_steps(found)
                self.feed.positions.update(self.state.positions or {})
        noted = {"skipped": self.feed.skipped, "adapted": self.feed.adapted}
        if self.validation:
            noted["skipped_held_out"] = self.unusable
        self.tally = Tally(noted, team)
        self.peak = 0.0
        self._shapes: list[tuple[int, int]] = []

    def train(self, report: Report | None = None) -> list[Path]:
        """Run to the last step; returns the files of the result. Raises InputError when the run cannot go on."""
        run, state = self.run, self.state
        metrics = Metrics(self.out if self.team.first else None, run.watch, run.steps, state.step)
        dtype = getattr(torch, run.parallel.dtype)
        peak = run.watch.peak_tflops
        self.peak = peak * 1e12 if peak else measured_peak(self.team.device, dtype)
        try:
            if state.step:
                self._watch(metrics, again=True)
            while state.step < run.steps:
                record, scalars = self._step(state.step + 1)
                metrics.step(state.step, record, scalars)
                if state.step % run.save.every == 0 or state.step == run.steps:
                    self.save()
                self._watch(metrics)
                if report is not None:
                    report(state.step, run.steps, record)
            return export(run, self.network, state.ema, self.team, export_folder(run))
        finally:
            self.feed.close()
            metrics.close()

    def save(self) -> Path:
        """Write a checkpoint of the last finished step; all processes must call."""
        self.state.positions = dict(self.feed.positions)
        return self.checkpoints.save(self.state)

    def _check_steps(self, last: Path) -> None:
        if self.state.step > self.run.steps:
            raise InputError(
                f"steps is {self.run.steps}, but this run has done {self.state.step} ({last}). Set steps to "
                f"{self.state.step} or more, or choose another out for a new run; `vino train CONFIG --export` writes "
                f"what {last.name} holds to {export_folder(self.run)}."
            )

    def _numbers(self, task: str, micro: int) -> range:
        """This process's samples of one pass, by their number in the step's whole batch."""
        batch = self._batch(task)
        first = (micro * self.team.size + self.team.rank) * batch
        return range(first, first + batch)

    def _batch(self, task: str) -> int:
        return self.run.data.tasks[task].batch or self.run.data.batch

    def _prepare(self, example: Example, step: int, number: int) -> Prepared:
        run = self.run
        dropped = draw_dropped(run.data.dropout, run.seed, step, number, len(example.images))
        return prepare(example, dropped, at_drawn_area(run.data, run.seed, step, number), self.parts.system)

    def _encode(self, samples: Sequence[Prepared]) -> list[Group]:
        """The frozen half of a pass."""
        parts, device = self.parts, self.team.device
        if self.run.stage == 0:
            return encode_plain(parts.engine, parts.vae, samples, device)
        return encode_samples(parts.engine, parts.vae, parts.system, samples, device)

    def _as_many_everywhere(self, groups: list[Group]) -> list[Group]:
        """With sharded weights, which all processes gather together in each call of a block: as many groups on each.

        The ones that are added repeat the smallest and do not count.
        """
        if not self.team.sharded:
            return groups
        most = int(self.team.all_values(torch.tensor([len(groups)])).max())
        smallest = min(groups, key=lambda group: len(group.members))
        return groups + [smallest] * (most - len(groups))

    def _losses(self, samples: Sequence[Prepared], sigmas: Sequence[Tensor], purpose: str, first: int) -> Tensor:
        """Loss [B] of each sample at its noise level; the noise depends on seed, purpose and the sample's number."""
        device = self.team.device
        groups = self._encode(samples)
        wanted = len(groups)
        groups = self._as_many_everywhere(groups)
        noises, levels = [], []
        for group in groups:
            shape = group.target.shape[1:]
            drawn = [
                torch.randn(shape, generator=draws.tensors(self.run.seed, purpose, "noise", first + member))
                for member in group.members
            ]
            noises.append(torch.stack(drawn).to(device))
            levels.append(torch.stack([sigmas[member] for member in group.members]).to(device))
        noisy = [noised(group.target, noise, level) for group, noise, level in zip(groups, noises, levels, strict=True)]
        with self.team.autocast():
            velocities = self.module(groups, noisy, levels)
        losses = torch.zeros(len(samples), device=device)
        for velocity in velocities[wanted:]:
            losses = losses + 0.0 * velocity.sum()
        for group, velocity, noise in zip(groups[:wanted], velocities, noises, strict=False):
            losses = losses.index_put(
                (torch.tensor(group.members, device=device),), velocity_loss(velocity, group.target, noise)
            )
            visual = visual_tokens(self.parts.mmdit, group.references, group.target, group.conditions)
            learnable = 0 if self.network.tokens is None else self.network.tokens.shape[0]
            self._shapes += [(length + learnable, visual) for length in group.lengths]
        return losses

    def _step(self, step: int) -> tuple[dict[str, Any], dict[str, float]]:
        run, state, team = self.run, self.state, self.team
        started = time.perf_counter()
        task = task_of_step(self.weights, run.seed, step)
        passes, wide = run.parallel.accumulation, widest(team.device)
        self._shapes = []
        waited, collected, taken = 0.0, [], []
        for micro in range(passes):
            numbers = self._numbers(task, micro)
            before = time.perf_counter()
            samples = self.feed.take(task, step, numbers)
            waited += time.perf_counter() - before
            if micro == passes - 1:
                self._read_ahead(task, step)
            sigmas = [draw_sigma(run.flow, draws.tensors(run.seed, "time", step, number)) for number in numbers]
            with team.accumulating(self.module, last=micro == passes - 1):
                losses = self._losses(samples, sigmas, f"step {step}", numbers[0])
                team.backward(self.module, losses.mean() / passes)
            collected.append(losses.detach().to(wide))
            taken += [(sample.index, sample.id) for sample in samples]
        own = torch.tensor([self.tally.new(), *self._work()], dtype=wide, device=team.device)
        everything = team.all_values(torch.cat([own, *collected]))
        self._noted, everyone = self.tally.counts(bool(everything[:, 0].any())), everything[:, 3:]
        tokens, flops = everything[:, 1:3].sum(dim=0).tolist()
        self._stop_at_nan(everyone, torch.cat(collected), taken, task, step, "loss")
        if isinstance(state.optimizer, ZeroOptimizer):  # clips while it steps
            norms = {"all": state.optimizer.norm()}
        else:
            norms = clip_gradients(state.parameters, self.module_parts, run.optimizer.clip, team)
        norm = torch.tensor([norms["all"]], dtype=wide, device=team.device)
        self._stop_at_nan(norm, norm, taken, task, step, "gradient norm")
        for group in state.optimizer.param_groups:
            group["lr"] = rate(run.optimizer, step, run.steps) * group["scale"]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update()
        state.step = step
        record = {"task": task, "loss": float(everyone.mean()), "norm": norms["all"]}
        seconds = time.perf_counter() - started
        speed = {
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / (self.peak * team.size),
            "seconds_per_step": seconds,
            "seconds_waiting_for_data": waited,
        }
        return record, self._scalars(record, norms, speed)

    def _work(self) -> tuple[int, float]:
        """Tokens and operations of this process's passes in this step."""
        operations = sum(self.cost.training(text, visual) for text, visual in self._shapes)
        return sum(text + visual for text, visual in self._shapes), operations

    def _read_ahead(self, task: str, step: int) -> None:
        """Note what this step took, and begin with the next one's examples."""
        passes = self.run.parallel.accumulation
        self.feed.advance(task, passes * self.team.size * self._batch(task))
        if step < self.run.steps:
            following = task_of_step(self.weights, self.run.seed, step + 1)
            for micro in range(passes):
                self.feed.read_ahead(following, step + 1, self._numbers(following, micro))

    def _stop_at_nan(
        self, everyone: Tensor, own: Tensor, taken: Sequence[tuple[int, str]], task: str, step: int, what: str
    ) -> None:
        """Raise InputError on all processes where a number of one is not finite, naming its samples."""
        if torch.isfinite(everyone).all():
            return
        bad = taken
        if own.numel() == len(taken):
            bad = [sample for sample, value in zip(taken, own.tolist(), strict=True) if not value - value == 0]
        named = [self.feed.named(task, *sample) for sample in bad]
        named = [name for names in self.team.all_objects(named) for name in names]
        raise InputError(
            f"step {step}: the {what} is not a finite number; task {task}, {', '.join(named)}. Nothing of this step "
            f"was applied, and the same command comes to it again. {self._way_on()}"
        )

    def _way_on(self) -> str:
        """What to do where a step cannot be done."""
        return way_on(self.run, self.network.tokens is not None, self.checkpoints.last())

    def _scalars(
        self, record: Mapping[str, Any], norms: Mapping[str, float], speed: Mapping[str, float]
    ) -> dict[str, float]:
        device = self.team.device
        scalars = {
            "loss": record["loss"],
            f"loss/{record['task']}": record["loss"],
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            **{f"speed/{name}": value for name, value in speed.items()},
            **{f"data/{name}": count for name, count in self._noted.items()},
            **{f"gradient_norm/{name}": value for name, value in norms.items()},
        }
        if self.run.optimizer.kind == "muon":
            scalars["learning_rate/muon"] = self.state.optimizer.param_groups[-1]["lr"]
        if device.type == "cuda":
            scalars["memory/peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        elif sys.platform == "linux":
            import resource

            scalars["memory/peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        return scalars

    def _watch(self, metrics: Metrics, again: bool = False) -> None:
        """Validation and previews where they are due, with the averaged weights where there are any.

        `again`: only what a run that ended behind the last checkpoint did not come to.
        """
        watch, step = self.run.watch, self.state.step
        validate = bool(watch.validate) and step % watch.validate == 0 and bool(self.validation)
        preview = bool(watch.preview) and step % watch.preview == 0
        if again:
            missed = (
                validate and not metrics.validated(step),
                preview and not written(self.out / "previews", step, len(watch.previews)),
            )
            validate, preview = self.team.all_objects(missed)[0]
        if not (validate or preview):
            return
        with self._aside(), nullcontext() if self.state.ema is None else self.state.ema.applied():
            self._look(metrics, validate, preview)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What happens in the block is no part of the run: it has no dropout, and randomness of its own."""
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            with torch.random.fork_rng([self.team.device] if self.team.device.type == "cuda" else []):
                yield
        finally:
            self.team.shard_again(self.module)
            for part, mode in modes:
                part.training = mode

    def _look(self, metrics: Metrics, validate: bool, preview: bool) -> None:
        run, team, step = self.run, self.team, self.state.step
        if validate:
            found = validation_losses(run, self.validation, self._losses, self.parts.system, team, self.unusable)
            metrics.validation(step, found)
        if preview and (team.first or team.sharded):
            with team.gathered(self.module):
                tokens = self.network.tokens
                empty = torch.zeros(0, self.parts.engine.hidden_size, device=team.device)
                pipeline = Pipeline(
                    system=self.parts.system,
                    engine=self.parts.engine,
                    tokens=empty if tokens is None else tokens.detach(),
                    model=self.network.mmdit,
                    vae=self.parts.vae,
                    device=team.device,
                )
                with team.autocast():
                    for number, frames in enumerate(previews(pipeline, run.watch.previews, run.flow)):
                        if team.first:
                            metrics.frames(f"preview/{number}", frames, step)
                            write_preview(self.out / "previews", step, number, frames, self.parts.system.frame_rate)
