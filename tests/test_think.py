"""Thinking mode: two texts about pictures that are encoded once, what reaches each of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from paths import qwen_tokenizer
from tiny_vogue_vlm import tiny_engine, tiny_visuals

from vino_core.encoder.encode import EncodedVisual
from vino_core.encoder.engine import Sampling
from vino_core.encoder.think import Thought, think
from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.encoder.understand import rewrite_prompt, usual_sampling
from vino_core.errors import InputError
from vino_core.systems import SYSTEMS, THINKING, check_thinking, get_system, get_thinking

VOGUE = get_system("vogue")
SHORT = Sampling(max_new_tokens=6, repetition_penalty=1.05)
KINDS = [(system.name, kind) for system in SYSTEMS.values() for kind in system.thinking or ()]


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return tiny_engine()


@pytest.fixture(scope="module")
def picture(engine: TransformersEngine) -> tuple[EncodedVisual, ...]:
    return tiny_visuals(engine, "image")


class Script:
    """Stands in for an engine's `generate`: gives the answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, *arguments: object) -> str:
        self.asked.append(arguments)
        return self.answers.pop(0)

    @property
    def prompts(self) -> list[str]:
        return [qwen_tokenizer().decode(arguments[5]) for arguments in self.asked]


@pytest.fixture
def script(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Script]]:
    def scripted(*answers: str) -> Script:
        made = Script(*answers)
        monkeypatch.setattr(engine, "generate", made)
        return made

    yield scripted


def test_every_system_with_thinking_mode_has_both_kinds() -> None:
    assert KINDS == [(name, kind) for name in ("vogue", "vogue-tiny") for kind in ("annotated", "canvas")]
    assert THINKING == ("annotated", "canvas")


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_requests_have_their_places(name: str, kind: str) -> None:
    system = get_system(name)
    thinking = get_thinking(system, kind)
    assert thinking.task == {"annotated": "i2v", "canvas": "multiid"}[kind] and thinking.task in system.presets
    assert thinking.plan.count("{words}") == thinking.prompt.count("{words}") == 1
    assert thinking.plan.count("{plan}") == 0 and thinking.prompt.count("{plan}") == 1
    assert thinking.plan.format(words="W").count("{") == thinking.prompt.format(words="W", plan="P").count("{") == 0


@pytest.mark.parametrize("kind", ["annotated", "canvas"])
def test_the_longest_plan_leaves_room_for_the_users_words(kind: str) -> None:
    request = get_thinking(VOGUE, kind).prompt.format(words="", plan="")
    tokens = len(qwen_tokenizer()(request)["input_ids"])
    assert tokens + usual_sampling(VOGUE).max_new_tokens + 300 <= VOGUE.prompt.max_text_tokens


def test_the_plan_comes_first_and_is_shown_to_the_second_request(
    engine: TransformersEngine,
    picture: tuple[EncodedVisual, ...],
    script: Callable[..., Script],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "vision", lambda *arguments: pytest.fail("a picture is encoded a second time"))
    written = script("1. The dog {runs}.", "A dog runs.")
    counts: list[int] = []
    thought = think(engine, VOGUE, "annotated", " The {arrow} is fast. ", picture, SHORT, counts.append)
    assert thought == Thought("1. The dog {runs}.", "A dog runs.")

    plan, prompt = written.prompts
    pads = picture[0].features.embeds.shape[0]
    for text in (plan, prompt):
        assert text.startswith(f"<|im_start|>system\n{VOGUE.prompt.system}<|im_end|>")
        assert text.count("<|image_pad|>") == pads
        assert 'What the user says about it: "The {arrow} is fast."' in text
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "{runs}" not in plan and "read from the picture:\n\n1. The dog {runs}.\n\n" in prompt
    assert "vanish" in prompt
    for x, positions, _, sampling, report, ids in written.asked:
        assert x.shape[1] == positions.shape[1] == len(ids) and sampling == SHORT
        (start,) = (
            index for index, token in enumerate(ids[:60]) if qwen_tokenizer().decode(token) == "<|vision_start|>"
        )
        assert torch.equal(x[0, start + 1 : start + 1 + pads], picture[0].features.embeds)
        report(2)
    assert counts == [2, 2 + SHORT.max_new_tokens]


