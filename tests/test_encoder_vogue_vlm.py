"""VOGUE's text encoder: shared prefixes and queries equal one full pass, and files of both generations load whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from paths import ROOT, qwen_tokenizer, small_tokenizer
from safetensors.torch import load_file, save_file
from tiny_vogue_vlm import CONFIG, HIDDEN, older_names, random_state, tiny_engine, tiny_visuals
from torch import Tensor

from vino_core.encoder.encode import (
    BranchPrompt,
    EncodedPrompt,
    EncodedVisual,
    append_tokens,
    appended_padding,
    embed_prompt,
    embed_prompts,
    encode_branches,
    encode_visuals,
)
from vino_core.encoder.engine import Sampling
from vino_core.encoder.families import FAMILIES
from vino_core.encoder.next_token import NextToken
from vino_core.encoder.prompt import build_prompt
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state, load_engine
from vino_core.encoder.understand import ask, usual_sampling
from vino_core.errors import InputError
from vino_core.mmdit.batch import padding_of
from vino_core.systems import get_system

VOGUE = get_system("vogue")
QUERIES = VOGUE.for_tokens(torch.zeros(3, HIDDEN))
LIMIT = 5e-5
NUMBER = 4


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return tiny_engine()


@pytest.fixture(scope="module")
def visuals(engine: TransformersEngine) -> tuple[EncodedVisual, ...]:
    return tiny_visuals(engine, "image", "image", "video")


def queries() -> Tensor:
    """Begin, NUMBER queries, end."""
    return torch.randn(NUMBER + 2, HIDDEN, generator=torch.Generator().manual_seed(1))


def full_pass(
    engine: TransformersEngine, text: str, visuals: tuple[EncodedVisual, ...], tokens: Tensor
) -> tuple[Tensor, int]:
    """States of prompt, begin, queries, end and the turn's end in one pass without a cache; the prompt's length."""
    plan = build_prompt(QUERIES, engine, text, [visual.item for visual in visuals])
    x, _ = embed_prompt(engine, plan, visuals)
    x = torch.cat([x, tokens[None], engine.embed([151645])], dim=1)
    behind = plan.positions.max() + 1 + torch.arange(len(tokens) + 1).expand(3, -1)
    output = engine.model.model.language_model(
        inputs_embeds=x,
        position_ids=torch.cat([plan.positions, behind], dim=1)[:, None],
        attention_mask=torch.ones(1, x.shape[1], dtype=torch.int64),
        use_cache=False,
    )
    return output.last_hidden_state, len(plan.ids)


@pytest.mark.parametrize("references", [(), (0,), (0, 1, 2)])
def test_queries_behind_a_shared_prefix_give_the_numbers_and_gradients_of_a_full_pass(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], references: tuple[int, ...]
) -> None:
    chosen = tuple(visuals[index] for index in references)
    branches = [BranchPrompt("Make it blue.", references), BranchPrompt("ugly", references)]
    for branch, encoded in zip(branches, encode_branches(engine, QUERIES, branches, visuals), strict=True):
        tokens, reference = queries().requires_grad_(), queries().requires_grad_()
        states = append_tokens(engine, encoded, tokens)
        full, length = full_pass(engine, branch.text, chosen, reference)
        begin = length + 1
        kept = full[:, encoded.plan.tokens.kept_from : length]
        expected = torch.cat([kept, full[:, begin + NUMBER + 1 :], full[:, begin : begin + NUMBER]], dim=1)
        assert states.shape == expected.shape
        assert (states - expected).abs().max() < LIMIT
        assert expected.std() > 0.5

        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
        (states * weights).sum().backward()
        (expected * weights).sum().backward()
        scale = reference.grad.abs().max()
        assert (tokens.grad - reference.grad).abs().max() < 1e-4 * scale
        assert (reference.grad[[0, -1]].abs().amax(dim=1) > 0).all()  # both marks are seen by what follows them


def test_the_hidden_variant_gives_all_states_behind_the_head(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]
) -> None:
    (encoded,) = encode_branches(engine, VOGUE, [BranchPrompt("Make it blue.", (0, 2))], visuals)
    for none in (None, torch.zeros(0, HIDDEN)):
        assert torch.equal(append_tokens(engine, encoded, none), encoded.states[:, 33:])


def test_a_vision_tower_sees_through_windows_and_a_clip_as_one(engine: TransformersEngine) -> None:
    patches = torch.randn(2 * 20 * 20, 1176)
    changed = patches.clone()
    changed[0] += 1
    one, other = (engine.vision(values, (2, 20, 20)).embeds for values in (patches, changed))
    assert one.shape == (2 * 10 * 10, HIDDEN)
    # The last block attends to a whole frame, but to no other one.
    assert ((one - other).abs().amax(dim=1) > 0).nonzero().max() < 100


def test_samples_of_other_lengths_in_one_batch_keep_their_numbers(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...]
) -> None:
    texts, seen, tokens = ["Make it blue and then much larger.", "Blue."], visuals[:1], queries()
    items = [visual.item for visual in seen]
    plans = [build_prompt(QUERIES, engine, text, items) for text in texts]
    lengths = [len(plan.ids) for plan in plans]
    x, injection = embed_prompts(engine, plans, [seen, seen])
    states, cache = engine.decode(x, plans[0].positions, injection)
    batch = EncodedPrompt(plans[0], states, cache, padding_of(lengths, states.device))
    together, padding = append_tokens(engine, batch, tokens), appended_padding(batch, tokens)
    assert padding.shape == together.shape[:2]
    for number, text in enumerate(texts):
        (alone,) = encode_branches(engine, QUERIES, [BranchPrompt(text, (0,))], seen)
        assert appended_padding(alone, tokens) is None
        expected = append_tokens(engine, alone, tokens)
        assert (together[number][~padding[number]] - expected[0]).abs().max() < LIMIT
    assert padding.sum() == lengths[0] - lengths[1]


@pytest.mark.parametrize("shape", [(2, HIDDEN), (5, HIDDEN + 1), (HIDDEN,)])
def test_queries_that_do_not_fit_are_refused(engine: TransformersEngine, shape: tuple[int, ...]) -> None:
    (encoded,) = encode_branches(engine, QUERIES, [BranchPrompt("a fox")], ())
    with pytest.raises(InputError, match=rf"takes \[more than 2, {HIDDEN}\]"):
        append_tokens(engine, encoded, torch.zeros(shape))


def test_understanding_sees_every_frame_and_generation_a_few(engine: TransformersEngine) -> None:
    clip = SimpleNamespace(
        frames=torch.zeros(5, 448, 448, 3, dtype=torch.uint8), vlm_frames=torch.zeros(2, 448, 448, 3, dtype=torch.uint8)
    )
    references = SimpleNamespace(images=(), videos=(clip,))
    (few,) = encode_visuals(engine, references, VOGUE.vision)
    (all_,) = encode_visuals(engine, references, VOGUE.vision, understanding=True)
    assert (few.item.grid, all_.item.grid) == ((1, 32, 32), (3, 32, 32))


def test_an_answer_is_written_with_the_usual_sampling(
    engine: TransformersEngine, visuals: tuple[EncodedVisual, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usual_sampling(VOGUE) == Sampling(max_new_tokens=1000, repetition_penalty=1.05)
    assert usual_sampling(get_system("vino")) == Sampling()
    seen = []
    monkeypatch.setattr(engine, "generate", lambda *arguments: seen.append(arguments) or "an answer")
    assert ask(engine, QUERIES, "What is this?", visuals[:1]) == "an answer"
    ((x, positions, _, sampling, _, prompt),) = seen
    assert sampling == usual_sampling(VOGUE)
    assert x.shape[1] == positions.shape[1] == len(prompt)
    assert qwen_tokenizer().decode(prompt).endswith("What is this?<|im_end|>\n<|im_start|>assistant\n")


def test_the_penalty_weakens_what_was_used_whatever_its_sign() -> None:
    logits = torch.tensor([2.0, 1.95, -1.0, -1.01])
    assert NextToken(Sampling())(logits) == 0
    assert NextToken(Sampling(repetition_penalty=1.05), prompt=[0])(logits) == 1
    choose = NextToken(Sampling(repetition_penalty=1.05))
    assert [choose(logits) for _ in range(3)] == [0, 1, 0]  # each counts once, however often it was used
    assert NextToken(Sampling(repetition_penalty=1.05), prompt=[2])(logits[2:].repeat_interleave(2)[:3] - 1) == 0
    negative = torch.tensor([-1.0, -1.01])
    assert NextToken(Sampling(repetition_penalty=1.05), prompt=[0])(negative) == 1
    with pytest.raises(InputError, match=r"repetition_penalty is 0.5"):
        Sampling(repetition_penalty=0.5)


def difference(loaded: TransformersEngine, made: TransformersEngine) -> float:
    """The largest one between two engines' states, features and next tokens (where a file's weights lie in memory
    decides how sums are rounded)."""
    grid = (1, 8, 20)
    patches = torch.randn(160, 1176, generator=torch.Generator().manual_seed(0))
    text = [BranchPrompt("A fox jumps over a river.")]
    (one,), (other,) = (encode_branches(each, VOGUE, text, ()) for each in (loaded, made))
    features, wanted = (each.vision(patches, grid).embeds for each in (loaded, made))
    heads = [each.model.lm_head(one.states[0, -1]) for each in (loaded, made)]
    pairs = ((one.states, other.states), (features, wanted), heads)
    return max((left - right).abs().max().item() for left, right in pairs)


@pytest.fixture(scope="module")
def made(state: dict[str, Tensor]) -> TransformersEngine:
    """What the files hold, with the tokenizer that lies beside them."""
    return engine_from_state(CONFIG, state, small_tokenizer())


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("where", ["file", "beside", "folder"])
def test_files_of_both_generations_load(
    made: TransformersEngine, state: dict[str, Tensor], tmp_path: Path, older: bool, where: str
) -> None:
    named = older_names(state) if older else state
    assert ("visual.blocks.0.norm1.weight" in named) == ("model.norm.weight" in named) == older
    if where == "file":
        small_tokenizer().save_pretrained(tmp_path / "tokenizer")
        tokenizer = (tmp_path / "tokenizer" / "tokenizer.json").read_text()
        path, metadata = tmp_path / "text.safetensors", {"config": json.dumps(CONFIG), "tokenizer": tokenizer}
    else:
        small_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
        path, metadata = tmp_path / "model.safetensors", {"format": "pt"}
    save_file(named, path, metadata)
    loaded = load_engine(tmp_path if where == "folder" else path, dtype=torch.float32)
    assert difference(loaded, made) < 1e-5
    assert loaded.hidden_size == HIDDEN


def test_a_file_in_bfloat16_keeps_its_frequencies_in_float32(state: dict[str, Tensor], tmp_path: Path) -> None:
    small_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({name: value.bfloat16() for name, value in state.items()}, tmp_path / "text.safetensors")
    loaded = load_engine(tmp_path / "text.safetensors")
    assert loaded.dtype == torch.bfloat16
    frequencies = [buffer for name, buffer in loaded.model.named_buffers() if "inv_freq" in name]
    assert len(frequencies) >= 2
    assert all(buffer.dtype == torch.float32 and buffer.device.type == "cpu" for buffer in frequencies)


def test_a_file_without_config_and_tokenizer_says_what_to_do(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({"visual.merger.ln_q.weight": state["model.visual.merger.ln_q.weight"]}, tmp_path / "text.safetensors")
    with pytest.raises(InputError, match="no config and no tokenizer.*Qwen2.5-VL-7B-Instruct"):
        load_engine(tmp_path / "text.safetensors")


def test_incomplete_weights_are_refused_in_either_generation(state: dict[str, Tensor], tmp_path: Path) -> None:
    small_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    named = older_names(state)
    del named["visual.merger.ln_q.weight"]
    save_file(named, tmp_path / "text.safetensors")
    assert "visual.merger.ln_q.weight" not in load_file(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match="1 missing .*merger.ln_q.weight.*Qwen2.5-VL-7B-Instruct"):
        load_engine(tmp_path / "text.safetensors")


def test_the_published_names_and_shapes_are_those_of_the_model() -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    published = json.loads((ROOT / "tests" / "goldens" / "vogue" / "manifest_full.json").read_text())["mllm_hidden"]
    family = FAMILIES["qwen2_5_vl"]
    names = {family.today(name.removeprefix("mllm_backbone.")): tuple(shape) for name, shape in published.items()}
    sizes = {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    config = {key: value for key, value in {**CONFIG, **sizes}.items() if key != "model_type"}
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(**{**config, "vision_config": {**CONFIG["vision_config"], **vision}})
        )
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == names
