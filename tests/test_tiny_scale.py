"""A text encoder with smaller states says what it said: only the size of its states changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file

from vino_core.checkpoints.files import read_metadata
from vino_core.encoder.encode import BranchPrompt, encode_branches, encode_visuals
from vino_core.encoder.engine import GREEDY
from vino_core.encoder.transformers_engine import load_engine
from vino_core.encoder.understand import rewrite_prompt
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.toyworld.requests import Settings, request_of
from vino_core.toyworld.tasks import ToySource

sys.path.insert(0, str(ROOT))

from tools.tiny.vlm_scale import scale  # noqa: E402

SHIPPED = ROOT / "models" / "vino-tiny" / "text_encoder.safetensors"
HALVINGS = 4
"""Of the shipped file's states (tools/tiny/README.md)."""


@pytest.mark.parametrize("halvings", [2, -2])
def test_states_change_their_size_and_nothing_else(tmp_path: Path, halvings: int) -> None:
    learned, path = tmp_path / "learned.safetensors", tmp_path / "text_encoder.safetensors"
    scale(SHIPPED, learned, -HALVINGS)
    scale(learned, path, halvings)
    assert read_metadata(path) == read_metadata(SHIPPED)
    for name, tensor in load_file(path).items():
        assert tensor.dtype == torch.bfloat16, name
    request = request_of(ToySource("ti2i").example(3), Settings(), VINO_TINY)
    states, texts = [], []
    for file in (learned, path):
        engine = load_engine(file, torch.float32)
        seen = encode_visuals(engine, request.references, VINO_TINY.vision)
        branch = BranchPrompt(request.prompt, tuple(range(len(seen))))
        states.append(encode_branches(engine, VINO_TINY, [branch], seen)[0].states)
        texts.append(rewrite_prompt(engine, VINO_TINY, request.prompt, seen, GREEDY))
    assert texts[0].endswith(".") and texts[1] == texts[0]
    # Not to the last digit: what the norms add below the root was not scaled.
    torch.testing.assert_close(states[1] * 2.0**halvings, states[0], rtol=1e-3, atol=1e-3 * float(states[0].std()))
