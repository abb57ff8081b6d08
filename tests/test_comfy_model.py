"""VINO on the MODEL wire keeps what ComfyUI's users expect of a model: LoRA, patches, caches, saving, fp8."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import model as reference_weights
from comfy_reference import model_config_of
from comfy_runs import case, model_file
from paths import GOLDENS
from safetensors.torch import save_file
from torch import Tensor

from parity_groups.weights import native_from_official, official_from_native
from vino_core.checkpoints.lora import lora_targets

STEPS = 2


def sample(model: Any, latents: Tensor | None = None, steps: int = STEPS, **options: Any) -> Tensor:
    """What the stock KSampler makes of the base-image case: Euler, scheduler simple, text guidance."""
    run = case("ti2i_baseimg")
    import comfy.sample

    start = run.latent["samples"] if latents is None else latents
    noise = comfy.sample.prepare_noise(start, 0)
    positive, negative, _ = run.branches
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 5.0, "euler", "simple", positive, negative, start, disable_pbar=True, seed=0, **options
        )


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return sample(comfy_runs.model())


def difference(a: Tensor, b: Tensor) -> float:
    assert torch.isfinite(a).all()
    return float((a - b).abs().max())


def test_detected_in_front_of_hunyuan_video() -> None:
    model = comfy_runs.model().model
    assert type(model).__name__ == "VINO"
    assert model.diffusion_model.config == pack("vino_core.config").MMDiTConfig.from_json(
        model_config_of(GOLDENS).to_json()
    )


def test_a_batch_repeats_its_samples() -> None:
    """Two samples of one batch see the same references: equal noise gives equal results."""
    import comfy.sample

    run = case("ti2i_baseimg")
    noise = comfy.sample.prepare_noise(run.latent["samples"], 0).repeat(2, 1, 1, 1, 1)
    positive, negative, _ = run.branches
    with torch.inference_mode():
        start = run.latent["samples"].repeat(2, 1, 1, 1, 1)
        out = comfy.sample.sample(
            comfy_runs.model(), noise, STEPS, 5.0, "euler", "simple", positive, negative, start, disable_pbar=True
        )
    assert difference(out[0], out[1]) < 1e-5


def test_model_sampling_sd3_keeps_the_timestep(plain: Tensor) -> None:
    """ModelSamplingSD3 resets the multiplier; the model still sees sigma x 999."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (patched,) = ModelSamplingSD3().patch(comfy_runs.model(), 7.0)
    assert difference(sample(patched), plain) < 1e-5


def test_model_sampling_flux_of_the_same_shift_is_the_same(plain: Tensor) -> None:
    """It has no multiplier: its timestep is sigma."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    shift = math.log(7.0)
    (patched,) = ModelSamplingFlux().patch(comfy_runs.model(), shift, shift, 64, 64)
    assert difference(sample(patched), plain) < 1e-4


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_of_another_type_than_is_computed_in(
    monkeypatch: pytest.MonkeyPatch, dtype: str, plain: Tensor
) -> None:
    """PyTorch's attention, the usual one on GPUs, takes queries, keys and values of one type only."""
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    types: set[torch.dtype] = set()

    def attention(q: Tensor, k: Tensor, v: Tensor, *given: Any, **more: Any) -> Tensor:
        types.update((q.dtype, k.dtype, v.dtype))
        return attention_pytorch(q, k, v, *given, **more)

    monkeypatch.setattr(pack("nodes.comfy.model"), "optimized_attention", attention)
    (patched,) = ModelComputeDtype().patch(comfy_runs.model(), dtype)
    assert 0 < difference(sample(patched), plain) < 0.5
    assert types == {{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}


def easy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 10.0, 0.1, 0.95, False)[0]


def skip_layers(model: Any) -> Any:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "1", "1")[0]


def cfg_zero_star(model: Any) -> Any:
    from comfy_extras.nodes_cfg import CFGZeroStar

    return CFGZeroStar.execute(model)[0]


