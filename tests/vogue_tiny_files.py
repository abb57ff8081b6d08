"""A vogue-tiny of few random weights, as a folder of files."""

from __future__ import annotations

from pathlib import Path

from paths import ROOT
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.tiny.vlm_model import fresh_model, qwen2_5_vl, save_text_encoder
from vino_core.checkpoints.files import model_metadata, read_metadata
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.training.config import Fresh
from vino_core.training.parts import fresh_config, fresh_mmdit

SMALL = Fresh(32, 2, 3, 3, 1, 24, (4, 6, 6))


def write_vogue_tiny(models: Path) -> Path:
    """Write the folder vogue-tiny below `models`, without a VAE; returns it."""
    folder = models / "vogue-tiny"
    tokenizer = Tokenizer.from_str(read_metadata(ROOT / "models/vino-tiny/text_encoder.safetensors")["tokenizer"])
    config = {**qwen2_5_vl(tokenizer), "num_hidden_layers": 1}
    save_text_encoder(fresh_model(config, 0), config, tokenizer, "vogue-tiny", folder / "text_encoder.safetensors")
    model = fresh_mmdit(fresh_config(SMALL, VOGUE_TINY, 128), VOGUE_TINY, 0)
    save_file(model.state_dict(), folder / "model.safetensors", model_metadata("vogue-tiny", model.config))
    return folder
