"""ComfyUI's native vision-language models behind the core's `VLMEngine`.

Weights stay ComfyUI's: its memory management, fp8, GGUF and LoRA patches apply, because every layer that runs here is
its own module. Only the loop over the layers is ours. Core's loop would compute what is not needed and hold a square
float mask, and it knows no continuation of several tokens on a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.sd import CLIP
from torch import Tensor

from ...vino_core.encoder.engine import (
    END_OF_TEXT,
    GREEDY,
    IM_END,
    KVCache,
    Sampling,
    TextGeneration,
    VisionFeatures,
    VisualInjection,
)
from ...vino_core.encoder.next_token import NextToken
from ...vino_core.encoder.tokenizer import plain_tokenizer, special_id
from ...vino_core.errors import InputError
from .families import FAMILIES, Family, family_of, transformer_of
from .head import read_head


def network_of(clip: CLIP) -> tuple[Any, Family]:
    """The network inside a CLIP and what it is. Raises InputError when it is another text encoder."""
    transformer = transformer_of(clip)
    family = family_of(transformer)
    if family is None:
        ways = " or ".join(f"{family.title} with type '{family.clip_type}'" for family in FAMILIES)
        raise InputError(
            f"clip: this text encoder is a {type(transformer).__name__}, not a Qwen3-VL or Qwen2.5-VL. Load it with "
            f"VINO Text Encoder Loader, or with Load CLIP: {ways}."
        )
    return transformer, family


@contextmanager
def open_engine(clip: CLIP, tokens: int, passes: int = 0, visuals: int = 0) -> Iterator[ComfyVLM]:
    """Load the text encoder and give its engine.

    The sequences of `passes` calls to `decode` are expected to hold about `tokens` tokens each; together with `visuals`
    calls to `vision` they are what the progress bar counts. Raises InputError when `clip` holds none of the FAMILIES.
    """
    engine = ComfyVLM(clip, passes, visuals)
    needed = engine.memory(tokens) * max(1, passes)
    comfy.model_management.load_models_gpu([clip.patcher], memory_required=needed)
    with comfy.model_management.cuda_device_context(engine.device):
        yield engine


class ComfyVLM(TextGeneration):
    """See `vino_core.encoder.engine.VLMEngine`. The weights must be loaded while it is used, see `open_engine`."""

    def __init__(self, clip: CLIP, passes: int = 0, visuals: int = 0) -> None:
        self._clip = clip
        self._transformer, self._family = network_of(clip)
        self._head: Tensor | None = None
        self._tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer
        self._tokenize = plain_tokenizer(self._tokenizer)
        self._layers = self._transformer.model.layers[: None if self._family.core.whole else -1]
        self._progress = comfy.utils.ProgressBar(visuals + passes * len(self._layers))
        self.device: torch.device = clip.patcher.load_device
        # ComfyUI runs every text encoder's activations in float32, whatever the weights' type.
        self.dtype = torch.float32

    @property
    def hidden_size(self) -> int:
        return self._transformer.model.config.hidden_size

    def memory(self, tokens: int) -> int:
        """Bytes that `tokens` tokens take besides the weights: the cache, and the widest activations of one layer."""
        config = self._transformer.model.config
        cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        activations = 4 * (config.hidden_size + config.intermediate_size)
        return 4 * tokens * (cache + activations)

    def tokenize(self, text: str) -> list[int]:
        return self._tokenize(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token_id(self, name: str) -> int:
        return special_id(self._tokenizer, name)

    def embed(self, ids: Sequence[int]) -> Tensor:
        indices = torch.tensor([list(ids)], dtype=torch.long, device=self.device)
        return self._transformer.get_input_embeddings()(indices, out_dtype=self.dtype)

    def vision(self, patches: Tensor, grid: tuple[int, int, int]) -> VisionFeatures:
        self._advance()
        # The grid only steers Python loops, so it stays on the CPU.
        features = self._transformer.visual(patches.to(self.device, self.dtype), torch.tensor([grid]))
        embeds, deepstack = features if isinstance(features, tuple) else (features, ())
        return VisionFeatures(embeds.to(self.dtype), tuple(feature.to(self.dtype) for feature in deepstack))

    def decode(
        self, x: Tensor, positions: Tensor, visual: VisualInjection | None = None, past: KVCache | None = None
    ) -> tuple[Tensor, KVCache]:
        model = self._transformer.model
        x = x.to(self.device, self.dtype)
        rotary = model.compute_freqs_cis(positions.to(self.device), self.device)
        attention = _causal_attention(x.shape[1], past[0][0].shape[2] if past else 0, self.device)
        where = None if visual is None else visual.mask.to(self.device).nonzero().squeeze(1)
        cache = []
        for index, layer in enumerate(self._layers):
            self._advance()
            # A cache of exactly the tokens so far makes core's layer concatenate instead of writing into it.
            old = (*(part.to(self.device) for part in past[index]), past[index][0].shape[2]) if past else ()
            x, (keys, values, _) = layer(x, freqs_cis=rotary, optimized_attention=attention, past_key_value=old)
            cache.append((keys, values))
            if where is not None and index < len(visual.deepstack):
                x = x.index_add(1, where, visual.deepstack[index].to(x)[None])
        return model.norm(x) if self._family.core.whole else x, tuple(cache)

    def generate_ids(
        self,
        x: Tensor,
        positions: Tensor,
        visual: VisualInjection | None = None,
        sampling: Sampling = GREEDY,
        on_token: Callable[[int], None] | None = None,
        prompt: Sequence[int] = (),
    ) -> list[int]:
        """See `VLMEngine`. Raises InputError when the model was loaded without its head, and its file has none."""
        transformer, model = self._transformer, self._transformer.model
        choose = NextToken(sampling, prompt)
        stops = {self.token_id(IM_END), self.token_id(END_OF_TEXT)}
        # One token at a time is bound by reading the weights: like core, don't widen them where bfloat16 is fast.
        bf16 = comfy.model_management.should_use_bf16(self.device)
        x = x.to(self.device, torch.bfloat16 if bf16 else torch.float32)
        if self._headless:
            self._load_head(x.dtype, x.shape[1] + sampling.max_new_tokens)
        position = positions[:, -1:].to(self.device)
        cache = transformer.init_kv_cache(1, x.shape[1] + sampling.max_new_tokens, self.device, x.dtype)
        injection: dict[str, Any] = {}
        if visual is not None:
            injection = {
                "visual_pos_masks": visual.mask.to(self.device)[None],
                "deepstack_embeds": [feature.to(self.device) for feature in visual.deepstack],
            }
        positions = positions.to(self.device)
        ids: list[int] = []
        while len(ids) < sampling.max_new_tokens:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if on_token is not None:
                on_token(len(ids))
            states, _, cache = model(None, embeds=x, position_ids=positions, past_key_values=cache, **injection)
            token = choose(self.logits(states)[0, -1])
            if token in stops:
                break
            ids.append(token)
            x, injection = self.embed([token]).to(x.dtype), {}
            positions = position = position + 1
        return ids

    def logits(self, states: Tensor) -> Tensor:
        """Of the last state of [1, n, hidden_size]: [1, 1, vocabulary]."""
        head = getattr(self._transformer.model, "lm_head", None)
        if head is not None:
            return head(states[:, -1:])
        return self._transformer.logits(states) if self._head is None else F.linear(states[:, -1:], self._head)

    @property
    def _headless(self) -> bool:
        """Whether the network lacks the head, and its embedding does not stand for it."""
        return getattr(self._transformer.model, "lm_head", None) is None and not self._family.tied

    def _load_head(self, dtype: torch.dtype, tokens: int) -> None:
        """Put the head of the CLIP's file beside the weights, for as long as the engine lives."""
        config = self._transformer.model.config
        head = read_head(self._clip, self._family.title, (config.vocab_size, config.hidden_size))
        needed = self.memory(tokens) + head.numel() * dtype.itemsize
        comfy.model_management.load_models_gpu([self._clip.patcher], memory_required=needed)
        self._head = head.to(self.device, dtype)

    def _advance(self) -> None:
        """One unit of work begins: stop here if the user asked for it."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._progress.update(1)


def _causal_attention(length: int, past: int, device: torch.device) -> Callable[..., Tensor]:
    """Attention of `length` new tokens to `past` old ones and to themselves, never holding a square mask."""
    mask = None
    if past and length > 1:
        mask = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
        out = comfy.ops.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=not past, enable_gqa=options.get("enable_gqa", False)
        )
        return out.transpose(1, 2).flatten(2)

    return attention
