"""The loaders check what they load and say what else the file seems to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import TOKENS
from comfy_reference import model as reference_weights
from comfy_runs import model_file, nodes
from paths import GOLDENS
from safetensors.torch import load_file, save_file


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which ComfyUI finds all kinds of model files."""
    nodes()
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(tmp_path / name))
    return tmp_path


def load_model(name: str, dtype: str = "default") -> Any:
    return nodes().VINOModelLoader.execute(name, dtype)[0]


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


@pytest.mark.parametrize("dtype", ["default", "fp8_e4m3fn", "fp8_e5m2", "fp8_e4m3fn_fast"])
def test_model_loads_in_every_type(dtype: str, files: Path) -> None:
    (files / "vino.safetensors").symlink_to(model_file())
    model = load_model("vino.safetensors", dtype)
    assert type(model.model).__name__ == "VINO"
    stored = {"default": torch.float32, "fp8_e5m2": torch.float8_e5m2}.get(dtype, torch.float8_e4m3fn)
    assert model.model.diffusion_model.double_blocks[0].img_attn.qkv.weight.dtype == stored


def test_a_model_that_comfyui_saved_loads(files: Path) -> None:
    import comfy.sd

    (files / "vino.safetensors").symlink_to(model_file())
    comfy.sd.save_checkpoint(str(files / "saved.safetensors"), load_model("vino.safetensors"), metadata={})
    assert type(load_model("saved.safetensors").model).__name__ == "VINO"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"transformer.transformer_blocks.0.attn.to_q.weight": torch.zeros(4, 4)}, "convert it first"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(12, 4)}, "not a model that loads here"),
        ({"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}, "not a model that loads here"),
    ],
)
def test_another_model_is_refused(tensors: dict, message: str, files: Path) -> None:
    save_file(tensors, files / "other.safetensors")
    with pytest.raises(error(), match=message):
        load_model("other.safetensors")


def test_a_model_with_a_misshapen_tensor_is_refused(files: Path) -> None:
    from safetensors import safe_open

    tensors = load_file(model_file())
    tensors["single_blocks.0.linear2.weight"] = tensors["single_blocks.0.linear2.weight"][:, :-1].contiguous()
    with safe_open(model_file(), "pt") as file:
        save_file(tensors, files / "bent.safetensors", file.metadata())
    with pytest.raises(error(), match=r"do not fit(.|\n)*single_blocks\.0\.linear2\.weight"):
        load_model("bent.safetensors")


def quantised() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The reference model with its blocks in scaled fp8, as ComfyUI's users share models."""
    tensors, metadata = reference_weights(GOLDENS)
    small: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        small[name] = tensor.contiguous()
        if "_blocks." in name and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            small[name] = (tensor / scale).to(torch.float8_e4m3fn)
            small[f"{name.removesuffix('.weight')}.scale_weight"] = scale.reshape(1)
    return small, metadata


def test_scaled_fp8_loads_and_lost_scales_are_refused(files: Path) -> None:
    tensors, metadata = quantised()
    save_file(tensors, files / "fp8.safetensors", metadata)
    # Nodes run in inference mode; ComfyUI cannot move a quantised layer into it later.
    with torch.inference_mode():
        model = load_model("fp8.safetensors").model
    assert type(model).__name__ == "VINO" and model.model_config.quant_config is not None

    del tensors["single_blocks.0.linear1.scale_weight"]
    save_file(tensors, files / "lost.safetensors", metadata)
    with pytest.raises(error(), match=r"single_blocks\.0\.linear1\.weight is fp8 and has no scale"):
        load_model("lost.safetensors")


def test_a_truncated_model_is_refused(files: Path) -> None:
    (files / "short.safetensors").write_bytes(model_file().read_bytes()[:-1000])
    with pytest.raises(error(), match="truncated"):
        load_model("short.safetensors")


def test_tokens_load_and_other_files_are_refused(files: Path) -> None:
    (files / "tokens.safetensors").symlink_to(model_file().parents[1] / TOKENS)
    assert nodes().VINOTokensLoader.execute("tokens.safetensors")[0].values.shape == (8, 64)
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, files / "other.safetensors")
    with pytest.raises(error(), match="no learnable tokens"):
        nodes().VINOTokensLoader.execute("other.safetensors")
