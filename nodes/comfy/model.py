"""VINO on ComfyUI's MODEL wire: the core's MMDiT with ComfyUI's layers, attention, patches and memory management."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...vino_core.config import MMDiTConfig
from ...vino_core.errors import InputError
from ...vino_core.mmdit.attention import Attention
from ...vino_core.mmdit.connectors import connect
from ...vino_core.mmdit.model import BlockRunner, Conditioning, MMDiT
from ...vino_core.systems import get_system
from ...vino_core.systems.base import System
from .conditioning import ABSENT, BOUNDARIES, SYSTEM
from .systems import expect_same

Options = dict[str, Any]
log = logging.getLogger(__name__)


class DiffusionModel(MMDiT):
    """The core's MMDiT behind the interface that ComfyUI calls."""

    def __init__(
        self,
        image_model: str,
        system: System,
        config: MMDiTConfig,
        dtype: torch.dtype,
        device: Any,
        operations: Any,
    ) -> None:
        super().__init__(config, system.layout, operations, dtype, device)
        self.system = system

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        boundaries: Tensor | None = None,
        ref_latents: Sequence[Tensor] = (),
        absent: str | None = None,
        control: Any = None,
        transformer_options: Options = {},  # noqa: B006 - ComfyUI's convention; it is copied before it is changed
        **_: Any,
    ) -> Tensor:
        """Velocity [B, 16, T, H, W]. `absent` is the reason why this branch has no conditioning, and raised."""
        if absent is not None:
            raise InputError(absent)
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, boundaries, ref_latents, transformer_options)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        boundaries: Tensor | None,
        ref_latents: Sequence[Tensor],
        transformer_options: Options,
    ) -> Tensor:
        options = transformer_options.copy()
        guidance = self.system.guidance_input
        return super().forward(
            x,
            timestep,
            Conditioning(context, boundaries, tuple(ref_latents)),
            None if guidance is None else torch.tensor([guidance], device=x.device),
            _attention(options),
            _runner(options, {"double_block": len(self.double_blocks), "single_block": len(self.single_blocks)}),
        )


def _attention(options: Options) -> Attention:
    """ComfyUI's attention for the core; `options` says at each call which block is asking."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return optimized_attention(q, k, v, q.shape[1], mask=mask, skip_reshape=True, transformer_options=options)

    return attention


def _runner(options: Options, counts: dict[str, int]) -> BlockRunner:
    """Run blocks, or what another node put in their place (`patches_replace`)."""
    replacements = options.get("patches_replace", {}).get("dit", {})

    def run(kind: str, index: int, block: nn.Module, *arguments: Any, **needed: Any) -> Any:
        options.update(block_type=kind.removesuffix("_block"), block_index=index, total_blocks=counts[kind])
        replacement: Callable | None = replacements.get((kind, index))
        if kind == "double_block":
            img, txt, vector, rotary, attention = arguments
            options["img_slice"] = [txt.shape[1], txt.shape[1] + img.shape[1]]
        if replacement is None:
            return block(*arguments, **needed)

        streams = ("img", "txt") if kind == "double_block" else ("img",)
        *values, vector, rotary, attention = arguments

        def original(given: dict[str, Any]) -> dict[str, Any]:
            result = block(*(given[name] for name in streams), given["vec"], given["pe"], attention)
            return dict(zip(streams, result if len(streams) > 1 else (result,), strict=True))

        given = dict(zip(streams, values, strict=True))
        given.update(vec=vector, pe=rotary, attention_mask=None, transformer_options=options)
        result = replacement(given, {"original_block": original})
        return (result["img"], result["txt"]) if len(streams) > 1 else result["img"]

    return run


class VINO(comfy.model_base.HunyuanVideo):
    """The model on the MODEL wire. It is a HunyuanVideo to ComfyUI, which gives it that model's LoRA names."""

    def __init__(
        self, model_config: Any, model_type: Any = comfy.model_base.ModelType.FLOW, device: Any = None
    ) -> None:
        comfy.model_base.BaseModel.__init__(self, model_config, model_type, device=device, unet_model=DiffusionModel)
        self.memory_usage_factor_conds = ("ref_latents",)

    def process_timestep(self, timestep: Tensor, **_: Any) -> Tensor:
        """From sigma x multiplier, which ModelSamplingSD3 resets, to the sigma x 999 that the model was trained on."""
        return timestep * (self.diffusion_model.system.timestep_scale / self.model_sampling.multiplier)

    def encode_adm(self, **_: Any) -> None:
        return None

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What one CONDITIONING entry becomes before sampling: the connectors run here, once for all steps."""
        if ABSENT in kwargs:
            return {"absent": comfy.conds.CONDConstant(kwargs[ABSENT])}
        if BOUNDARIES not in kwargs or SYSTEM not in kwargs:
            raise InputError(
                "conditioning: it does not come from VINO Learnable Tokens. Encode the prompt with VINO Interleaved "
                "Encoder and VINO Learnable Tokens; other text encoding nodes leave out the learnable tokens."
            )
        system = self.diffusion_model.system
        expect_same("conditioning", get_system(kwargs[SYSTEM]), system, "the model")
        latents = list(kwargs.get("reference_latents", ()))
        boundaries = kwargs[BOUNDARIES]
        if len(latents) != len(boundaries):
            raise InputError(
                f"conditioning: the prompt was encoded with {len(boundaries)} references, but has {len(latents)} "
                "reference latents. Pass it through VINO Reference Latents, with the same references, and add no "
                "others."
            )
        states = kwargs["cross_attn"].to(device=kwargs["device"], dtype=self.get_dtype_inference())
        connected = connect(self.diffusion_model, system, states, boundaries)
        out = {"c_crossattn": comfy.conds.CONDRegular(connected.text)}
        if connected.boundaries is not None:
            out["boundaries"] = comfy.conds.CONDRegular(connected.boundaries)
            out["ref_latents"] = comfy.conds.CONDList([self.process_latent_in(latent) for latent in latents])
        return out

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        latents = kwargs.get("reference_latents")
        if not latents:
            return {}
        return {"ref_latents": [1, 16, sum(math.prod(latent.shape) for latent in latents) // 16]}

    def scale_latent_inpaint(self, **kwargs: Any) -> Tensor:
        return comfy.model_base.BaseModel.scale_latent_inpaint(self, **kwargs)

    def load_model_weights(self, sd: dict[str, Tensor], unet_prefix: str = "", assign: bool = False) -> VINO:
        """Load the weights; core only logs what is missing. Raises InputError for an incomplete file."""
        weights = {name[len(unet_prefix) :]: sd.pop(name) for name in list(sd) if name.startswith(unet_prefix)}
        weights = self.model_config.process_unet_state_dict(weights)
        missing, unexpected = self.diffusion_model.load_state_dict(weights, strict=False, assign=assign)
        if missing:
            raise InputError(
                f"VINO model: {len(missing)} weights are missing from the file, {missing[0]} among them. The file is "
                "incomplete: convert the official checkpoint again with `vino convert`."
            )
        if unexpected:
            log.warning(
                "VINO model: ignored %d weights that do not belong to it, %s first", len(unexpected), unexpected[0]
            )
        return self
