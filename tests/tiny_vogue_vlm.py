"""A miniature Qwen2.5-VL with random weights, for tests that need no reference numbers."""

from __future__ import annotations

from typing import Any

import torch
from paths import qwen_tokenizer, small_tokenizer
from torch import Tensor

from vino_core.encoder.encode import EncodedVisual
from vino_core.encoder.prompt import VisualItem
from vino_core.encoder.transformers_engine import TransformersEngine, engine_from_state

HIDDEN = 32

# As the published config.json is laid out: no text_config, and a rope_scaling of the old kind.
CONFIG: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "vocab_size": 152_064,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128_000,
    "max_window_layers": 28,
    "use_sliding_window": False,
    "sliding_window": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": False,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
    "image_token_id": 151_655,
    "video_token_id": 151_656,
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": HIDDEN,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    },
}


def small_config() -> dict[str, Any]:
    """CONFIG with a row for each token of small_tokenizer: without that, nearly all weights are those of words."""
    return {**CONFIG, "vocab_size": len(small_tokenizer())}


def random_state(seed: int = 0, given: dict[str, Any] = CONFIG) -> dict[str, Tensor]:
    """Weights for a config by their names in today's files: norms around 1, biases not zero."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        config = Qwen2_5_VLConfig(**{key: value for key, value in given.items() if key != "model_type"})
        shapes = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    state = {}
    for name, value in shapes.items():
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name or name.endswith("ln_q.weight"):
            state[name] = 1 + 0.1 * noise
        elif value.ndim == 1:
            state[name] = 0.1 * noise
        else:
            state[name] = noise if "embed_tokens" in name else noise / value[0].numel() ** 0.5
    return state


def older_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as transformers 4.51 called them."""
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value
        for name, value in state.items()
    }


def tiny_engine() -> TransformersEngine:
    """Float32 engine of CONFIG on the CPU."""
    return engine_from_state(CONFIG, random_state(), qwen_tokenizer())


def small_engine() -> TransformersEngine:
    """As `tiny_engine`, of small_config: quick to write, to read and to make a hash of."""
    return engine_from_state(small_config(), random_state(0, small_config()), small_tokenizer())


def tiny_visuals(engine: TransformersEngine, *kinds: str) -> tuple[EncodedVisual, ...]:
    """One reference per kind ("image", "video"), each of another size, with random patches."""
    generator = torch.Generator().manual_seed(len(kinds))
    visuals = []
    for number, kind in enumerate(kinds):
        grid = (1 if kind == "image" else 3, 4 + 2 * number, 10)
        patches = torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=generator)
        visuals.append(EncodedVisual(VisualItem(kind, grid), engine.vision(patches, grid)))
    return tuple(visuals)
