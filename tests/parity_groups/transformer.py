"""Single forward and backward passes of the MMDiT against transformer_cases.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vino_core.config import MMDiTConfig
from vino_core.mmdit.model import BlockRunner, Conditioning, MMDiT, run_block
from vino_core.mmdit.packing import rotary_table

from . import Row, case_tensors, compare, load
from .weights import native_from_official, official_from_native

INDEX = "transformer_index.json"
OUTPUT_LIMIT = 2e-5
GRADIENT_LIMIT = 1e-5  # relative to the largest gradient of the tensor


def config_of(entry: dict[str, Any], guidance: bool = True) -> MMDiTConfig:
    """The miniature's dimensions from the constructor arguments in an index file."""
    patch = entry["patch_size"]
    return MMDiTConfig(
        in_channels=entry["in_channels"],
        out_channels=entry["out_channels"],
        hidden_size=entry["num_attention_heads"] * entry["attention_head_dim"],
        num_heads=entry["num_attention_heads"],
        depth=entry["num_layers"],
        depth_single=entry["num_single_layers"],
        depth_refiner=entry["num_refiner_layers"],
        mlp_ratio=entry["mlp_ratio"],
        patch_size=(entry["patch_size_t"], patch, patch),
        text_dim=entry["text_embed_dim"],
        guidance_embed=guidance,
        rope_theta=entry["rope_theta"],
        rope_axes=tuple(entry["rope_axes_dim"]),
    )


def build(config: MMDiTConfig, weights: dict[str, Tensor]) -> MMDiT:
    """A miniature with the given weights, named as in the official checkpoint (`transformer.` prefix)."""
    model = MMDiT(config)
    model.load_state_dict(native_from_official(weights, config))
    return model.eval()


