"""The guider that evaluates no more branches than the scales ask for."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...vino_core.branches import check_scales
from ...vino_core.errors import InputError
from ...vino_core.sampling.guidance import Branch, guided_velocity, needed_branches
from ...vino_core.systems import get_system
from .conditioning import ABSENT, SAME_AS_NEGATIVE, SYSTEM

Conditioning = list[tuple[Tensor, dict[str, Any]]]


class DualCFGGuider(comfy.samplers.CFGGuider):
    """Text and image guidance of the core (`guided_velocity`) on ComfyUI's branches.

    The formula is linear with weights that add up to one, so it holds for denoised predictions as it does for
    velocities, and only those reach a guider.
    """

    def set_branches(self, conditionings: dict[Branch, Conditioning], text_scale: float, image_scale: float) -> None:
        """Keep the branches that the scales switch on.

        Raises InputError when one of them was not encoded, and for scales that the system does not take.
        """
        for name in {values[SYSTEM] for _, values in conditionings[Branch.POSITIVE] if SYSTEM in values}:
            check_scales(get_system(name), text_scale)
        third = conditionings.get(Branch.NEGATIVE_IMAGE)
        dropped = third is None or not any(SAME_AS_NEGATIVE in values for _, values in third)
        self.branches = needed_branches(text_scale, image_scale, dropped)
        if third is None and Branch.NEGATIVE_IMAGE in self.branches:
            raise InputError(
                f"negative_image: nothing is connected, but image_scale is {image_scale}. Connect negative_image of "
                "VINO Reference Latents, or set image_scale to 1."
            )
        for branch in self.branches:
            for _, values in conditionings[branch]:
                if ABSENT in values:
                    raise InputError(values[ABSENT])
        self.cfg = text_scale
        self.image_scale = image_scale
        self.inner_set_conds({branch.value: conditionings[branch] for branch in self.branches})

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = {}, seed: Any = None) -> Tensor:  # noqa: B006
        predictions = self._predictions(x, timestep, model_options)
        guided = guided_velocity(predictions, self.cfg, self.image_scale)
        if not any(model_options.get(name) for name in ("sampler_cfg_function", "sampler_post_cfg_function")):
            return guided
        # Other nodes' changes to guidance know one scale and two predictions: they get the text's, and what they change
        # there is added.
        text = {branch: predictions[branch] for branch in self.branches if branch is not Branch.NEGATIVE_IMAGE}
        uncond = Branch.NEGATIVE if Branch.NEGATIVE in text else Branch.POSITIVE
        changed = comfy.samplers.cfg_function(
            self.inner_model,
            predictions[Branch.POSITIVE],
            predictions[uncond],
            self.cfg,
            x,
            timestep,
            model_options=model_options,
            cond=self.conds[Branch.POSITIVE.value],
            uncond=self.conds[uncond.value],
        )
        return guided + (changed - guided_velocity(text, self.cfg, self.image_scale))

    def _predictions(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> dict[Branch, Tensor]:
        """The branches' denoised predictions, with what other nodes make of them before they are combined."""
        given = {"input": x, "sigma": timestep, "model": self.inner_model, "model_options": model_options}
        calculate = model_options.get("sampler_calc_cond_batch_function")
        together = [branch for branch in self.branches if calculate is None or branch is Branch.NEGATIVE_IMAGE]
        conds = [self.conds[branch.value] for branch in together]
        outputs = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options) if conds else []
        predictions = dict(zip(together, outputs, strict=True))
        # Other nodes know two branches, those of the text, and the second of them as None where it is off.
        pair = Branch.POSITIVE, Branch.NEGATIVE
        text = [self.conds[branch.value] if branch in self.branches else None for branch in pair]
        if calculate is not None:
            predictions |= dict(zip(pair, calculate({"conds": text, **given}), strict=False))
        for change in model_options.get("sampler_pre_cfg_function", []):
            made = [predictions[branch] if branch in predictions else torch.zeros_like(x) for branch in pair]
            scale = {"cond_scale": self.cfg, "timestep": timestep}
            changed = change({"conds": text, "conds_out": made, **scale, **given})
            predictions |= dict(zip(pair, changed, strict=False))
        return {branch: predictions[branch] for branch in self.branches}

    def sample(self, noise: Tensor, latent_image: Tensor, *arguments: Any, **options: Any) -> Tensor:
        check_finite("latent_image", latent_image, "Check the node that made it.")
        latents = super().sample(noise, latent_image, *arguments, **options)
        check_finite(
            "latents",
            latents,
            "The weights or the precision do not fit: use weight_dtype 'default', and check the model file with "
            "`vino doctor`.",
        )
        return latents


def check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Raise InputError when `tensor` holds NaN or infinity."""
    if not torch.isfinite(tensor).all():
        raise InputError(f"{name}: NaN or infinite values. {remedy}")
