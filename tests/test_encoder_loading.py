"""Text encoders from memory and from folders: what fits is loaded whole, what does not is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT, small_tokenizer
from tiny_vlm import CONFIG, HIDDEN, random_state

from vino_core.encoder.encode import BranchPrompt, encode_branches
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state, load_engine
from vino_core.errors import InputError
from vino_core.systems import get_system

VINO = get_system("vino")
LAYER = "model.language_model.layers.0.mlp.up_proj.weight"


def made(dtype: torch.dtype = torch.float32) -> TransformersEngine:
    """A miniature text encoder of random weights."""
    return engine_from_state(CONFIG, random_state(), small_tokenizer(), dtype=dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature text encoder in a Hugging Face folder."""
    path = tmp_path_factory.mktemp("vlm")
    made().model.save_pretrained(path)
    small_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_folder_gives_the_numbers_of_its_weights(folder: Path) -> None:
    branch = [BranchPrompt("A fox jumps over a river.")]
    loaded, fresh = load_engine(folder, dtype=torch.float32), made()
    (one,), (other,) = (encode_branches(engine, VINO, branch, ()) for engine in (loaded, fresh))
    assert one.plan.ids == other.plan.ids
    assert torch.equal(one.states, other.states)
    assert (loaded.hidden_size, loaded.dtype, loaded.device.type) == (HIDDEN, torch.float32, "cpu")


def test_a_folder_loads_in_bfloat16(folder: Path) -> None:
    engine = load_engine(folder)
    (encoded,) = encode_branches(engine, VINO, [BranchPrompt("a fox")], ())
    assert engine.dtype == encoded.states.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in engine.model.parameters())


def test_rotary_frequencies_stay_in_float32(folder: Path) -> None:
    for engine in (made(torch.bfloat16), load_engine(folder)):
        frequencies = [buffer for name, buffer in engine.model.named_buffers() if "inv_freq" in name]
        assert len(frequencies) >= 2  # text and vision
        assert all(buffer.dtype == torch.float32 for buffer in frequencies)
        assert all(parameter.dtype == torch.bfloat16 for parameter in engine.model.parameters())


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no config.json.*hf download"):
        load_engine(tmp_path / "nowhere")


def test_another_model_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 64}))
    with pytest.raises(InputError, match="type 'qwen2'"):
        load_engine(copy)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be loaded.*again"):
        load_engine(copy)


def test_missing_weights_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    del state[next(name for name in state if name.endswith("layers.0.mlp.up_proj.weight"))]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 missing .*up_proj"):
        load_engine(copy)


def test_weights_of_another_width_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 80
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_engine(copy)


def test_missing_tokenizer_files_are_refused(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no tokenizer: neither tokenizer.json nor vocab.json and merges.txt"):
        load_engine(copy)


def test_a_state_must_fit_the_config() -> None:
    state = random_state()

    def refused(match: str, **changes: torch.Tensor | None) -> None:
        changed = {name: value for name, value in (state | changes).items() if value is not None}
        with pytest.raises(InputError, match=match):
            engine_from_state(CONFIG, changed, small_tokenizer())

    refused(r"1 missing .*up_proj", **{LAYER: None})
    refused(r"1 unexpected \(surplus\)", surplus=torch.zeros(1))
    refused(r"up_proj.weight \(3, 3\) instead of \(96, 64\)", **{LAYER: torch.zeros(3, 3)})
    with pytest.raises(InputError, match="type 'qwen2_vl'"):
        engine_from_state({**CONFIG, "model_type": "qwen2_vl"}, state, small_tokenizer())


def test_a_single_layer_is_refused() -> None:
    config = {**CONFIG, "text_config": {**CONFIG["text_config"], "num_hidden_layers": 1}}
    state = {
        name: value for name, value in random_state().items() if not any(f"layers.{n}." in name for n in (1, 2, 3))
    }
    with pytest.raises(InputError, match="at least 2"):
        engine_from_state(config, state, small_tokenizer())


def test_the_encoder_imports_without_transformers_and_says_so_when_used() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from vino_core.encoder import encode, understand, transformers_engine\n"
        "try: transformers_engine.engine_from_state({}, {}, None)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'transformers>=4.57'" in done.stdout