def conditioning_of(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Conditioning:
    batch, special = entry["batch"], tensors["in.enc_special"]
    rows = [
        [position for pair in zip(starts, ends, strict=False) for position in pair]
        for starts, ends in zip(entry["pos_vs"], entry["pos_ve"], strict=True)
    ]
    return Conditioning(
        text=tensors["in.enc_context"],
        boundaries=torch.stack([special[sample, rows[sample]] for sample in range(batch)]) if entry["refs"] else None,
        references=tuple(
            torch.cat([tensors[f"in.cond.{sample}.{index}"] for sample in range(batch)])
            for index in range(len(entry["refs"]))
        ),
        mask=tensors["in.attention_mask"] if any(entry["mask_zeros"]) else None,
    )


def observe(model: MMDiT, text_length: int) -> tuple[dict[str, Tensor], list]:
    """Record the intermediates under the names of the cases. Returns the record and the hooks to remove."""
    seen: dict[str, Tensor] = {}
    hooks = [model.txt_in.register_forward_hook(lambda _, __, out: seen.update({"mid.context": out}))]

    def before_blocks(_, arguments):
        seen.update({"mid.packed_tokens": arguments[0].clone(), "mid.temb": arguments[2]})

    hooks.append(model.double_blocks[0].register_forward_pre_hook(before_blocks))

    def streams(kind: str, index: int) -> Callable[..., None]:
        def hook(_, __, out):
            txt, img = (out[1], out[0]) if kind == "double" else (out[:, :text_length], out[:, text_length:])
            seen.update({f"mid.{kind}.{index}.img": img.clone(), f"mid.{kind}.{index}.txt": txt.clone()})

        return hook

    for kind, blocks in (("double", model.double_blocks), ("single", model.single_blocks)):
        hooks += [block.register_forward_hook(streams(kind, index)) for index, block in enumerate(blocks)]
    hooks.append(
        model.final_layer.linear.register_forward_pre_hook(lambda _, inputs: seen.update({"mid.norm_out": inputs[0]}))
    )
    return seen, hooks


def every_row(kind: str, index: int, block: nn.Module, *arguments: Any, **needed: Any) -> Any:
    """A runner that lets the last block make rows that nothing reads, so that they can be compared."""
    return block(*arguments)


def run(model: MMDiT, entry: dict[str, Any], tensors: dict[str, Tensor], runner: BlockRunner = run_block) -> Tensor:
    latents, timestep, guidance = (tensors.get(f"in.{name}") for name in ("hidden_states", "timestep", "guidance"))
    return model(latents, timestep, conditioning_of(entry, tensors), guidance, runner=runner)


def layout_rows(case: str, model: MMDiT, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Row]:
    grid = [model.grid(tensors[f"in.cond.0.{index}"]) for index in range(len(entry["refs"]))]
    layout = model.layout(grid, model.grid(tensors["in.hidden_states"]))
    table = rotary_table(layout, 0, model.config.rope_axes, model.config.rope_theta, torch.device("cpu"))
    yield compare(case, "packed_len", torch.tensor(layout.tokens), torch.tensor(entry["packed_len"]))
    yield compare(case, "rope_cos", table.real.repeat_interleave(2, dim=1), tensors["mid.rope_cos"], 1e-6)
    yield compare(case, "rope_sin", table.imag.repeat_interleave(2, dim=1), tensors["mid.rope_sin"], 1e-6)


def forward_rows(case: str, model: MMDiT, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Row]:
    seen, hooks = observe(model, entry["text_len"])
    with torch.no_grad():
        run(model, entry, tensors, every_row)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        output = run(model, entry, tensors)
    target = tensors["in.hidden_states"].shape[-3:]
    tokens = target[0] * target[1] * target[2] // 4
    for name, expected in tensors.items():
        if name == "mid.norm_out":  # ours stops computing what is not un-patchified
            expected = expected[:, -tokens:]
        if name in seen:
            yield compare(case, name, seen[name], expected, OUTPUT_LIMIT * max(1.0, expected.abs().max().item() / 4))
    yield compare(case, "out", output, tensors["out"], OUTPUT_LIMIT)


def gradient_rows(
    case: str, model: MMDiT, entry: dict[str, Any], tensors: dict[str, Tensor], expected: dict[str, Tensor], norms: dict
) -> Iterator[Row]:
    inputs = {name: value.clone() for name, value in tensors.items()}
    tracked = {name.removeprefix("dinput."): name for name in expected if name.startswith("dinput.")}
    sources = {name: (name if name in inputs else f"in.{name}") for name in tracked}
    for source in sources.values():
        inputs[source].requires_grad_(True)
    model.zero_grad()
    output = run(model, entry, inputs)
    loss = torch.mean((output - expected["target"]) ** 2)
    loss.backward()
    yield compare(case, "loss", loss.reshape(1), expected["loss"], OUTPUT_LIMIT)
    for name, key in tracked.items():
        scale = expected[key].abs().max().item()
        yield compare(case, key, inputs[sources[name]].grad, expected[key], GRADIENT_LIMIT * max(scale, 1e-3))
    native = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    gradients = official_from_native(native, model.config)
    for key, value in expected.items():
        if key.startswith("dparam."):
            name = key.removeprefix("dparam.")
            gradient = gradients[name if name in gradients else f"transformer.{name}"]
            yield compare(case, key, gradient, value, GRADIENT_LIMIT * max(value.abs().max().item(), 1e-3))
    for name, norm in norms.items():
        key = name if name.startswith("transformer.") else f"transformer.{name}"
        if norm is None:
            used = key in gradients and bool(gradients[key].any())
            yield Row(case, f"norm {name} unused", float(used), 0.0)
        else:
            limit = GRADIENT_LIMIT * max(norm, 1e-3) * 10
            yield compare(case, f"norm {name}", gradients[key].norm(), torch.tensor(norm), limit)


def check(folder: Path) -> Iterator[Row]:
    index = json.loads((folder / INDEX).read_text())
    weights = load(folder / index["weights"])
    cases = load(folder / "transformer_cases.safetensors")
    for case, entry in index["cases"].items():
        tensors = case_tensors(cases, case)
        model = build(config_of(index["config"], entry["guidance_embeds"]), weights)
        yield from layout_rows(case, model, entry, tensors)
        yield from forward_rows(case, model, entry, tensors)
        expected = case_tensors(cases, f"{case}_grad")
        if expected:
            yield from gradient_rows(
                f"{case}_grad", model, entry, tensors, expected, index["grad"].get("all_param_grad_norms", {})
            )
    if "eps_probe" in index:
        probe = index["eps_probe"]
        scaled = {name: value * (probe["factor"] if name in probe["scaled"] else 1) for name, value in weights.items()}
        entry = index["cases"][probe["inputs_of"]]
        tensors = {**case_tensors(cases, probe["inputs_of"]), **case_tensors(cases, "eps_probe")}
        yield from forward_rows("eps_probe", build(config_of(index["config"]), scaled), entry, tensors)
