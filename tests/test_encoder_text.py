"""Text from the VLM: greedy text is that of a full pass per token, seeds fix sampled text, the turn's end stops it."""

from __future__ import annotations

import pytest
import torch
from paths import qwen_tokenizer
from tiny_vlm import tiny_engine, tiny_visuals
from torch import Tensor, nn

from vino_core.encoder.encode import BranchPrompt, EncodedVisual, embed_prompt, encode_branches
from vino_core.encoder.engine import IM_END, Sampling
from vino_core.encoder.next_token import NextToken
from vino_core.encoder.positions import sequence_positions
from vino_core.encoder.prompt import build_prompt
from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.encoder.understand import ask, rewrite_prompt
from vino_core.errors import InputError
from vino_core.systems import get_system

VINO = get_system("vino")
QUESTION = "What happens in Video 1?"


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return tiny_engine(seed=5)


@pytest.fixture(scope="module")
def visuals(engine: TransformersEngine) -> tuple[EncodedVisual, ...]:
    return tiny_visuals(engine, "image", "video")


@torch.no_grad()
def slow_text(engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], count: int) -> str:
    """The most likely continuation, with a full pass over everything for each token."""
    plan = build_prompt(VINO, engine, QUESTION, [visual.item for visual in visuals], understanding=True)
    x, injection = embed_prompt(engine, plan, visuals)
    last = int(plan.positions[:, -1].max())
    ids: list[int] = []
    for _ in range(count):
        extra = sequence_positions([len(ids)]) + last + 1
        behind = engine.embed(ids) if ids else x[:, :0]
        states = engine.model.model.language_model(
            inputs_embeds=torch.cat([x, behind], dim=1),
            position_ids=torch.cat([plan.positions, extra], dim=1)[:, None],
            attention_mask=torch.ones(1, x.shape[1] + len(ids), dtype=torch.int64),
            use_cache=False,
            visual_pos_masks=torch.cat([injection.mask, injection.mask.new_zeros(len(ids))])[None],
            deepstack_visual_embeds=list(injection.deepstack),
        ).last_hidden_state
        ids.append(int(engine.model.lm_head(states[0, -1]).argmax()))
    return qwen_tokenizer().decode(ids, skip_special_tokens=True).strip()


def test_greedy_text_is_that_of_a_full_pass_per_token(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]
) -> None:
    text = rewrite_prompt(engine, VINO, QUESTION, visuals, Sampling(max_new_tokens=12))
    assert text == slow_text(engine, visuals, 12)
    assert len(set(qwen_tokenizer()(text)["input_ids"])) > 3  # not one token over and over


def test_encoding_after_text_is_as_before(engine: TransformersEngine) -> None:
    branch = [BranchPrompt("a fox")]
    (before,) = encode_branches(engine, VINO, branch, ())
    ask(engine, VINO, "hello", sampling=Sampling(max_new_tokens=3))
    (after,) = encode_branches(engine, VINO, branch, ())
    assert torch.equal(before.states, after.states)


def test_asking_and_rewriting_differ_in_the_system_sentence(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    embed = engine.embed
    monkeypatch.setattr(
        engine, "embed", lambda ids: (prompts.append(qwen_tokenizer().decode(list(ids))), embed(ids))[1]
    )
    one = Sampling(max_new_tokens=1)
    ask(engine, VINO, "a fox", sampling=one)
    rewrite_prompt(engine, VINO, "a fox", sampling=one)
    asked, rewritten = prompts[0], prompts[2]
    assert "output it directly. <|im_end|>" not in asked and "output it directly. <|im_end|>" in rewritten


def test_a_seed_fixes_the_text(engine: TransformersEngine) -> None:
    def text(seed: int) -> str:
        return ask(engine, VINO, "hello", sampling=Sampling(max_new_tokens=8, temperature=1.0, top_p=0.95, seed=seed))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_the_end_of_the_turn_ends_the_text(engine: TransformersEngine) -> None:
    (fox,) = engine.tokenize(" fox")
    script = [fox, fox, engine.token_id(IM_END), fox]

    def scripted(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor(script.pop(0)), len(logits)).float()

    counts: list[int] = []
    hook = engine.model.lm_head.register_forward_hook(scripted)
    try:
        assert ask(engine, VINO, "hello", on_token=counts.append) == "fox fox"
    finally:
        hook.remove()
    assert counts == [0, 1, 2]


def test_an_empty_answer_is_an_error(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("", " \n"):
        monkeypatch.setattr(engine, "generate", lambda *_, text=nothing: text)
        with pytest.raises(InputError, match="the text encoder wrote nothing. Show it what the question is about"):
            ask(engine, VINO, "What is red?")
        with pytest.raises(InputError, match="rewritten prompt: the text encoder wrote nothing. .* or generate from y"):
            rewrite_prompt(engine, VINO, "Make it red.")


def test_text_can_be_interrupted_between_tokens(engine: TransformersEngine) -> None:
    def stop(count: int) -> None:
        if count == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ask(engine, VINO, "hello", on_token=stop)


def test_the_choice_among_candidates() -> None:
    logits = torch.tensor([1.5, 3.0, 2.9, 1.0, 2.8])
    assert NextToken(Sampling())(logits) == 1

    def chosen(**options: float) -> set[int]:
        choose = NextToken(Sampling(temperature=1.0, **options))
        return {choose(logits) for _ in range(300)}

    assert chosen(top_k=2) == {1, 2}
    assert chosen(top_p=0.5) == {1, 2}
    assert chosen(top_p=0.01) == {1}
    assert chosen() == {0, 1, 2, 3, 4}
    cold = NextToken(Sampling(temperature=0.001))
    assert {cold(logits) for _ in range(50)} == {1}


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"max_new_tokens": 0}],
)
def test_impossible_sampling_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Sampling(**options)
