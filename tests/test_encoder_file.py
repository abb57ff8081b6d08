"""One file as a text encoder: its weights say what it is, and what contradicts them is refused, never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import tiny_vogue_vlm
import torch
from comfy_inprocess import pack
from paths import small_tokenizer
from safetensors.torch import save_file
from torch import Tensor

from vino_core.encoder.transformers_engine import load_engine
from vino_core.errors import InputError

MAKERS = {"qwen3_vl": tiny_vlm, "qwen2_5_vl": tiny_vogue_vlm}
TITLES = {"qwen3_vl": "Qwen3-VL-4B-Instruct", "qwen2_5_vl": "Qwen2.5-VL-7B-Instruct"}
BOTH = pytest.mark.parametrize("model_type", list(MAKERS))


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {name: maker.random_state() for name, maker in MAKERS.items()}


def config(model_type: str, **changes: Any) -> dict[str, Any]:
    """The miniature's config."""
    return {**MAKERS[model_type].CONFIG, "model_type": model_type, **changes}


def unnamed(model_type: str) -> dict[str, Any]:
    """The miniature's config without its `model_type`."""
    return {name: value for name, value in MAKERS[model_type].CONFIG.items() if name != "model_type"}


def write(folder: Path, state: dict[str, Tensor], beside: Any = None, metadata: Any = None) -> Path:
    """The weights in one file, `beside` as the config.json in its folder, `metadata` as the config in its metadata."""
    small_tokenizer().save_pretrained(folder)
    if beside is not None:
        (folder / "config.json").write_text(json.dumps(beside))
    path = folder / "te.safetensors"
    save_file(state, path, {} if metadata is None else {"config": json.dumps(metadata)})
    return path


@BOTH
@pytest.mark.parametrize("where", ["beside", "metadata"])
def test_a_config_without_a_model_type_is_read_as_what_the_weights_are(
    tmp_path: Path, states: dict, model_type: str, where: str
) -> None:
    path = write(tmp_path, states[model_type], **{where: unnamed(model_type)})
    assert load_engine(path, torch.float32).model.config.model_type == model_type


@BOTH
@pytest.mark.parametrize("where", ["beside", "metadata"])
def test_a_config_of_the_other_model_is_refused(tmp_path: Path, states: dict, model_type: str, where: str) -> None:
    (other,) = set(MAKERS) - {model_type}
    path = write(tmp_path, states[model_type], **{where: config(other)})
    with pytest.raises(InputError) as caught:
        load_engine(path)
    message = str(caught.value)
    assert str(path) in message and f"type '{model_type}' ({TITLES[model_type]}" in message
    assert f"describes one of type '{other}'" in message and "config.json that came with the weights" in message
    assert (str(tmp_path / "config.json") in message) == (where == "beside")


def test_a_foreign_config_beside_the_file_is_named(tmp_path: Path, states: dict) -> None:
    path = write(tmp_path, states["qwen2_5_vl"], {"model_type": "t5", "d_model": 64})
    with pytest.raises(InputError, match=r"te\.safetensors.*config\.json', which lies beside it,.*type 't5'"):
        load_engine(path)


def test_an_own_config_is_believed_before_one_beside(tmp_path: Path, states: dict) -> None:
    path = write(tmp_path, states["qwen2_5_vl"], {"model_type": "t5"}, config("qwen2_5_vl"))
    assert load_engine(path, torch.float32).hidden_size == tiny_vogue_vlm.HIDDEN


@pytest.mark.parametrize("beside", [{}, {"hidden_size": 64}])
def test_weights_of_something_else_are_refused(tmp_path: Path, beside: dict) -> None:
    path = write(tmp_path, {"encoder.block.0.weight": torch.zeros(2)}, beside)
    with pytest.raises(InputError) as caught:
        load_engine(path)
    assert "holds no Qwen3-VL-4B-Instruct and no Qwen2.5-VL-7B-Instruct" in str(caught.value)
    assert str(path) in str(caught.value) and "Choose another file" in str(caught.value)


def test_a_config_of_another_size_names_the_file_and_the_config(tmp_path: Path, states: dict) -> None:
    path = write(tmp_path, states["qwen2_5_vl"], config("qwen2_5_vl", intermediate_size=80))
    with pytest.raises(InputError, match=r"te\.safetensors'.* other shapes than .*config\.json'.* says.*\(32, 64\)"):
        load_engine(path)


@pytest.mark.parametrize("text", ["[]", "7"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, states: dict, text: str) -> None:
    path = write(tmp_path, states["qwen3_vl"], json.loads(text))
    with pytest.raises(InputError, match=r"config\.json'.* is a (list|int), not a model's config"):
        load_engine(path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, states: dict) -> None:
    small = dict(states["qwen2_5_vl"])
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        small[name] = small[name][:1000].clone()
    path = write(tmp_path, small, config("qwen2_5_vl", vocab_size=1000))
    with pytest.raises(InputError, match=r"rows for 1,000 tokens, but the tokenizer in .* makes 2,\d\d\d"):
        load_engine(path)


@BOTH
def test_comfyui_refuses_a_file_whose_metadata_contradict_its_weights(
    tmp_path: Path, states: dict, model_type: str
) -> None:
    (other,) = set(MAKERS) - {model_type}
    path = write(tmp_path, states[model_type], metadata=config(other))
    with pytest.raises(pack("vino_core.errors").InputError, match=rf"type '{model_type}'.*metadata.*type '{other}'"):
        pack("nodes.comfy.text_encoder").load_text_encoder(str(path))