def test_without_words_nothing_is_said_about_the_user(
    engine: TransformersEngine, picture: tuple[EncodedVisual, ...], script: Callable[..., Script]
) -> None:
    for text in ("", "  \n"):
        written = script("a plan", "a prompt")
        think(engine, VOGUE, "canvas", text, picture)
        assert all("What the user says" not in prompt for prompt in written.prompts)
        assert {arguments[3] for arguments in written.asked} == {usual_sampling(VOGUE)}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_texts_are_those_of_the_two_requests(
    engine: TransformersEngine, picture: tuple[EncodedVisual, ...], name: str, kind: str
) -> None:
    """With a network that writes for itself."""
    system = get_system(name)
    counts: list[int] = []
    with torch.inference_mode():
        thought = think(engine, system, kind, "", picture, SHORT, counts.append)
        thinking = get_thinking(system, kind)
        plan = rewrite_prompt(engine, system, thinking.plan.format(words=""), picture, SHORT)
        request = thinking.prompt.format(words="", plan=plan)
        assert thought == Thought(plan, rewrite_prompt(engine, system, request, picture, SHORT))
    assert counts == [*range(6), *range(6, 12)]
    assert thought.plan and thought.plan != thought.prompt


def test_thinking_can_be_interrupted_in_either_text(
    engine: TransformersEngine, picture: tuple[EncodedVisual, ...]
) -> None:
    for last in (3, 9):

        def stop(count: int, last: int = last) -> None:
            if count == last:
                raise InterruptedError

        with pytest.raises(InterruptedError), torch.inference_mode():
            think(engine, VOGUE, "annotated", "", picture, SHORT, stop)


@pytest.mark.parametrize(
    ("answers", "name"), [(("",), "plan"), (("a plan", " \n"), "prompt")], ids=["no plan", "no prompt"]
)
def test_an_empty_answer_is_an_error(
    engine: TransformersEngine,
    picture: tuple[EncodedVisual, ...],
    script: Callable[..., Script],
    answers: tuple[str, ...],
    name: str,
) -> None:
    script(*answers)
    with pytest.raises(InputError, match=rf"wrote nothing where the {name} should be\. Say in the prompt"):
        think(engine, VOGUE, "annotated", "", picture)


def test_what_would_be_cut_is_refused(
    engine: TransformersEngine, picture: tuple[EncodedVisual, ...], script: Callable[..., Script]
) -> None:
    script("a plan " * 900)
    with pytest.raises(InputError, match=r"request for the prompt has \d{4} tokens .*vogue reads 2048\. Shorten"):
        think(engine, VOGUE, "annotated", "", picture)
    with pytest.raises(InputError, match=r"request for the plan has \d{4} tokens"):
        think(engine, VOGUE, "annotated", "word " * 2000, picture)


@pytest.mark.parametrize(
    ("system", "kind", "kinds", "message"),
    [
        ("vino", "annotated", ("image",), "thinking: vino has no thinking mode; vogue and vogue-tiny have"),
        ("vino-tiny", "canvas", ("image",), "thinking: vino-tiny has no thinking mode"),
        ("vogue", "diagram", ("image",), "'diagram' is unknown to vogue. Known: annotated, canvas"),
        ("vogue", "annotated", (), r"'i2v' takes 1 picture\(s\) and 0 video\(s\), not 0 and 0"),
        ("vogue", "annotated", ("image", "image"), r"'i2v' takes 1 picture\(s\).*not 2 and 0"),
        (
            "vogue",
            "canvas",
            ("image", "video"),
            r"'multiid' takes 1 to 16 picture\(s\) and 0 video\(s\), not 1 and 1",
        ),
        ("vogue", "canvas", ("video",), r"'multiid' takes 1 to 16 picture\(s\).*not 0 and 1"),
    ],
)
def test_what_cannot_be_thought_about_is_refused_before_anything_is_written(
    engine: TransformersEngine,
    script: Callable[..., Script],
    system: str,
    kind: str,
    kinds: tuple[str, ...],
    message: str,
) -> None:
    script()
    with pytest.raises(InputError, match=message):
        think(engine, get_system(system), kind, "", tiny_visuals(engine, *kinds))


def test_text_that_is_none_is_refused(engine: TransformersEngine, picture: tuple[EncodedVisual, ...]) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        think(engine, VOGUE, "canvas", "\ud800", picture)


def test_a_kind_runs_as_its_own_task_only() -> None:
    check_thinking(VOGUE, "canvas", "multiid", "")
    with pytest.raises(InputError, match="kind 'canvas' runs as the task multiid, not as i2v. Choose multiid there."):
        check_thinking(VOGUE, "canvas", "i2v", "Choose {} there.")
