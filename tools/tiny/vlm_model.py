"""The miniature's Qwen3-VL: its dimensions, its first weights, and a forward pass over a batch of small pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vino_core.checkpoints.writing import written_aside
from vino_core.encoder.engine import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

SYSTEM = "vino-tiny"


def config_of(tokenizer: Any) -> dict[str, Any]:
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
    names = {
        "image_token_id": IMAGE_PAD,
        "video_token_id": VIDEO_PAD,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    ids = {key: tokenizer.token_to_id(name) for key, name in names.items()}
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": True, **ids}


def fresh_model(config: dict[str, Any], seed: int) -> Any:
    """A `Qwen3VLForConditionalGeneration` in float32 with random weights that a short training starts well from."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    # On a CPU the fused attention's backward pass takes longer than all the rest of the step.
    model.set_attn_implementation("eager")
    layers = config["text_config"]["num_hidden_layers"]
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


def save_text_encoder(model: Any, config: dict[str, Any], tokenizer: Any, path: Path) -> None:
    """Write the self-contained file: bfloat16 weights, and config, tokenizer and system among its metadata."""
    state = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    metadata = {"config": json.dumps(config), "tokenizer": tokenizer.to_str(), "system": SYSTEM, "format": "pt"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside([path], [sum(value.nbytes for value in state.values())], overwrite=True) as (aside,):
        save_file(state, aside, metadata)


def see(visual: Any, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Vision tower over equal pictures at once: `pictures` [N, 2, H, W, 3] uint8, two frames each (a still one twice).

    Returns embeddings and deepstack features, [N * tokens, hidden] each. The same as one picture after another.
    """
    x, deepstack = see_patches(visual, pictures)
    return visual.merger(x.flatten(0, 1)), deepstack


def see_patches(visual: Any, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`see` before the last merger: the states of all patches [N, patches, width], and the deepstack features."""
    count, _, height, width, _ = pictures.shape
    size, merge = visual.patch_size, visual.spatial_merge_size
    rows, columns = height // size, width // size
    values = (pictures.float() - 127.5) / 127.5
    blocks = values.reshape(count, 2, rows // merge, merge, size, columns // merge, merge, size, 3)
    patches = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(count * rows * columns, -1)
    order = torch.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    order = order.permute(0, 2, 1, 3).flatten()
    if rows * columns != visual.pos_embed.num_embeddings or rows != columns:
        raise ValueError(f"pictures of {rows} x {columns} patches; training takes the grid of the position embedding")
    x = F.linear(patches, visual.patch_embed.proj.weight.flatten(1), visual.patch_embed.proj.bias)
    x = x.reshape(count, rows * columns, -1) + visual.pos_embed.weight[order]
    places = torch.stack([order // columns, order % columns], -1)
    cos, sin = (part[None, None] for part in visual.rotary_pos_emb(x, places))
    deepstack = []
    for index, block in enumerate(visual.blocks):
        x = x + _attend(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if index in visual.deepstack_visual_indexes:
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


def states(model: Any, ids: Tensor, positions: Tensor, pictures: Tensor | None, pads: Sequence[int]) -> Tensor:
    """What leaves the last layer's norm, [B, L, hidden], for padded prompts: `ids` [B, L], `positions` [3, B, L].

    `pictures` [N, 2, H, W, 3] in the order of their pads (ids among `pads`). Padding stands at the end, where causal
    attention keeps it from the rest.
    """
    inner = model.model
    x = inner.language_model.embed_tokens(ids)
    injection: dict[str, Any] = {}
    if pictures is not None:
        embeds, deepstack = see(inner.visual, pictures)
        mask = torch.isin(ids, torch.tensor(list(pads)))
        x = x.masked_scatter(mask[..., None], embeds.to(x.dtype))
        injection = {"visual_pos_masks": mask, "deepstack_visual_embeds": [part.to(x.dtype) for part in deepstack]}
    order = torch.arange(ids.shape[1]).expand_as(ids)
    return inner.language_model(
        inputs_embeds=x, position_ids=torch.cat([order[None], positions]), use_cache=False, **injection
    ).last_hidden_state
