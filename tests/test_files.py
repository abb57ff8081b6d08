"""Model and tokens files: what loads, what is refused and why, and where LoRA parts go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import convert_miniature, published
from paths import GOLDENS
from safetensors.torch import load_file, save_file

from vino_core.checkpoints.files import (
    check_widths,
    infer_mmdit_config,
    load_mmdit,
    load_state,
    load_tokens,
    read_metadata,
    save_tokens,
)
from vino_core.checkpoints.header import read_header
from vino_core.checkpoints.layouts import by_native, model_pieces, native_shapes
from vino_core.checkpoints.lora import lora_targets
from vino_core.config import ConnectorConfig, MMDiTConfig
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vino import VINO

CONNECTORS = (ConnectorConfig("connector", 24, 40), ConnectorConfig("connector_vae_branch", 24, 128))
WIDE_HEAD = MMDiTConfig(
    hidden_size=128, num_heads=1, depth=2, depth_single=1, depth_refiner=1, text_dim=40, connectors=CONNECTORS
)


def wide_head_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in native_shapes(WIDE_HEAD).items()}


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return convert_miniature(tmp_path)[0]


def test_model_loads_as_stored(model_file: Path) -> None:
    model, system = load_mmdit(model_file)
    expected = load_file(model_file)
    assert system == "vino" and model.layout is VINO.layout and not model.training
    assert model.config.rope_axes == (8, 12, 12)
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == dict.fromkeys(expected, torch.float32)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_model_loads_in_another_dtype(model_file: Path) -> None:
    model, _ = load_mmdit(model_file, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_state_is_mapped(model_file: Path) -> None:
    state = load_state(model_file)
    assert str(model_file) in Path("/proc/self/maps").read_text()
    del state
    assert str(model_file) not in Path("/proc/self/maps").read_text()


def test_metadata(model_file: Path) -> None:
    assert MMDiTConfig.from_json(read_metadata(model_file)["config"]).hidden_size == 64


def test_config_of_the_published_shapes_without_metadata() -> None:
    assert infer_mmdit_config(native_shapes(VINO.mmdit)) == VINO.mmdit


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_file_without_metadata(tmp_path: Path, prefix: str) -> None:
    state = wide_head_state()
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "saved.safetensors")
    model, _ = load_mmdit(tmp_path / "saved.safetensors")
    assert model.config == WIDE_HEAD
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_unknown_axes_are_not_guessed(model_file: Path, tmp_path: Path) -> None:
    save_file(load_file(model_file), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="bare.safetensors: .*heads 32 wide and no metadata"):
        load_mmdit(tmp_path / "bare.safetensors")


def test_missing_extra_and_misshapen_tensors_are_named(model_file: Path, tmp_path: Path) -> None:
    state, metadata = load_file(model_file), read_metadata(model_file)
    del state["single_blocks.1.linear2.bias"]
    state["vector_in.in_layer.bias"] = torch.zeros(3)
    state["connector.mlp.0.weight"] = torch.zeros(192, 32)
    save_file(state, tmp_path / "wrong.safetensors", metadata)
    with pytest.raises(InputError) as error:
        load_mmdit(tmp_path / "wrong.safetensors")
    for part in ("single_blocks.1.linear2.bias", "vector_in.in_layer.bias", "[192, 32] instead of [192, 64]"):
        assert part in str(error.value)


def quantise(state: dict[str, torch.Tensor], suffix: str | None) -> dict[str, torch.Tensor]:
    """The matrices of the blocks in fp8, with a scale per layer unless `suffix` is None."""
    made = {}
    for name, tensor in state.items():
        if "_blocks." in name and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            made[name] = (tensor / scale).to(torch.float8_e4m3fn)
            if suffix:
                made[name.removesuffix(".weight") + suffix] = scale
        else:
            made[name] = tensor
    return made


@pytest.mark.parametrize("suffix", [".weight_scale", ".scale_weight"])
def test_scaled_fp8_is_restored(tmp_path: Path, suffix: str) -> None:
    state = wide_head_state()
    save_file(quantise(state, suffix), tmp_path / "fp8.safetensors")
    model, _ = load_mmdit(tmp_path / "fp8.safetensors", dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert (tensor - state[name]).abs().max() <= state[name].abs().max() / 16, name


def test_fp8_without_scales_is_refused(tmp_path: Path) -> None:
    save_file(quantise(wide_head_state(), None), tmp_path / "fp8.safetensors")
    with pytest.raises(InputError, match="is fp8 and has no scale"):
        load_mmdit(tmp_path / "fp8.safetensors")


def test_other_models_are_recognised(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "vino.ckpt")
    with pytest.raises(InputError, match="official checkpoint: convert it first"):
        load_mmdit(tmp_path / "vino.ckpt")
    save_file({"decoder.up.0.block.0.conv1.weight": torch.zeros(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="seems to be a VAE"):
        load_mmdit(tmp_path / "vae.safetensors")


@pytest.mark.parametrize("kept", [4, 200, 20_000, -1])
def test_truncated_file(model_file: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "short.safetensors").write_bytes(model_file.read_bytes()[:kept])
    with pytest.raises(InputError, match="short.safetensors: (truncated|not a safetensors file)"):
        load_mmdit(tmp_path / "short.safetensors")


def test_damaged_header(tmp_path: Path) -> None:
    for number, text in enumerate(
        (b'{"a":1}', b"{not json}", b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}')
    ):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"0000")
        with pytest.raises(InputError, match=str(path)):
            read_header(path)


def test_files_that_do_not_load_here(tmp_path: Path) -> None:
    for name in ("a.gguf", "a.txt"):
        (tmp_path / name).write_text("words")
    for name, message in (
        ("a.gguf", "ComfyUI only"),
        ("a.txt", "unknown kind"),
        ("a.safetensors", "no such file"),
        ("vino-tinny", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            load_mmdit(tmp_path / name)


def test_tokens(tmp_path: Path) -> None:
    tokens = torch.randn(8, 64).bfloat16()
    save_tokens(tmp_path / "tokens.safetensors", tokens, "vino")
    assert torch.equal(load_tokens(tmp_path / "tokens.safetensors"), tokens)
    assert read_metadata(tmp_path / "tokens.safetensors")["system"] == "vino"
    save_file({"anything": tokens}, tmp_path / "shared.safetensors")
    assert torch.equal(load_tokens(tmp_path / "shared.safetensors"), tokens)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)},
        {"metaquery": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=int)},
    ],
)
def test_files_without_tokens(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="other.safetensors: .*learnable tokens"):
        load_tokens(tmp_path / "other.safetensors")


def test_widths_must_agree() -> None:
    check_widths(VINO.mmdit, torch.zeros(256, 2560), 2560)
    with pytest.raises(InputError, match="encoder is 4096 wide.*connector 2560.*learnable tokens 2560"):
        check_widths(VINO.mmdit, torch.zeros(256, 2560), 4096)
    with pytest.raises(InputError, match="learnable tokens 64"):
        check_widths(VINO.mmdit, torch.zeros(8, 64), 2560)


def test_lora_targets_update_the_rows_that_conversion_fills() -> None:
    config = infer_mmdit_config(native_shapes(WIDE_HEAD))
    official = {}
    for pieces in by_native(model_pieces(config)).values():
        for piece in pieces:
            rows = official.setdefault(piece.official, [0, piece.columns])
            rows[0] += piece.rows
    update = {name: torch.randn(rows, *columns) for name, (rows, columns) in official.items()}
    expected = {
        name: torch.cat([update[p.official][p.official_start : p.official_start + p.rows] for p in pieces])
        for name, pieces in by_native(model_pieces(config)).items()
    }
    updated = {name: torch.zeros(shape) for name, shape in native_shapes(config).items()}
    for layer, target in lora_targets(config).items():
        delta = update[f"transformer.{layer}.weight"]
        delta = torch.cat(delta.chunk(2)[::-1]) if target.swap else delta
        (updated[target.key] if target.rows is None else updated[target.key].narrow(*target.rows)).add_(delta)
    matrices = [name for name, tensor in expected.items() if tensor.ndim > 1 and not name.startswith("connector")]
    assert len(matrices) == len({target.key for target in lora_targets(config).values()})
    assert all(torch.equal(updated[name], expected[name]) for name in matrices)


def test_lora_names_are_the_official_layers() -> None:
    keys = json.loads((GOLDENS / "manifest_full.json").read_text())["keys"]
    names = {f"transformer.{layer}.weight" for layer in lora_targets(VINO.mmdit)}
    unused = {name for name in keys if name.startswith("transformer.time_text_embed.text_embedder.")}
    matrices = {name for name, shape in keys.items() if name.startswith("transformer.") and len(shape) > 1}
    assert names == matrices - unused


def test_model_parameters_carry_the_native_names() -> None:
    assert MMDiT(WIDE_HEAD, device="meta").state_dict().keys() == native_shapes(WIDE_HEAD).keys()
