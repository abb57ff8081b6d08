"""LoRA runs: what changes, the file they write, and ComfyUI's own loader on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import Stopped, config, exact, one_thread, parts, sources, stop_at, tasks, train  # noqa: F401

from vino_core.checkpoints.files import load_tokens
from vino_core.errors import InputError
from vino_core.training.config import Lora
from vino_core.training.loop import Trainer
from vino_core.training.lora import add_lora, save_lora
from vino_core.training.parts import fresh_mmdit
from vino_core.training.team import Team

LORA = {"rank": 3, "alpha": 6.0, "dropout": 0.2}


def lora_run(out: Path, **changes: object):
    data = {"tasks": tasks("t2i", "ti2i")}
    return config(out, stage=None, train=["tokens"], lora=LORA, data=data, steps=5, **changes)


def test_only_factors_and_tokens_are_trained(tmp_path: Path) -> None:
    run = lora_run(tmp_path)
    with Team(run.parallel) as team:
        made = parts(run)
        base = {name: tensor.clone() for name, tensor in made.mmdit.state_dict().items()}
        trainer = Trainer(run, made, sources(run), team)
        trainer.train()
    assert {trainer.module_parts[name] for name in trainer.state.parameters} == {"lora", "tokens"}
    after = {name.replace(".base_layer", ""): tensor for name, tensor in made.mmdit.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in base.items())
    ups = [tensor for name, tensor in trainer.state.parameters.items() if ".lora_B." in name]
    assert len(ups) > 10 and all(tensor.any() for tensor in ups)


def test_a_lora_run_resumes_bit_for_bit_with_its_dropout(tmp_path: Path) -> None:
    whole = train(lora_run(tmp_path / "whole"))
    with pytest.raises(Stopped):
        train(lora_run(tmp_path / "part"), stop_at(3))
    assert exact(train(lora_run(tmp_path / "part"))) == exact(whole)
    other = train(lora_run(tmp_path / "other", optimizer={"learning_rate": 2e-3}))
    assert exact(other) != exact(whole)


def test_the_files_of_a_lora_run(tmp_path: Path) -> None:
    run = lora_run(tmp_path)
    train(run)
    tensors = load_file(tmp_path / "export" / "lora.safetensors")
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    assert tensors[f"{name}.lora_A.weight"].shape == (3, 32) and tensors[f"{name}.lora_B.weight"].shape == (96, 3)
    assert float(tensors[f"{name}.alpha"]) == 6.0
    assert "diffusion_model.connector.mlp.0.lora_A.weight" in tensors
    assert load_tokens(tmp_path / "export" / "tokens.safetensors").shape == (4, 64)


def test_comfyuis_own_loader_applies_it(tmp_path: Path) -> None:
    """Every update lands on its matrix, at its strength, and no key is left over."""
    import comfy_runs

    patcher = comfy_runs.model()
    import comfy.lora
    import comfy.sd
    import comfy.utils

    core = patcher.model.diffusion_model
    from vino_core.config import MMDiTConfig
    from vino_core.systems import get_system

    mmdit = fresh_mmdit(MMDiTConfig.from_json(core.config.to_json()), get_system("vino"), 0)
    lora = Lora(rank=2, alpha=4.0)
    factors = add_lora(mmdit, lora, 0)
    generator = torch.Generator().manual_seed(0)
    for tensor in factors.values():
        tensor.data = torch.randn(tensor.shape, generator=generator)
    save_lora(tmp_path / "lora.safetensors", factors, lora, "vino")
    loaded = comfy.utils.load_torch_file(str(tmp_path / "lora.safetensors"))
    keys = comfy.lora.model_lora_keys_unet(patcher.model, {})
    assert {name.rpartition(".lora_")[0] for name in loaded if ".lora_A." in name} <= set(keys)
    patched, _ = comfy.sd.load_lora_for_models(patcher, None, loaded, 0.5, 0)
    assert len(patched.patches) == len(factors) // 2 > 10
    for name, module in mmdit.named_modules():
        if hasattr(module, "lora_A"):
            key = f"diffusion_model.{name}.weight"
            weight = comfy.utils.get_attr(patched.model, key).float()
            changed = comfy.lora.calculate_weight(patched.patches[key], weight.clone(), key)
            update = module.get_delta_weight("default")
            assert update.abs().max() > 0.1
            assert (changed - weight - 0.5 * update).abs().max() < 1e-4, name


def test_comfyuis_own_loader_reads_the_tokens(tmp_path: Path) -> None:
    """A prompt's `embedding:tokens` stands for all rows, as they were trained."""
    from comfy_inprocess import pack

    pack("vino_core.errors")  # with it, ComfyUI can be imported
    from comfy.sd1_clip import load_embed

    run = lora_run(tmp_path)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        trainer.train()
    for name in ("tokens", "tokens.safetensors"):
        rows = load_embed(name, str(tmp_path / "export"), trainer.network.tokens.shape[1], "qwen3vl_4b")
        assert torch.equal(rows, trainer.network.tokens)


def test_a_target_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    made = parts(config(tmp_path))
    with pytest.raises(InputError, match="no matrix of the model has such a name. Names end with .*") as error:
        add_lora(made.mmdit, Lora(targets=("attention",)), 0)
    listed = str(error.value).partition("Names end with ")[2].rstrip(".").split(", ")
    assert {"img_attn.qkv", "txt_mlp.2", "linear1", "connector.mlp.0"} <= set(listed)
    assert len(listed) == len(set(listed)) < 40 and not any(".0." in name[2:] for name in listed)
    for target in listed:  # each of them is one that it takes
        add_lora(parts(config(tmp_path)).mmdit, Lora(rank=1, targets=(target,)), 0)
