"""Qwen-VL through the transformers library (4.57 and later), imported only when an engine is made."""

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
from .engine import END_OF_TEXT, GREEDY, IM_END, KVCache, Sampling, TextGeneration, VisionFeatures, VisualInjection
from .families import build, check_names, family_of, transformers_library
from .next_token import NextToken
from .tokenizer import plain_tokenizer, special_id, tokenizer_from_json

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class TransformersEngine(TextGeneration):
    """`VLMEngine` on a frozen model of one of the `FAMILIES` and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._tokenize = plain_tokenizer(tokenizer)
        family = family_of(model.config.model_type, "The text encoder's config")
        language_model = model.model.language_model
        self._trunk = language_model if family.whole else _without_last_layer(language_model)

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

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

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
        # transformers 5 returns an object; 4 a pair, or a tensor where there is no deepstack.
        if isinstance(output, tuple):
            embeds, deepstack = output
        elif isinstance(output, Tensor):
            embeds, deepstack = output, ()
        else:
            embeds, deepstack = output.pooler_output, getattr(output, "deepstack_features", ())
        levels = [level.chunk(count) for level in deepstack]
        return [
            VisionFeatures(each, tuple(level[number] for level in levels))
            for number, each in enumerate(embeds.chunk(count))
        ]

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
    def generate_ids(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        sampling: Sampling = GREEDY,
        on_token: Callable[[int], None] | None = None,
        prompt: Sequence[int] = (),
    ) -> list[int]:
        choose = NextToken(sampling, prompt)
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
        return ids


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
    if visual is not None and visual.deepstack:
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
    """Engine from a local Hugging Face folder of Qwen3-VL or Qwen2.5-VL (config.json, safetensors, tokenizer), or from
    one file.

    The file is a safetensors file with the texts of config.json and tokenizer.json in its metadata, as `config` and
    `tokenizer`; what is not there is taken from the files of such a folder beside it. Nothing is fetched. Which model
    it is, its weights' names say. Raises InputError when something is in neither place, when it holds another model,
    and when its weights do not fit the config or the tokenizer that was found.
    """
    path = Path(path)
    return _from_file(path, dtype, device) if path.is_file() else _from_folder(path, dtype, device)


def _from_file(path: Path, dtype: torch.dtype, device: torch.device | str) -> TransformersEngine:
    metadata, source, folder = read_metadata(path), f"Text encoder file '{path}'", path.parent
    config_from, tokenizer_from, beside = "its own config", "its own tokenizer", folder / "config.json"
    if "config" not in metadata and beside.is_file():
        metadata["config"], config_from = beside.read_text(encoding="utf-8"), f"'{beside}', which lies beside it,"
    absent = ["config"] if "config" not in metadata else []
    if "tokenizer" not in metadata and not _has_tokenizer(folder):
        absent.append("tokenizer")
    if absent:
        raise InputError(
            f"{source} has no {' and no '.join(absent)} in its metadata or beside it. Point to the folder of a "
            "download of Qwen3-VL-4B-Instruct (VINO) or Qwen2.5-VL-7B-Instruct (VOGUE) instead, put the file into it, "
            "or use a file that was made to stand alone."
        )
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: {config_from} is damaged ({error}). Download it again.") from error
    if not isinstance(config, dict):
        raise InputError(f"{source}: {config_from} is a {type(config).__name__}, not a model's config. Replace it.")
    if "tokenizer" in metadata:
        tokenizer = tokenizer_from_json(metadata["tokenizer"], source)
    else:
        tokenizer = transformers_library().AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer_from = f"the tokenizer in '{folder}'"
    model = build(config, load_state(path), dtype, device, source, config_from)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"{source} has rows for {rows:,} tokens, but {tokenizer_from} makes {len(tokenizer):,}. Put the tokenizer "
            "files that came with the weights in its place."
        )
    return TransformersEngine(model, tokenizer)


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)


def _from_folder(folder: Path, dtype: torch.dtype, device: torch.device | str) -> TransformersEngine:
    source = f"Text encoder folder '{folder}'"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{source} has no config.json. Point to a download of Qwen3-VL-4B-Instruct (VINO) or "
            "Qwen2.5-VL-7B-Instruct (VOGUE), for example made with `hf download Qwen/Qwen3-VL-4B-Instruct --local-dir "
            "FOLDER`."
        )
    if not _has_tokenizer(folder):  # checked here because transformers 5 makes an empty vocabulary of missing files
        wanted = " nor ".join(" and ".join(names) for names in TOKENIZER_FILES)
        raise InputError(
            f"{source} has no tokenizer: neither {wanted}. Copy these files into it from where its weights come from."
        )
    transformers = transformers_library()
    from safetensors import SafetensorError

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        family = family_of(config.model_type, source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = getattr(transformers, family.model).from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{source} cannot be loaded: {error} Download it again, all files.") from error
    check_names(family, report["missing_keys"], report["unexpected_keys"], source)
    return TransformersEngine(model.to(device), tokenizer)


def engine_from_state(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    tokenizer: Any,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TransformersEngine:
    """Engine from a config and weights in memory.

    config: content of a Qwen3-VL or Qwen2.5-VL config.json (`model_type`, `text_config`, `vision_config`, ...).
    state: weights by their names in the model (`model.language_model.*`, `model.visual.*`) or, of Qwen2.5-VL, by those
    of older files (`model.*`, `visual.*`); `lm_head.weight` may be left out when the config ties it to the embedding.
    tokenizer: a Hugging Face tokenizer of the Qwen2 family.
    Raises InputError, listing names and shapes, when keys are missing, unexpected or of another shape.
    """
    return TransformersEngine(build(config, state, dtype, device), tokenizer)