@pytest.mark.parametrize(("patch", "steps"), [(easy_cache, 8), (skip_layers, STEPS), (cfg_zero_star, STEPS)])
def test_patches_take_effect(patch: Callable, steps: int) -> None:
    model = comfy_runs.model()
    assert difference(sample(patch(model), steps=steps), sample(model, steps=steps)) > 1e-3


def test_a_replaced_block_that_calls_the_original_changes_nothing(plain: Tensor) -> None:
    model = comfy_runs.model().clone()
    called = []

    def replace(kind: str) -> Callable:
        def run(given: dict, extra: dict) -> dict:
            called.append((kind, given["transformer_options"]["block_index"]))
            return extra["original_block"](given)

        return run

    for kind in ("double_block", "single_block"):
        model.set_model_patch_replace(replace(kind), "dit", kind, 1)
    assert difference(sample(model), plain) < 1e-4  # on one thread of some CPUs the last bits differ; effects: 1e-3
    assert set(called) == {("double_block", 1), ("single_block", 1)}


def test_context_windows_keep_the_references_in_every_window() -> None:
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    windowed = ContextWindowsManualNode.execute(
        comfy_runs.model(), 4, 1, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    seen = []
    windowed.add_wrapper(
        "diffusion_model", lambda executor, *args, **options: (seen.append(args), executor(*args, **options))[1]
    )
    latents = torch.zeros(1, 16, 9, 6, 8)
    assert torch.isfinite(sample(windowed, latents)).all()
    assert max(x.shape[2] for x, *_ in seen) < latents.shape[2]
    assert {len(references) for _, _, _, _, references, *_ in seen} == {2}


def test_inpainting_keeps_what_is_not_masked() -> None:
    latents = torch.randn(1, 16, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., :4] = 1
    out = sample(comfy_runs.model(), latents, noise_mask=mask)
    assert difference(out[..., 4:], latents[..., 4:]) < 1e-5
    assert difference(out[..., :4], latents[..., :4]) > 0.1


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.3), (torch.float8_e4m3fn, 3.0)])
def test_smaller_weights_stay_near(dtype: torch.dtype, limit: float, plain: Tensor) -> None:
    import comfy.sd

    small = comfy.sd.load_diffusion_model(str(model_file()), model_options={"dtype": dtype})
    assert 0 < difference(sample(small), plain) < limit


def test_a_saved_model_loads_again(tmp_path: Path, plain: Tensor) -> None:
    """Core's ModelSave writes no metadata of ours; the dimensions must survive it."""
    import comfy.sd

    comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), comfy_runs.model(), metadata={})
    assert difference(sample(comfy.sd.load_diffusion_model(str(tmp_path / "saved.safetensors"))), plain) == 0


def test_a_file_without_metadata_falls_back_to_full_size_rules(tmp_path: Path) -> None:
    """As GGUF files have none: heads that are not 128 wide cannot be guessed, and the error says so."""
    import comfy.sd

    tensors, _ = reference_weights(GOLDENS)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="no metadata"):
        comfy.sd.load_diffusion_model(str(tmp_path / "bare.safetensors"))


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    import comfy.sd

    tensors, metadata = reference_weights(GOLDENS)
    del tensors["single_blocks.1.linear2.weight"]
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "short.safetensors", metadata)
    with pytest.raises(ValueError, match=r"missing.*single_blocks\.1\.linear2\.weight"):
        comfy.sd.load_diffusion_model(str(tmp_path / "short.safetensors"))


def _pipe_name(name: str) -> str:
    for native, pipe in {
        "_mod.lin": "_mod.linear",
        "_attn.qkv": "_attn_qkv",
        "_attn.proj": "_attn_proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
        ".modulation.lin": ".modulation.linear",
    }.items():
        name = name.replace(native, pipe)
    return name


def _factors(shape: torch.Size, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2, shape[1], generator=generator), torch.randn(shape[0], 2, generator=generator)


