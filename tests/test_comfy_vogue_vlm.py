"""ComfyUI's native Qwen2.5-VL computes VOGUE's reference numbers, through the same core as the transformers engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import VOGUE_TEXT_ENCODER, vogue_text_encoder
from safetensors.torch import save_file
from vogue_files import VOGUE_GOLDENS

from parity_groups import mllm

LATER = {r"^model\.": "model.language_model.", r"^visual\.": "model.visual."}
"""Names of files that transformers 4.52 and later wrote."""


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


def load(path: Path) -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(path))


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / Path(VOGUE_TEXT_ENCODER).name
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="module")
def clip(encoder_file: Path) -> Any:
    return load(encoder_file)


@pytest.fixture
def engine(clip: Any) -> Iterator[Any]:
    with torch.inference_mode(), ExitStack() as stack:
        yield stack.enter_context(pack("nodes.comfy.vlm").open_engine(clip, 2048))


def test_native_engine_agrees_with_reference(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """States of every case, both variants, and what it answers."""
    _, queries, index = mllm.reference_state(VOGUE_GOLDENS)
    engine.model = SimpleNamespace(lm_head=lambda state: engine.logits(state[None, None])[0, 0])
    monkeypatch.setattr(mllm, "reference_engine", lambda folder: (engine, queries, index))
    rows = list(mllm.check(VOGUE_GOLDENS))
    assert {"hidden_img1_vid2", "queries_vid8", "hidden_generation"} <= {row.case for row in rows}
    assert [row for row in rows if not row.ok] == []


def test_a_stock_text_encoder_is_vogues(clip: Any) -> None:
    """Whoever loaded it: what the network is decides where no file named a system."""
    clip_system = pack("nodes.comfy.systems").clip_system
    assert clip_system(clip).name == clip_system(clip.clone()).name == "vogue"
    stock = SimpleNamespace(cond_stage_model=clip.cond_stage_model, tokenizer=SimpleNamespace())
    assert clip_system(stock).name == "vogue"


def test_load_clip_of_comfyui_gives_the_same_network(tmp_path: Path) -> None:
    """What Load CLIP builds for Qwen2.5-VL-7B is of the family, and so are the arguments that ours builds it with."""
    pack("nodes.comfy.families")
    from comfy.text_encoders import qwen_image

    families = pack("nodes.comfy.families")
    with torch.device("meta"):
        stock = qwen_image.te()(device="meta", dtype=torch.bfloat16)
    network = families.transformer_of(SimpleNamespace(cond_stage_model=stock))
    family = families.family_of(network)
    assert family.title == "Qwen2.5-VL-7B-Instruct" and family.clip_type == "qwen_image"
    weights = {name: value for name, value in network.state_dict().items()}
    assert family is families.family_in(weights)
    sizes = family.read(weights, {}, {})
    config = network.model.config
    assert sizes.text == {
        name: getattr(config, name) if name != "lm_head" else False for name in sizes.text
    } and sizes.text_fields == {"head_dim": config.head_dim, "rope_dims": config.rope_dims}
    import comfy.ops

    with torch.device("meta"):
        built = family.build(sizes, {}, torch.bfloat16, "meta", comfy.ops.manual_cast)
    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert built.visual.fullatt_block_indexes == network.visual.fullatt_block_indexes


def test_files_of_both_generations_load(engine: Any, tmp_path: Path) -> None:
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    renamed = {}
    for name, value in tensors.items():
        for pattern, new in LATER.items():
            if re.match(pattern, name):
                name = re.sub(pattern, new, name)
                break
        renamed[name] = value
    save_file(renamed, tmp_path / "later.safetensors", metadata)
    x = torch.randn(1, 9, engine.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 9)
    with pack("nodes.comfy.vlm").open_engine(load(tmp_path / "later.safetensors"), 16) as other:
        assert torch.equal(other.decode(x, positions)[0], engine.decode(x, positions)[0])


def test_an_incomplete_file_is_an_error(tmp_path: Path) -> None:
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    del tensors["visual.blocks.1.attn.qkv.bias"]
    save_file(tensors, tmp_path / "te.safetensors", metadata)
    with pytest.raises(error(), match=r"1 weights are missing, visual\.blocks.*download Qwen2.5-VL-7B-Instruct again"):
        load(tmp_path / "te.safetensors")


def stock(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What core's own Load CLIP makes of the file. It knows the published size only: that alone is exchanged."""
    families = pack("nodes.comfy.families")
    import comfy.sd
    import comfy.text_encoders.llama

    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    family, sizes = pack("nodes.comfy.text_encoder").read_sizes(tensors, metadata, "")
    monkeypatch.setattr(comfy.sd, "detect_te_model", lambda weights: comfy.sd.TEModel.QWEN25_7B)
    monkeypatch.setattr(comfy.text_encoders.llama, "Qwen25_7BVLI", families.builder(family, sizes))
    made = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.QWEN_IMAGE)
    assert not hasattr(families.transformer_of(made).model, "lm_head")
    return made


