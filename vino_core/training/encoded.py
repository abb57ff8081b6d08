"""Examples whose frozen half is computed before a run begins, so that text encoder and VAE need no memory during it.

Right where nothing in front of the MMDiT is trained and the examples are few, as in a small LoRA run: a step then costs
the MMDiT and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..encoder.encode import EncodedPrompt
from ..encoder.prompt import PromptPlan, TokenPlan
from ..errors import InputError
from ..media.references import References
from ..systems.base import Arrangement, System
from .conditioning import Group
from .config import Data, RunConfig
from .dropout import Dropped, draw_dropped, visible
from .example import Example, ExampleSource
from .loop import Trainer
from .parts import Parts
from .prepare import Prepared, prepare
from .team import Team

EncodeText = Callable[[Prepared], tuple[PromptPlan, Tensor]]
"""A sample's prompt and its states [1, n, width] with the learnable tokens at the end."""
EncodePixels = Callable[[Tensor], Tensor]
"""Scaled latents [1, 16, t, h, w] of frames uint8 [T, H, W, 3]."""
Progress = Callable[[int, int], None]
"""(passes done, passes in all)."""
Key = tuple[str, str, str, tuple[int, ...]]
"""Task, id, text and the references that are seen."""


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """One way in which a step can see an example: what is left of its conditions, and its latents [1, 16, t, h, w]."""

    plan: PromptPlan
    states: Tensor
    target: Tensor
    references: tuple[Tensor, ...]
    conditions: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Light:
    """An example without its pixels, or the reason why it cannot be used."""

    example: Example | None
    reason: str = ""


