"""The start of a model with finer patches: what a patch of equal cells was to the coarse one, each cell is to it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from vogue_tiny_files import SMALL

from vino_core.checkpoints.files import load_mmdit, model_metadata, read_metadata
from vino_core.errors import InputError
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.training.parts import fresh_config, fresh_mmdit

sys.path.insert(0, str(ROOT))

from tools.tiny.finer_patches import finer_patches  # noqa: E402


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A stage 0 of few weights whose patches have two by two cells; its last layer does not start at zero."""
    config = fresh_config(SMALL, VINO_TINY, 32)
    config = replace(config, patch_size=(1, 2, 2))
    model = fresh_mmdit(config, VINO_TINY, 0)
    torch.nn.init.normal_(model.final_layer.linear.weight, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "base.safetensors"
    save_file(model.state_dict(), path, {**model_metadata("vino-tiny", config), "stage": "0"})
    return path


def test_a_cell_is_what_a_patch_of_such_cells_was(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "finer.safetensors"
    finer_patches(base, out)
    (coarse, _), (fine, system) = load_mmdit(base), load_mmdit(out)
    assert system == "vino-tiny" and read_metadata(out)["stage"] == "0"
    assert coarse.config.patch_size == (1, 2, 2) and fine.config.patch_size == (1, 1, 1)
    cells = torch.randn(1, 16, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    patches = cells.repeat_interleave(2, 3).repeat_interleave(2, 4)
    torch.testing.assert_close(fine.patchify(cells), coarse.patchify(patches))
    tokens = torch.randn(1, 6, coarse.config.hidden_size, generator=torch.Generator().manual_seed(3))
    drawn = coarse.unpatchify(coarse.final_layer.linear(tokens), (1, 2, 3))
    means = torch.nn.functional.avg_pool3d(drawn, (1, 2, 2))
    torch.testing.assert_close(fine.unpatchify(fine.final_layer.linear(tokens), (1, 2, 3)), means)
    before, after = load_file(base), load_file(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"img_in.proj.weight", "final_layer.linear.weight", "final_layer.linear.bias"}


def test_single_cells_are_as_fine_as_it_gets(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "finer.safetensors"
    finer_patches(base, out)
    with pytest.raises(InputError, match="single latent cells already"):
        finer_patches(out, tmp_path / "again.safetensors")