def answer(clip: Any) -> tuple[list[int], torch.Tensor]:
    """Twelve ids behind a fixed prompt, and the first one's logits."""
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(9).expand(3, 9)
    sampling = pack("vino_core.encoder.engine").Sampling(12)
    with torch.inference_mode(), pack("nodes.comfy.vlm").open_engine(clip, 32) as engine:
        ids = engine.generate_ids(x, positions, sampling=sampling)
        return ids, engine.logits(engine.decode(x, positions)[0])


@pytest.mark.parametrize("cloned", [False, True])
def test_a_text_encoder_of_load_clip_writes_the_same_text(
    clip: Any, encoder_file: Path, monkeypatch: pytest.MonkeyPatch, cloned: bool
) -> None:
    """Core leaves the head out; it is read from the file, which the CLIP knows. The embedding would write noise."""
    other = stock(encoder_file, monkeypatch)
    (ids, logits), (wanted, first) = answer(other.clone() if cloned else other), answer(clip)
    assert ids == wanted and len(set(ids)) > 1
    assert torch.equal(logits, first)


def without_head(folder: Path, **instead: torch.Tensor) -> Path:
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    del tensors["lm_head.weight"]
    save_file(
        tensors | {name.replace("__", "."): value for name, value in instead.items()},
        folder / "te.safetensors",
        metadata,
    )
    return folder / "te.safetensors"


def test_without_any_head_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditioning works all the same."""
    path = without_head(tmp_path)
    x, positions = torch.zeros(1, 3, 64), torch.arange(3).expand(3, 3)
    vlm = pack("nodes.comfy.vlm")
    unknown = load(path)
    unknown.patcher.cached_patcher_init = None
    named = rf"'{re.escape(str(path))}' holds Qwen2\.5-VL-7B-Instruct without the layer that writes text"
    what_to_do = r"Load it with VINO Text Encoder Loader, from a file that holds lm_head\.weight: Qwen's own"
    for made, reason in (
        (stock(path, monkeypatch), named),
        (load(path), named),
        (
            unknown,
            r"without the layer that writes text \(lm_head\.weight\), by a node that does not tell from which file",
        ),
    ):
        with torch.inference_mode(), vlm.open_engine(made, 16) as engine:
            assert torch.isfinite(engine.decode(x, positions)[0]).all()
            with pytest.raises(error(), match=rf"clip: .*{reason}.*{what_to_do}"):
                engine.generate(x, positions)


def test_of_a_tied_file_the_embedding_is_the_head(tmp_path: Path) -> None:
    """As of vogue-tiny, which leaves the head out to be small."""
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    tied = json.dumps({**json.loads(metadata["config"]), "tie_word_embeddings": True})
    embedding = tensors["model.embed_tokens.weight"]
    made = {}
    for name, head, config in (
        ("whole", {"lm_head.weight": embedding.clone()}, metadata["config"]),
        ("tied", {}, tied),
    ):
        weights = {key: value for key, value in tensors.items() if key != "lm_head.weight"} | head
        save_file(weights, tmp_path / f"{name}.safetensors", {**metadata, "config": config})
        made[name] = answer(load(tmp_path / f"{name}.safetensors"))
    (ids, logits), (wanted, first) = made["tied"], made["whole"]
    assert ids == wanted and first.abs().max() > 0.1
    # ComfyUI keeps a head that is a weight of its own in the model's precision.
    torch.testing.assert_close(logits, first, atol=0.01 * float(first.abs().max()), rtol=0)


def test_a_head_that_cannot_be_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = without_head(tmp_path, lm_head__weight=torch.zeros(4, 64, dtype=torch.float8_e4m3fn))
    with pytest.raises(error(), match=r"lm_head\.weight\) as float8_e4m3fn \[4, 64\].*Load it with VINO Text"):
        answer(stock(path, monkeypatch))


def test_a_scaled_fp8_file_stays_near(engine: Any, tmp_path: Path) -> None:
    """As ComfyUI's users have Qwen2.5-VL: matrices of the decoder in fp8 with a scale each."""
    tensors, metadata = vogue_text_encoder(VOGUE_GOLDENS)
    small: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, value in tensors.items():
        small[name] = value
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            scale = value.abs().max() / 448
            small[name] = (value / scale).to(torch.float8_e4m3fn)
            small[f"{name.removesuffix('.weight')}.scale_weight"] = scale.reshape(1)
    save_file(small, tmp_path / "fp8.safetensors", metadata)
    x = torch.randn(1, 9, engine.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 9)
    with pack("nodes.comfy.vlm").open_engine(load(tmp_path / "fp8.safetensors"), 16) as other:
        difference = other.decode(x, positions)[0] - engine.decode(x, positions)[0]
    assert 0 < difference.abs().mean() < 0.1