class LightSource:
    """The examples of one task, encoded: `ExampleSource` of what remains of them."""

    def __init__(self, name: str, examples: Sequence[Light]) -> None:
        self.name, self.examples = name, examples

    @property
    def count(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        found = self.examples[index]
        if found.example is None:
            raise InputError(found.reason)
        return found.example


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """All examples of a run, by task, and everything that its steps may ask for."""

    sources: Mapping[str, LightSource]
    samples: Mapping[Key, EncodedSample]

    @property
    def skipped(self) -> list[str]:
        """Why examples were left out."""
        return [light.reason for source in self.sources.values() for light in source.examples if light.reason]


def variants(example: Example, dropout: float) -> list[Dropped]:
    """Every way in which conditions of this example may be left out; the first leaves out nothing."""
    choices = (False, True) if dropout else (False,)
    images, videos = (choices if items else (False,) for items in (example.images, example.videos))
    return [Dropped(*each) for each in product(choices, images, videos)]


def encode_examples(
    data: Data,
    sources: Mapping[str, ExampleSource],
    system: System,
    encode_text: EncodeText,
    encode_pixels: EncodePixels,
    dtype: torch.dtype,
    progress: Progress = lambda done, total: None,
) -> EncodedExamples:
    """Read and encode everything once: first all prompts, then all pixels, so that one network is in use at a time.

    `dtype` is how prompts are kept. Examples that cannot be used are noted, as a run notes them. Raises InputError for
    an endless source, and when no example of a task can be used.
    """
    lengths = {task: source.count for task, source in sources.items()}
    endless = [task for task, length in lengths.items() if length is None]
    if endless:
        raise InputError(f"data.tasks.{endless[0]}: endless examples cannot be encoded beforehand.")
    total = 2 * sum(lengths.values())
    done = 0
    lights: dict[str, list[Light]] = {task: [] for task in sources}
    prompts: dict[Key, tuple[PromptPlan, Tensor]] = {}
    by_text: dict[str, tuple[PromptPlan, Tensor]] = {}
    for task, source in sources.items():
        for index in range(lengths[task]):
            try:
                example = source.example(index)
                if _key(example, Dropped(), system) in prompts:
                    raise InputError(f"another example is called {example.id} too; give it a name of its own.")
                for dropped in variants(example, data.dropout):
                    key, sample = _key(example, dropped, system), prepare(example, dropped, data, system)
                    alone = not (sample.references.images or sample.references.videos)
                    found = by_text.get(sample.text) if alone else None
                    if found is None:
                        plan, states = encode_text(sample)
                        found = plan, states.to("cpu", dtype)
                    if alone:
                        by_text[sample.text] = found
                    prompts[key] = found
                lights[task].append(Light(_without_pixels(example)))
            except InputError as error:
                lights[task].append(Light(None, f"{task}, example {index}: {error}"))
            done += 1
            progress(done, total)
        if all(light.example is None for light in lights[task]):
            raise InputError(f"{task}: none of {lengths[task]} examples can be used. {lights[task][0].reason}")
    samples: dict[Key, EncodedSample] = {}
    for task, source in sources.items():
        for index, light in enumerate(lights[task]):
            if light.example is not None:
                samples.update(_latents(source.example(index), data, system, encode_pixels, prompts))
            done += 1
            progress(done, total)
    return EncodedExamples({task: LightSource(task, found) for task, found in lights.items()}, samples)


def _key(example: Example, dropped: Dropped, system: System) -> Key:
    prompt = visible(example, dropped, system)
    return example.task, example.id, prompt.text, tuple(prompt.references)


def _without_pixels(example: Example) -> Example:
    nothing = torch.empty(0, dtype=torch.uint8)
    images, videos = ((nothing,) * len(items) for items in (example.images, example.videos))
    return replace(example, target=nothing, images=images, videos=videos)


def _latents(
    example: Example,
    data: Data,
    system: System,
    encode_pixels: EncodePixels,
    prompts: Mapping[Key, tuple[PromptPlan, Tensor]],
) -> Iterator[tuple[Key, EncodedSample]]:
    whole = prepare(example, Dropped(), data, system)
    target = encode_pixels(whole.target).cpu()[:, :, whole.given :]
    seen = visible(example, Dropped(), system).references
    packed = dict(zip(seen, (encode_pixels(pixels).cpu() for pixels in whole.pixels), strict=False))
    for dropped in variants(example, data.dropout):
        key = _key(example, dropped, system)
        before, after = (
            tuple(packed[index] for index in places if index in key[-1])
            for places in (whole.arrangement.leading, whole.arrangement.after)
        )
        yield key, EncodedSample(*prompts[key], target, before, after)


@dataclass(frozen=True, eq=False)
class Keyed(Prepared):
    """A sample of a step, by the key of what was encoded for it."""

    key: Key = ("", "", "", ())


class EncodedTrainer(Trainer):
    """A run on encoded examples. Nothing but LoRA is trained, and the states bring the learnable tokens along: `parts`
    has neither tokens nor networks for text and pixels."""

    def __init__(self, run: RunConfig, parts: Parts, encoded: EncodedExamples, team: Team) -> None:
        if run.lora is None or run.train:
            raise InputError("examples are encoded beforehand only where LoRA alone is trained: set lora and no train.")
        self.encoded = encoded
        super().__init__(run, parts, encoded.sources, team)

    def _prepare(self, example: Example, step: int, number: int) -> Prepared:
        chance = self.run.data.dropout
        dropped = draw_dropped(chance, self.run.seed, step, number, len(example.images))
        key = _key(example, dropped, self.parts.system)
        nothing = References(), example.target, False, Arrangement()
        return Keyed(example.id, example.task, key[2], *nothing, key=key)

    def _way_on(self) -> str:
        return "To go on, begin a new run: leave the sample out, lower learning_rate, or choose fp32 as training_dtype."

    def _encode(self, samples: Sequence[Prepared]) -> list[Group]:
        members: dict[tuple, list[tuple[int, EncodedSample]]] = {}
        for number, sample in enumerate(samples):
            found = self.encoded.samples[sample.key]
            shapes = tuple(
                tuple(latents.shape for latents in each)
                for each in ((found.target,), found.references, found.conditions)
            )
            members.setdefault((found.states.shape, shapes, found.plan.boundaries), []).append((number, found))
        return [self._group(*zip(*group, strict=True)) for group in members.values()]

    def _group(self, numbers: tuple[int, ...], samples: tuple[EncodedSample, ...]) -> Group:
        # Joining makes new tensors: those that inference mode made would be refused by the backward pass.
        def join(tensors: Iterable[Tensor]) -> Tensor:
            return torch.cat(tuple(tensors)).to(self.team.device)

        def join_each(lists: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(join(each) for each in zip(*lists, strict=True))

        return Group(
            members=numbers,
            lengths=tuple(sample.states.shape[1] for sample in samples),
            target=join(sample.target for sample in samples),
            references=join_each(sample.references for sample in samples),
            conditions=join_each(sample.conditions for sample in samples),
            # The states are those behind the tokens: nothing is appended or left out any more.
            prompt=EncodedPrompt(
                replace(samples[0].plan, tokens=TokenPlan()), join(sample.states for sample in samples), ()
            ),
        )
