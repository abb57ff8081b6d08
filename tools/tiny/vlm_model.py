"""The miniatures' Qwen-VLs: their dimensions, first weights, and a forward pass over a batch of small pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vino_core.checkpoints.writing import written_aside
from vino_core.encoder.engine import END_OF_TEXT, IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from vino_core.encoder.families import FAMILIES
from vino_core.systems.base import System, VisionLimits
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue_tiny import VOGUE_TINY


def qwen3_vl(tokenizer: Any) -> dict[str, Any]:
    """The content of a Qwen3-VL `config.json` for a `tokenizers.Tokenizer`."""
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "num_heads": 3,
        "intermediate_size": 288,
        "out_hidden_size": 128,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 16,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    }
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": True, **_ids(tokenizer)}


def qwen2_5_vl(tokenizer: Any) -> dict[str, Any]:
    """The content of a Qwen2.5-VL `config.json`, laid out as the published one."""
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "in_chans": 3,
        "out_hidden_size": 128,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "tokens_per_second": 2,
        "window_size": 64,
        "fullatt_block_indexes": [2],
    }
    return {
        "model_type": "qwen2_5_vl",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [6, 5, 5]},
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "eos_token_id": tokenizer.token_to_id(IM_END),
        "vision_config": vision,
        **_ids(tokenizer),
    }


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": IMAGE_PAD,
        "video_token_id": VIDEO_PAD,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    return {key: tokenizer.token_to_id(name) for key, name in names.items()}


MINIATURES: dict[str, tuple[System, Callable[[Any], dict[str, Any]]]] = {
    VINO_TINY.name: (VINO_TINY, qwen3_vl),
    VOGUE_TINY.name: (VOGUE_TINY, qwen2_5_vl),
}
"""The systems whose text encoder can be trained here, and what makes its config of a tokenizer."""


def fresh_model(config: dict[str, Any], seed: int) -> Any:
    """The model of a config in float32 with random weights that a short training starts well from."""
    import transformers

    family = FAMILIES[config.get("model_type", "qwen3_vl")]
    values = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(seed)
    model = getattr(transformers, family.model)(getattr(transformers, family.config)(**values))
    # On a CPU the fused attention's backward pass takes longer than all the rest of the step.
    model.set_attn_implementation("eager")
    layers = config.get("text_config", config)["num_hidden_layers"]
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            scale = 0.1
        else:
            scale = 0.7 / math.sqrt(parameter[0].numel())
            if name.endswith(("o_proj.weight", "down_proj.weight", "proj.weight", "linear_fc2.weight")):
                scale /= math.sqrt(layers)
        nn.init.normal_(parameter, std=scale)
    return model


def save_text_encoder(model: Any, config: dict[str, Any], tokenizer: Any, system: str, path: Path) -> None:
    """Write the self-contained file: bfloat16 weights, and config, tokenizer and system among its metadata."""
    state = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    metadata = {"config": json.dumps(config), "tokenizer": tokenizer.to_str(), "system": system, "format": "pt"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside([path], [sum(value.nbytes for value in state.values())], overwrite=True) as (aside,):
        save_file(state, aside, metadata)


def see(visual: Any, pictures: Tensor, limits: VisionLimits) -> tuple[Tensor, list[Tensor]]:
    """Vision tower over equal pictures at once: `pictures` [N, 2, H, W, 3] uint8, two frames each (a still one twice).

    Returns embeddings and deepstack features, [N * tokens, hidden] each. The same as one picture after another.
    """
    x, deepstack = see_patches(visual, pictures, limits)
    return visual.merger(x.flatten(0, 1)), deepstack


def see_patches(visual: Any, pictures: Tensor, limits: VisionLimits) -> tuple[Tensor, list[Tensor]]:
    """`see` before the last merger: the states of all patches [N, patches, width], and the deepstack features."""
    count, _, height, width, _ = pictures.shape
    size, merge = visual.patch_size, visual.spatial_merge_size
    rows, columns = height // size, width // size
    values = (pictures.float() - torch.tensor(limits.mean)) / torch.tensor(limits.std)
    blocks = values.reshape(count, 2, rows // merge, merge, size, columns // merge, merge, size, 3)
    patches = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(count * rows * columns, -1)
    order = torch.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    order = order.permute(0, 2, 1, 3).flatten()
    x = F.linear(patches, visual.patch_embed.proj.weight.flatten(1), visual.patch_embed.proj.bias)
    x = x.reshape(count, rows * columns, -1)
    learned = getattr(visual, "pos_embed", None)
    # Qwen3-VL has an embedding for each place of a grid, Qwen2.5-VL none, but windows.
    side = visual.window_size // size if learned is None else math.isqrt(learned.num_embeddings)
    if (rows, columns) != (side, side):
        raise ValueError(f"pictures of {rows} x {columns} patches; training takes {side} x {side}")
    if learned is not None:
        x = x + learned.weight[order]
    places = torch.stack([order // columns, order % columns], -1)
    cos, sin = (part[None, None] for part in visual.rotary_pos_emb(x, places))
    deepstack = []
    for index, block in enumerate(visual.blocks):
        x = x + _attend(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if index in getattr(visual, "deepstack_visual_indexes", ()):
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(index)]
            deepstack.append(merger(x.flatten(0, 1)))
    return x, deepstack


def _attend(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    count, length, _ = x.shape
    q, k, v = attention.qkv(x).reshape(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = (_turn(part.float(), cos, sin).to(v) for part in (q, k))
    shares = (q @ k.transpose(-1, -2) * attention.scaling).softmax(-1).to(v)
    return attention.proj((shares @ v).transpose(1, 2).flatten(2))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def states(
    model: Any, ids: Tensor, positions: Tensor, pictures: Tensor | None, pads: Sequence[int], limits: VisionLimits
) -> Tensor:
    """What leaves the last layer's norm, [B, L, hidden], for padded prompts: `ids` [B, L], `positions` [3, B, L].

    `pictures` [N, 2, H, W, 3] in the order of their pads (ids among `pads`). Padding stands at the end, where causal
    attention keeps it from the rest.
    """
    inner = model.model
    x = inner.language_model.embed_tokens(ids)
    injection: dict[str, Any] = {}
    if pictures is not None:
        embeds, deepstack = see(inner.visual, pictures, limits)
        mask = torch.isin(ids, torch.tensor(list(pads)))
        x = x.masked_scatter(mask[..., None], embeds.to(x.dtype))
        if deepstack:
            injection = {"visual_pos_masks": mask, "deepstack_visual_embeds": [part.to(x.dtype) for part in deepstack]}
    order = torch.arange(ids.shape[1]).expand_as(ids)
    return inner.language_model(
        inputs_embeds=x, position_ids=torch.cat([order[None], positions]), use_cache=False, **injection
    ).last_hidden_state
