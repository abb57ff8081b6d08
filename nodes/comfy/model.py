"""VINO on ComfyUI's MODEL wire: the core's MMDiT with ComfyUI's layers, attention, patches and memory management."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.conds
import comfy.hooks
import comfy.model_base
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...vino_core.config import MMDiTConfig
from ...vino_core.errors import InputError
from ...vino_core.media.sizing import TEMPORAL_STRIDE
from ...vino_core.mmdit.attention import Attention
from ...vino_core.mmdit.connectors import connect
from ...vino_core.mmdit.model import BlockRunner, Conditioning, MMDiT
from ...vino_core.systems import get_system
from ...vino_core.systems.base import System
from .conditioning import ABSENT, BEHIND, BOUNDARIES, FIRST_FRAME, LEARNABLE, SYSTEM
from .systems import FOREIGN, expect_same

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
        learnable: int | None = None,
    ) -> None:
        super().__init__(config, system.layout, operations, dtype, device)
        self.system = system
        self.learnable = learnable
        """How many learnable tokens it was trained with, where its file says so."""

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        boundaries: Tensor | None = None,
        ref_latents: Sequence[Tensor] = (),
        conditions: Sequence[Tensor] = (),
        first_frame: Tensor | None = None,
        absent: str | None = None,
        control: Any = None,
        transformer_options: Options = {},  # noqa: B006 - ComfyUI's convention; it is copied before it is changed
        **_: Any,
    ) -> Tensor:
        """Velocity [B, 16, T, H, W]; that of a first frame, which is known already, is zero.

        `absent` is the reason why this branch has no conditioning, and raised.
        """
        if absent is not None:
            raise InputError(absent)
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        known = 0 if first_frame is None else first_frame.shape[2]
        if known == x.shape[2]:
            raise InputError("latent_image: it has one frame, and the first one is given. Generate at least 5 frames.")
        velocity = executor.execute(
            x[:, :, known:], timestep, context, boundaries, ref_latents, conditions, transformer_options
        )
        return torch.cat([torch.zeros_like(x[:, :, :known]), velocity], dim=2) if known else velocity

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        boundaries: Tensor | None,
        ref_latents: Sequence[Tensor],
        conditions: Sequence[Tensor],
        transformer_options: Options,
    ) -> Tensor:
        self._check_sizes(x, (*ref_latents, *conditions))
        options = transformer_options.copy()
        guidance = self.system.guidance_input
        return super().forward(
            x,
            timestep,
            Conditioning(context, boundaries, tuple(ref_latents), conditions=tuple(conditions)),
            None if guidance is None else torch.tensor([guidance], device=x.device),
            _attention(options),
            _runner(options, {"double_block": len(self.double_blocks), "single_block": len(self.single_blocks)}),
        )

    def _check_sizes(self, x: Tensor, latents: Sequence[Tensor]) -> None:
        """Raise InputError for references of another size than the target's, where the system has one for all."""
        for latent in latents if self.system.one_size else ():
            if latent.shape[-2:] != x.shape[-2:]:
                (rows, columns), (height, width) = ([8 * side for side in one.shape[-2:]] for one in (latent, x))
                raise InputError(
                    f"latent_image: it is {width}x{height} pixels, but the references were prepared for {columns}x"
                    f"{rows}, and {self.system.name} takes one size for all. Connect width and height of VINO "
                    "References to VINO Empty Latent."
                )


