"""ComfyUI's native Qwen3-VL computes the same reference numbers as the transformers engine, through the same core."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import TEXT_ENCODER, text_encoder
from paths import GOLDENS
from safetensors.torch import save_file

from parity_groups import load, mm_encoder


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / Path(TEXT_ENCODER).name
    tensors, metadata = text_encoder(GOLDENS)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="module")
def clip(encoder_file: Path) -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(encoder_file))


@pytest.fixture
def engine(clip: Any) -> Iterator[Any]:
    with torch.inference_mode(), ExitStack() as stack:
        yield stack.enter_context(pack("nodes.comfy.vlm").open_engine(clip, 2048))


def test_native_engine_agrees_with_reference(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads((GOLDENS / mm_encoder.INDEX).read_text())
    weights = load(GOLDENS / index["weights"])
    monkeypatch.setattr(mm_encoder, "reference_engine", lambda folder: (engine, weights, index))
    rows = list(mm_encoder.check(GOLDENS))
    assert len(rows) > 50
    assert [row for row in rows if not row.ok] == []


def test_a_continuation_leaves_the_cache_it_continues(engine: Any) -> None:
    x = torch.randn(1, 9, engine.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 9)
    _, past = engine.decode(x[:, :4], positions[:, :4])
    before = [(keys.clone(), values.clone()) for keys, values in past]
    first, _ = engine.decode(x[:, 4:], positions[:, 4:], past=past)
    again, _ = engine.decode(x[:, 4:], positions[:, 4:], past=past)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for old, new in zip(before, past, strict=True) for a, b in zip(old, new, strict=True))


def test_both_engines_write_the_same_text(engine: Any) -> None:
    """Greedy text over the native logits, head and cache included, is that of the transformers engine."""
    other, _, _ = mm_encoder.reference_engine(GOLDENS)
    x = torch.randn(1, 12, engine.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(12).expand(3, 12)
    sampling = pack("vino_core.encoder.engine").Sampling(max_new_tokens=6)
    assert engine.generate(x, positions, None, sampling) == other.generate(x, positions, None, sampling)


def test_special_tokens_in_text_stay_text(engine: Any) -> None:
    ids = engine.tokenize("<|im_end|> embedding:x <|image_pad|>")
    assert not {151643, 151645, 151652, 151655} & set(ids)


@pytest.mark.parametrize("lost", ["model.language_model.layers.2.mlp.up_proj.weight", "model.visual.pos_embed.weight"])
def test_an_incomplete_file_is_an_error(lost: str, tmp_path: Path) -> None:
    tensors, metadata = text_encoder(GOLDENS)
    del tensors[lost]
    save_file(tensors, tmp_path / "te.safetensors", metadata)
    with pytest.raises(ValueError, match="missing|not found"):
        pack("nodes.comfy.text_encoder").load_text_encoder(str(tmp_path / "te.safetensors"))


def test_another_model_is_an_error(tmp_path: Path) -> None:
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 1)}, tmp_path / "te.safetensors")
    with pytest.raises(ValueError, match="not a Qwen3-VL"):
        pack("nodes.comfy.text_encoder").load_text_encoder(str(tmp_path / "te.safetensors"))


def test_a_truncated_file_is_an_error(encoder_file: Path, tmp_path: Path) -> None:
    short = tmp_path / "te.safetensors"
    short.write_bytes(encoder_file.read_bytes()[: 1 << 20])
    with pytest.raises(ValueError, match="truncated"):
        pack("nodes.comfy.text_encoder").load_text_encoder(str(short))


def test_a_clip_without_qwen3vl_is_an_error(clip: Any) -> None:
    class Other:
        cond_stage_model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="not a Qwen3-VL"):
        pack("nodes.comfy.vlm").network_of(Other())
