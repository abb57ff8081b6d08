"""Qwen3-VL through the transformers library (4.57 and later), imported only when an engine is made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import load_state, read_metadata
from ..errors import InputError
from .engine import END_OF_TEXT, GREEDY, IM_END, KVCache, Sampling, VisionFeatures, VisualInjection
from .next_token import NextToken
from .tokenizer import plain_tokenizer, special_id, tokenizer_from_json

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class TransformersEngine:
    """`VLMEngine` on a frozen `Qwen3VLForConditionalGeneration` and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._tokenize = plain_tokenizer(tokenizer)
        self._trunk = _without_last_layer(model.model.language_model)

    @property
    def hidden_size(self) -> int:
        return self.model.config.text_config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def tokenize(self, text: str) -> list[int]:
        return self._tokenize(text)

    def token_id(self, name: str) -> int:
        return special_id(self.tokenizer, name)

    def embed(self, ids: Sequence[int]) -> Tensor:
        return self.model.get_input_embeddings()(torch.tensor([list(ids)], dtype=torch.int64, device=self.device))

    def vision(self, patches: Tensor, grid: tuple[int, int, int]) -> VisionFeatures:
        return self.visions(patches[None], grid)[0]

    def visions(self, patches: Tensor, grid: tuple[int, int, int]) -> list[VisionFeatures]:
        count = patches.shape[0]
        output = self.model.model.visual(
            patches.flatten(0, 1).to(self.device, self.dtype), grid_thw=torch.tensor([grid] * count, device=self.device)
        )
        # transformers 4 returns a pair, 5 an object.
        embeds, deepstack = output if isinstance(output, tuple) else (output.pooler_output, output.deepstack_features)
        levels = zip(*(level.chunk(count) for level in deepstack), strict=True)
        return [VisionFeatures(*each) for each in zip(embeds.chunk(count), levels, strict=True)]

    def decode(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        past: KVCache | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, KVCache]:
        cache = _dynamic_cache(past)
        states = _run(self._trunk, x, positions, visual, cache, present)
        return states, tuple((layer.keys, layer.values) for layer in cache.layers)

    @torch.no_grad()
    def generate(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        sampling: Sampling = GREEDY,
        on_token: Callable[[int], None] | None = None,
    ) -> str:
        choose = NextToken(sampling)
        stops = {self.token_id(IM_END), self.token_id(END_OF_TEXT)}
        cache = _dynamic_cache(None)
        position = positions[:, -1:]
        ids: list[int] = []
        while len(ids) < sampling.max_new_tokens:
            if on_token:
                on_token(len(ids))
            states = _run(self.model.model.language_model, x, positions, visual, cache)
            token = choose(self.model.lm_head(states[0, -1]))
            if token in stops:
                break
            ids.append(token)
            x, visual = self.embed([token]), None
            positions = position = position + 1
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def _dynamic_cache(past: KVCache | None) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(past or ()):
        cache.update(keys, values, index)  # concatenates into new tensors: the caller's stay as they are
    return cache


def _run(
    language_model: nn.Module,
    x: Tensor,
    positions: Tensor,
    visual: VisualInjection | None,
    cache: Any,
    present: Tensor | None = None,
) -> Tensor:
    """States [B, n, hidden] of `language_model` for `x` behind what `cache` holds; `cache` grows."""
    seen = cache.get_seq_length()
    axes = positions.to(x.device)
    axes = axes[:, None] if axes.ndim == 2 else axes
    order = torch.arange(seen, seen + x.shape[1], device=x.device).expand(1, *axes.shape[1:])
    injection: dict[str, Any] = {} if present is None else {"attention_mask": present}
    if visual is not None:
        injection["visual_pos_masks"] = visual.mask.to(x.device).expand(x.shape[0], -1)
        injection["deepstack_visual_embeds"] = list(visual.deepstack)
    output = language_model(
        inputs_embeds=x,
        # The first row is the plain order: without it, pictures' standing time reads as several packed sequences.
        position_ids=torch.cat([order, axes]),
        past_key_values=cache,
        use_cache=True,
        **injection,
    )
    return output.last_hidden_state


def _without_last_layer(language_model: nn.Module) -> nn.Module:
    """A second language model on the same modules that ends with what enters the last layer; the first stays whole."""
    config = copy.deepcopy(language_model.config)
    if config.num_hidden_layers < 2:
        raise InputError(f"The text encoder has {config.num_hidden_layers} decoder layer; at least 2 are needed.")
    config.num_hidden_layers -= 1
    with torch.device("meta"):
        trunk = type(language_model)(config)
    trunk.embed_tokens = language_model.embed_tokens
    trunk.layers = nn.ModuleList(list(language_model.layers)[:-1])
    trunk.norm = nn.Identity()
    trunk.rotary_emb = language_model.rotary_emb
    return trunk.eval()