def _check_lengths(noise: Tensor, conditions: Sequence[Tensor]) -> None:
    """Raise InputError for what is edited, a picture or clip, where it is not as long as the result.

    `noise` is that of the whole result, also where context windows divide it.
    """
    for latent in conditions:
        if latent.shape[2] != noise.shape[2]:
            given, frames = (TEMPORAL_STRIDE * (one.shape[2] - 1) + 1 for one in (latent, noise))
            raise InputError(
                f"latent_image: its length is {frames}, but what is edited gave {given}, and it is edited frame by "
                "frame. Connect length of VINO References to VINO Empty Latent."
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
        self.memory_usage_factor_conds = ("ref_latents", "conditions")

    def process_timestep(self, timestep: Tensor, **_: Any) -> Tensor:
        """From sigma x multiplier, which ModelSamplingSD3 resets, to the scale and precision that it was trained on."""
        system = self.diffusion_model.system
        # ModelSamplingFlux's has none: its timestep is sigma.
        timestep = timestep * (system.timestep_scale / getattr(self.model_sampling, "multiplier", 1.0))
        return timestep.to(self.get_dtype_inference()).float() if system.rounded_timestep else timestep

    def _apply_model(self, x: Tensor, t: Tensor, *arguments: Any, **conds: Any) -> Tensor:
        """Core's, with a known first frame in the place of its prediction: so every sampler ends at exactly that."""
        denoised = super()._apply_model(x, t, *arguments, **conds)
        first = conds.get("first_frame")
        if first is not None:
            denoised[:, :, : first.shape[2]] = first.to(denoised)
        return denoised

    def encode_adm(self, **_: Any) -> None:
        return None

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What one CONDITIONING entry becomes before sampling: the connectors run here, once for all steps."""
        if ABSENT in kwargs:
            return {"absent": comfy.conds.CONDConstant(kwargs[ABSENT])}
        if BOUNDARIES not in kwargs or SYSTEM not in kwargs:
            raise InputError(FOREIGN.format("conditioning"))
        system = self.diffusion_model.system
        expect_same("conditioning", get_system(kwargs[SYSTEM]), system, "the model")
        self._expect_tokens(kwargs.get(LEARNABLE))
        latents = list(kwargs.get("reference_latents", ()))
        boundaries = kwargs[BOUNDARIES]
        if len(latents) != len(boundaries):
            raise InputError(
                f"conditioning: the prompt was encoded with {len(boundaries)} references, but has {len(latents)} "
                "reference latents. Pass it through VINO Reference Latents, with the same references, and add no "
                "others."
            )
        self._warn_of_hooks(kwargs.get("hooks"))
        states = kwargs["cross_attn"].to(device=kwargs["device"], dtype=self.get_dtype_inference())
        connected = connect(self.diffusion_model, system, states, boundaries)
        out = {"c_crossattn": comfy.conds.CONDRegular(connected.text)}
        if connected.boundaries is not None:
            out["boundaries"] = comfy.conds.CONDRegular(connected.boundaries)
        before = len(latents) - kwargs.get(BEHIND, 0)
        _check_lengths(kwargs["noise"], latents[before:])
        scaled = [self.process_latent_in(latent) for latent in latents]
        for name, placed in (("ref_latents", scaled[:before]), ("conditions", scaled[before:])):
            if placed:
                out[name] = comfy.conds.CONDList(placed)
        if FIRST_FRAME in kwargs:
            out["first_frame"] = comfy.conds.CONDRegular(self.process_latent_in(kwargs[FIRST_FRAME]))
        return out

    def _warn_of_hooks(self, hooks: comfy.hooks.HookGroup | None) -> None:
        """Say what a LoRA on a hook lacks: connectors run here, before hooks change any weight."""
        weights = hooks.get_type(comfy.hooks.EnumHookType.Weight) if hooks is not None else []
        names = [connector.name for connector in self.diffusion_model.config.connectors]
        if any(name in key for hook in weights for key in hook.weights or () for name in names):
            log.warning(
                "A hooked LoRA changes the connectors (%s) too. Hooks do not reach those: its part on them is left "
                "out. Load it with Load LoRA to have all of it.",
                ", ".join(names),
            )

    def _expect_tokens(self, found: int | None) -> None:
        """Raise InputError when the conditioning was made with another number of learnable tokens than is trained."""
        wanted = self.diffusion_model.learnable
        if found is not None and wanted is not None and found != wanted:
            raise InputError(
                f"conditioning: it was made with {found} learnable tokens, but the model was trained with {wanted}. "
                "Connect the tokens of this model to VINO Interleaved Encoder and VINO Learnable Tokens, or none where "
                "it has none, or load the other model."
            )

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, *arguments: Any, **options: Any
    ) -> Any:
        """A context window edits its own frames of a clip; one that does not begin with the first frame has that among
        its references only."""
        if cond_key == "conditions":
            return comfy.conds.CONDList([window.get_tensor(latent, latent.device) for latent in cond_value.cond])
        if cond_key == "first_frame" and window.index_list[0] != 0:
            return comfy.conds.CONDConstant(None)
        return super().resize_cond_for_context_window(cond_key, cond_value, window, *arguments, **options)

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
        name = self.diffusion_model.system.name
        if missing:
            raise InputError(
                f"{name} model: {len(missing)} weights are missing from the file, {missing[0]} among them. The file is "
                "incomplete: convert the official checkpoint again with `vino convert`."
            )
        if unexpected:
            log.warning(
                "%s model: ignored %d weights that are not its own, %s first", name, len(unexpected), unexpected[0]
            )
        return self