FORMATS = {
    "native": lambda name: f"diffusion_model.{name}",
    "musubi": lambda name: f"lora_unet_{name.replace('.', '_')}",
    "diffusion-pipe": lambda name: f"transformer.{_pipe_name(name)}",
}


@pytest.mark.parametrize("written_as", FORMATS)
def test_lora_in_native_names(written_as: str) -> None:
    """Every layer of the blocks is found and changed by exactly its update."""
    import comfy.sd

    model, generator = comfy_runs.model(), torch.Generator().manual_seed(0)
    weights = {
        name.removesuffix(".weight"): tensor
        for name, tensor in model.model.diffusion_model.state_dict().items()
        if "_blocks." in name and name.endswith(".weight") and tensor.ndim == 2
    }
    lora, updates = {}, {}
    for name, tensor in weights.items():
        down, up = _factors(tensor.shape, generator)
        key = FORMATS[written_as](name)
        lora[f"{key}.lora_A.weight"], lora[f"{key}.lora_B.weight"] = down, up
        updates[name] = up @ down
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    assert len(patched.patches) == len(weights) > 20
    for name, update in updates.items():
        changed = comfy_lora_weight(patched, f"diffusion_model.{name}.weight")
        assert difference(changed, weights[name] + 0.5 * update) < 1e-5


def comfy_lora_weight(patched: Any, key: str) -> Tensor:
    """A weight with its patches applied, as ComfyUI does before it computes."""
    import comfy.lora
    import comfy.utils

    weight = comfy.utils.get_attr(patched.model, key).clone()
    return comfy.lora.calculate_weight(patched.patches[key], weight, key)


def test_lora_in_official_names() -> None:
    """Updates of the official layers land on the right rows, the swapped halves of the last layer included."""
    import comfy.sd

    config, generator = model_config_of(GOLDENS), torch.Generator().manual_seed(0)
    tensors, _ = reference_weights(GOLDENS)
    official = official_from_native(tensors, config)
    lora = {}
    for name in lora_targets(config):
        weight = official[f"transformer.{name}.weight"]
        if weight.ndim == 2:
            down, up = _factors(weight.shape, generator)
            lora[f"transformer.{name}.lora_A.weight"], lora[f"transformer.{name}.lora_B.weight"] = down, up
            official[f"transformer.{name}.weight"] = weight + 0.5 * up @ down
    expected = native_from_official(official, config)
    patched, _ = comfy.sd.load_lora_for_models(comfy_runs.model(), None, lora, 0.5, 0)
    assert len(patched.patches) > 30
    for key in patched.patches:
        assert difference(comfy_lora_weight(patched, key), expected[key.removeprefix("diffusion_model.")]) < 1e-5


@pytest.mark.parametrize(("layer", "warned"), [("connector.mlp.0", True), ("double_blocks.0.img_attn.qkv", False)])
def test_a_lora_on_a_hook_that_cannot_reach_connectors_says_so(
    caplog: pytest.LogCaptureFixture, plain: Tensor, layer: str, warned: bool
) -> None:
    import comfy.hooks
    import comfy.sample

    model, run = comfy_runs.model(), case("ti2i_baseimg")
    weight = model.model.diffusion_model.get_submodule(layer).weight
    down, up = _factors(weight.shape, torch.Generator().manual_seed(0))
    lora = {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    branches = [comfy.hooks.set_hooks_for_conditioning(branch, hooks) for branch in run.branches[:2]]
    start = run.latent["samples"]
    with torch.inference_mode():
        out = comfy.sample.sample(
            model, comfy.sample.prepare_noise(start, 0), STEPS, 5.0, "euler", "simple", *branches, start,
            disable_pbar=True, seed=0,
        )  # fmt: skip
    assert ("Load it with Load LoRA" in caplog.text) == warned
    assert (difference(out, plain) < 1e-4) == warned
