"""A miniature Qwen3-VL with random weights, for tests that need no reference numbers."""

from __future__ import annotations

from typing import Any

import torch
from paths import qwen_tokenizer, small_tokenizer
from torch import Tensor

from vino_core.encoder.encode import EncodedVisual
from vino_core.encoder.prompt import VisualItem
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state

HIDDEN = 64
LAYERS = 4

CONFIG = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 5e6,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 36,
    },
    "tie_word_embeddings": True,
}


def small_config() -> dict[str, Any]:
    """CONFIG with a row for each token of small_tokenizer: without that, nearly all weights are those of words."""
    return {**CONFIG, "text_config": {**CONFIG["text_config"], "vocab_size": len(small_tokenizer())}}


def random_state(seed: int = 0, config: dict[str, Any] = CONFIG) -> dict[str, Tensor]:
    """Weights for a config with no parameter at a value that hides its use: norms around 1, biases not zero."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config)).state_dict()
    state = {}
    for name, value in shapes.items():
        noise = torch.randn(value.shape, generator=generator)
        if name == "lm_head.weight":
            continue
        if "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.1 * noise
        elif value.ndim == 1:
            state[name] = 0.1 * noise
        elif "embed" in name and value.ndim == 2:
            state[name] = 0.5 * noise
        else:
            state[name] = noise / value[0].numel() ** 0.5
    return state


def tiny_engine(seed: int = 0) -> TransformersEngine:
    """Float32 engine of CONFIG on the CPU."""
    return engine_from_state(CONFIG, random_state(seed), qwen_tokenizer())


def small_engine() -> TransformersEngine:
    """As `tiny_engine`, of small_config: quick to write, to read and to make a hash of."""
    return engine_from_state(small_config(), random_state(0, small_config()), small_tokenizer())


def tiny_visuals(engine: TransformersEngine, *kinds: str) -> tuple[EncodedVisual, ...]:
    """One reference per kind ("image", "video"), each of another size, with random patches."""
    generator = torch.Generator().manual_seed(len(kinds))
    visuals = []
    for number, kind in enumerate(kinds):
        grid = (1 if kind == "image" else 4, 4 + 2 * (number % 3), 6 + 2 * (number % 2))
        patches = torch.rand(grid[0] * grid[1] * grid[2], 1536, generator=generator) * 2 - 1
        visuals.append(EncodedVisual(VisualItem(kind, grid), engine.vision(patches, grid)))
    return tuple(visuals)