def load_engine(
    path: str | Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> TransformersEngine:
    """Engine from a local Hugging Face folder of Qwen3-VL (config.json, safetensors, tokenizer), or from one file.

    The file is a safetensors file with the texts of config.json and tokenizer.json in its metadata, as `config` and
    `tokenizer`. Nothing is fetched. Raises InputError when there is neither, when it holds another model, or when its
    weights do not fit its config.
    """
    path = Path(path)
    return _from_file(path, dtype, device) if path.is_file() else _from_folder(path, dtype, device)


def _from_file(path: Path, dtype: torch.dtype, device: torch.device | str) -> TransformersEngine:
    metadata = read_metadata(path)
    absent = [name for name in ("config", "tokenizer") if name not in metadata]
    if absent:
        raise InputError(
            f"Text encoder file '{path}' has no {' and no '.join(absent)} in its metadata. Point to the folder of a "
            "download of Qwen3-VL-4B-Instruct instead, or to a file that was made to stand alone."
        )
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise InputError(f"Text encoder file '{path}': its config is damaged ({error}). Download it again.") from error
    tokenizer = tokenizer_from_json(metadata["tokenizer"], f"Text encoder file '{path}'")
    return engine_from_state(config, load_state(path), tokenizer, dtype, device)


def _from_folder(folder: Path, dtype: torch.dtype, device: torch.device | str) -> TransformersEngine:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"Text encoder folder '{folder}' has no config.json. Point to a download of Qwen3-VL-4B-Instruct, for "
            "example made with `hf download Qwen/Qwen3-VL-4B-Instruct --local-dir FOLDER`."
        )
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        # Checked here because transformers 5 makes an empty vocabulary of missing files.
        wanted = " nor ".join(" and ".join(names) for names in TOKENIZER_FILES)
        raise InputError(
            f"Text encoder folder '{folder}' has no tokenizer: neither {wanted}. "
            "Copy these files from Qwen3-VL-4B-Instruct into it."
        )
    transformers = _transformers()
    from safetensors import SafetensorError

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        _check_model_type(config.model_type, f"Text encoder folder '{folder}'")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"Text encoder folder '{folder}' cannot be loaded: {error} Download Qwen3-VL-4B-Instruct again, all files."
        ) from error
    _check_keys(report["missing_keys"], report["unexpected_keys"], f"Text encoder folder '{folder}'")
    return TransformersEngine(model.to(device), tokenizer)


def engine_from_state(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    tokenizer: Any,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TransformersEngine:
    """Engine from a config and weights in memory, for miniature models.

    config: content of a Qwen3-VL config.json (`text_config`, `vision_config`, ...).
    state: weights by their names in the model (`model.language_model.*`, `model.visual.*`); `lm_head.weight` may be
    left out when the config ties it to the embedding.
    tokenizer: a Hugging Face tokenizer of the Qwen2 family.
    Raises InputError, listing names and shapes, when keys are missing, unexpected or of another shape.
    """
    transformers = _transformers()
    _check_model_type(config.get("model_type", "qwen3_vl"), "Text encoder config")
    built = transformers.Qwen3VLConfig(**{key: value for key, value in config.items() if key != "model_type"})
    model = transformers.Qwen3VLForConditionalGeneration(built)
    own = model.state_dict()
    tied = {"lm_head.weight"} if built.tie_word_embeddings else set()
    _check_keys(own.keys() - state.keys() - tied, state.keys() - own.keys(), "Text encoder weights")
    misshapen = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if value.shape != own[name].shape
    ]
    if misshapen:
        raise InputError(
            f"Text encoder weights: {len(misshapen)} have other shapes than the config says, first {misshapen[0]}. "
            "Use the config that belongs to the weights."
        )
    model.load_state_dict(dict(state), strict=False)
    for parameter in model.parameters():  # not model.to(dtype): the rotary frequencies must stay in float32
        parameter.data = parameter.data.to(dtype)
    return TransformersEngine(model.to(device), tokenizer)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"The text encoder needs the transformers package, 4.57 or later, and it does not load ({error}). "
            "Install it: `pip install 'transformers>=4.57'`."
        ) from error
    if not hasattr(transformers, "Qwen3VLForConditionalGeneration"):
        raise InputError(
            f"transformers {transformers.__version__} does not know Qwen3-VL. Install 4.57 or later: "
            "`pip install -U transformers`."
        )
    return transformers


def _check_model_type(model_type: str, source: str) -> None:
    if model_type != "qwen3_vl":
        raise InputError(
            f"{source} describes a model of type '{model_type}'; 'qwen3_vl' (Qwen3-VL-4B-Instruct) is needed."
        )


def _check_keys(missing: Any, unexpected: Any, source: str) -> None:
    problems = [
        f"{len(names)} {word} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise InputError(
            f"{source}: weights {' and '.join(problems)}. Use the complete weights of Qwen3-VL-4B-Instruct, or the "
            "config that belongs to them."
        )
