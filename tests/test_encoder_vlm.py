"""The savings of the encoder give the numbers of one full pass, and are really made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from tiny_vlm import CONFIG, HIDDEN, LAYERS, tiny_engine, tiny_visuals
from torch import Tensor, nn

from vino_core.encoder import encode as encode_module
from vino_core.encoder.encode import (
    BranchPrompt,
    EncodedVisual,
    append_tokens,
    encode_branches,
    encode_visuals,
)
from vino_core.encoder.positions import appended_positions
from vino_core.encoder.prompt import build_prompt
from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.errors import InputError
from vino_core.systems import get_system

VINO = get_system("vino")
LIMIT = 5e-5
PROMPT = "Put the hat of Image 2 on the dog in Video 1."
NEGATIVE = "low quality, blurry, watermark"


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    torch.manual_seed(0)
    return tiny_engine()


@pytest.fixture(scope="module")
def visuals(engine: TransformersEngine) -> tuple[EncodedVisual, ...]:
    return tiny_visuals(engine, "image", "image", "video", "video")


def full_pass(
    engine: TransformersEngine, text: str, visuals: tuple[EncodedVisual, ...], tokens: Tensor | None = None
) -> Tensor:
    """What enters the last decoder layer when everything runs at once, with a padding mask of ones."""
    plan = build_prompt(VINO, engine, text, [visual.item for visual in visuals])
    ids = torch.tensor(plan.ids)
    pads = (ids == 151655) | (ids == 151656)
    x, positions = engine.model.get_input_embeddings()(ids), plan.positions
    deepstack = None
    if visuals:
        x[pads] = torch.cat([visual.features.embeds for visual in visuals])
        deepstack = [torch.cat([visual.features.deepstack[level] for visual in visuals]) for level in range(2)]
    if tokens is not None:
        x = torch.cat([x, tokens])
        positions = torch.cat([positions, appended_positions(positions, len(tokens))], dim=1)
        pads = torch.cat([pads, pads.new_zeros(len(tokens))])
    seen: list[Tensor] = []
    language_model = engine.model.model.language_model
    hook = language_model.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        language_model(
            inputs_embeds=x[None],
            position_ids=positions[:, None],
            attention_mask=torch.ones(1, len(x), dtype=torch.int64),
            use_cache=False,
            visual_pos_masks=pads[None] if visuals else None,
            deepstack_visual_embeds=deepstack,
        )
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("references", [(), (0,), (0, 1, 2), (0, 1, 2, 3), (1,), (2, 3)])
def test_a_shared_prefix_gives_the_numbers_of_a_full_pass(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], references: tuple[int, ...]
) -> None:
    branches = [BranchPrompt(text, references) for text in (PROMPT, NEGATIVE, "")]
    for branch, encoded in zip(branches, encode_branches(engine, VINO, branches, visuals), strict=True):
        expected = full_pass(engine, branch.text, tuple(visuals[index] for index in references))
        assert encoded.states.shape == (1, len(encoded.plan.ids), HIDDEN)
        assert (encoded.states - expected).abs().max() < LIMIT
        assert expected.std() > 0.5  # the comparison is between numbers of size 1


@pytest.mark.parametrize("references", [(), (0, 2)])
def test_learnable_tokens_behind_the_cache_give_the_numbers_and_gradients_of_a_full_pass(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], references: tuple[int, ...]
) -> None:
    chosen = tuple(visuals[index] for index in references)
    start = torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(2))
    tokens, reference = (start.clone().requires_grad_() for _ in range(2))

    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT, references)], visuals)
    states = append_tokens(engine, encoded, tokens)
    expected = full_pass(engine, PROMPT, chosen, reference)
    assert (states - expected).abs().max() < LIMIT

    (states.tanh() @ weights).square().mean().backward()
    (expected.tanh() @ weights).square().mean().backward()
    scale = reference.grad.abs().max()
    assert scale > 0
    assert (tokens.grad - reference.grad).abs().max() < 1e-4 * scale


def test_no_tokens_leave_the_states_as_they_are(engine: TransformersEngine) -> None:
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT)], ())
    assert append_tokens(engine, encoded, torch.zeros(0, HIDDEN)) is encoded.states


def test_a_branch_does_not_depend_on_its_company(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]
) -> None:
    wanted = BranchPrompt(PROMPT, (0, 1, 2))
    company = [BranchPrompt(NEGATIVE, (0, 1, 2)), BranchPrompt(NEGATIVE, (2,)), BranchPrompt(NEGATIVE)]
    (alone,) = encode_branches(engine, VINO, [wanted], visuals)
    *_, together = encode_branches(engine, VINO, [*company, wanted], visuals)
    assert torch.equal(alone.states, together.states)


def test_continuing_a_cache_leaves_it_as_it_is(engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]) -> None:
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT, (0,))], visuals)
    before = [(keys.clone(), values.clone()) for keys, values in encoded.cache]
    tokens = torch.randn(5, HIDDEN)
    first = append_tokens(engine, encoded, tokens)
    append_tokens(engine, encoded, -tokens)
    assert torch.equal(append_tokens(engine, encoded, tokens), first)
    for (keys, values), (old_keys, old_values) in zip(encoded.cache, before, strict=True):
        assert torch.equal(keys, old_keys) and torch.equal(values, old_values)


@pytest.fixture
def calls(engine: TransformersEngine) -> Iterator[Counter[str]]:
    """How often each part of the model runs."""
    count: Counter[str] = Counter()
    language_model = engine.model.model.language_model
    parts: dict[str, nn.Module] = {f"layer {index}": layer for index, layer in enumerate(language_model.layers)}
    parts |= {"norm": language_model.norm, "lm_head": engine.model.lm_head, "vision": engine.model.model.visual}

    def counting(name: str) -> nn.Module:
        return parts[name].register_forward_hook(lambda *_: count.update([name]))

    hooks = [counting(name) for name in parts]
    yield count
    for hook in hooks:
        hook.remove()


def prepared_references() -> SimpleNamespace:
    """Two prepared images and a video of random pixels."""
    generator = torch.Generator().manual_seed(3)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)

    images = (SimpleNamespace(pixels=pixels(64, 96)), SimpleNamespace(pixels=pixels(80, 48)))
    return SimpleNamespace(images=images, videos=(SimpleNamespace(vlm_frames=pixels(8, 48, 64)),))


def test_each_part_runs_as_rarely_as_possible(engine: TransformersEngine, calls: Counter[str]) -> None:
    visuals = encode_visuals(engine, prepared_references(), VINO.vision)
    assert [visual.item.kind for visual in visuals] == ["image", "image", "video"]
    branches = [BranchPrompt(PROMPT, (0, 1, 2)), BranchPrompt(NEGATIVE, (0, 1, 2)), BranchPrompt(NEGATIVE, (2,))]
    for encoded in encode_branches(engine, VINO, branches, visuals):
        append_tokens(engine, encoded, torch.zeros(3, HIDDEN))
    # Three visual inputs; two distinct prefixes, three texts, three continuations; the last layer never.
    assert calls == {"vision": 3} | {f"layer {index}": 2 + 3 + 3 for index in range(LAYERS - 1)}


def test_the_prefix_is_not_run_again_for_a_second_text(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    decode = engine.decode
    monkeypatch.setattr(
        engine, "decode", lambda x, *rest, **more: (lengths.append(x.shape[1]), decode(x, *rest, **more))[1]
    )
    first, second = encode_branches(
        engine, VINO, [BranchPrompt(PROMPT, (0, 2)), BranchPrompt(NEGATIVE, (0, 2))], visuals
    )
    prefix = first.plan.prefix_length
    assert lengths == [prefix, len(first.plan.ids) - prefix, len(second.plan.ids) - prefix]


def test_without_padding_there_is_no_mask(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = nn.functional.scaled_dot_product_attention
    seen: list[tuple[int, int, bool, bool]] = []

    def spy(query: Tensor, key: Tensor, *rest: Tensor, attn_mask: Tensor | None = None, **options: object) -> Tensor:
        seen.append((query.shape[2], key.shape[2], attn_mask is None, bool(options.get("is_causal"))))
        return attention(query, key, *rest, attn_mask=attn_mask, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT, (0, 1, 2))], visuals)
    encode_branches(engine, VINO, [BranchPrompt(PROMPT)], ())
    prefills = [entry for entry in seen if entry[0] == entry[1]]
    assert len(prefills) == 2 * (LAYERS - 1)
    assert all(no_mask and causal for _, _, no_mask, causal in prefills)
    # A continuation of several tokens needs one, of its own rows only.
    assert {entry[:2] for entry in seen if entry not in prefills} == {
        (len(encoded.plan.ids) - encoded.plan.prefix_length, len(encoded.plan.ids))
    }


def test_visual_features_reach_the_states(engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]) -> None:
    (one,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT, (0,))], visuals)
    features = visuals[0].features
    for changed in (
        EncodedVisual(visuals[0].item, type(features)(features.embeds + 1, features.deepstack)),
        EncodedVisual(
            visuals[0].item, type(features)(features.embeds, (features.deepstack[0], -features.deepstack[1]))
        ),
    ):
        (other,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT, (0,))], (changed,))
        assert (one.states - other.states).abs().max() > 0.1


def test_a_very_long_prompt_is_encoded(engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]) -> None:
    text = ("Ein Satz über 狐狸. " * 2000)[:20_000]
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(text, (0,))], visuals)
    assert encoded.states.shape[1] == len(encoded.plan.ids) > 5000
    assert encoded.states.isfinite().all()


def test_tokens_of_another_width_are_refused(engine: TransformersEngine) -> None:
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt(PROMPT)], ())
    with pytest.raises(InputError, match=rf"shape \(3, 10\).*{HIDDEN}"):
        append_tokens(engine, encoded, torch.zeros(3, 10))


def test_the_vision_tower_gets_images_first(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("image_patches", "video_patches"):
        original = getattr(encode_module, name)
        monkeypatch.setattr(
            encode_module, name, lambda *args, name=name, original=original: (order.append(name), original(*args))[1]
        )
    encode_visuals(engine, prepared_references(), VINO.vision)
    assert order == ["image_patches", "image_patches", "video_patches"]


def test_the_config_of_the_test_is_used(engine: TransformersEngine) -> None:
    rotary = engine.model.model.language_model.rotary_emb
    theta = CONFIG["text_config"]["rope_theta"]
    expected = 1 / theta ** (torch.arange(0, 16, 2) / 16)
    assert torch.allclose(rotary.inv_freq, expected)
    assert list(rotary.mrope_section) == CONFIG["text_config"]["rope_scaling"]["mrope_section"]
