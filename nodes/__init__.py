"""The ComfyUI side: nodes that validate, call `vino_core` and return."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .comfy.registration import register
from .encode import VINOEncoder
from .loaders import VINOModelLoader, VINOTextEncoderLoader, VINOTokensLoader
from .packing import VINOReferenceLatents
from .presets import VINOPreset
from .references import VINOReferences
from .sampling import VINODualCFGGuider, VINOEmptyLatent, VINOSampler, VINOScheduler
from .tokens import VINOLearnableTokens
from .training_dataset import VINOLoraDataset
from .training_lora import VINOTrainLora
from .understanding import VINOAsk, VINOPromptRewriter, VINOThink


class VINOExtension(ComfyExtension):
    """What ComfyUI asks for when it loads the pack."""

    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            VINOModelLoader,
            VINOTextEncoderLoader,
            VINOTokensLoader,
            VINOPreset,
            VINOReferences,
            VINOEncoder,
            VINOLearnableTokens,
            VINOReferenceLatents,
            VINOEmptyLatent,
            VINOScheduler,
            VINODualCFGGuider,
            VINOSampler,
            VINOPromptRewriter,
            VINOAsk,
            VINOThink,
            VINOLoraDataset,
            VINOTrainLora,
        ]


async def comfy_entrypoint() -> VINOExtension:
    return VINOExtension()
