"""vogue-tiny's files: how they stay small, the base that it starts from, and the VAE that it shares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from tiny_weights import random_weights, vae_shapes
from training_runs import one_thread  # noqa: F401
from vogue_tiny_files import SMALL, write_vogue_tiny

from vino_core.checkpoints.files import load_mmdit, model_metadata, read_metadata
from vino_core.commands.eval import own_names, toy_tasks
from vino_core.commands.loading import choose_system, load_pipeline
from vino_core.config import MMDiTConfig
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.training import parts
from vino_core.training.config import Fresh, load_config
from vino_core.training.parts import fresh_config, fresh_mmdit

sys.path.insert(0, str(ROOT))

from tools.tiny.keep_blocks import keep_blocks  # noqa: E402
from tools.tiny.vlm_model import fresh_model, qwen2_5_vl  # noqa: E402

VINO_FOLDER = ROOT / "models" / "vino-tiny"
MOST = 15_000_000
"""Bytes that vogue-tiny may add to the repository."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A stage 0 of few weights, with three blocks of each kind."""
    model = fresh_mmdit(fresh_config(SMALL, VINO_TINY, 32), VINO_TINY, 0)
    path = tmp_path / "base.safetensors"
    save_file(model.state_dict(), path, {**model_metadata("vino-tiny", model.config), "stage": "0"})
    return path


def test_chosen_blocks_keep_their_order_and_everything_else_stays(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "smaller.safetensors"
    keep_blocks(base, out, [2, 1], [0, 2])
    whole, kept = load_file(base), load_file(out)
    model, system = load_mmdit(out)
    assert system == "vino-tiny" and read_metadata(out)["stage"] == "0"
    assert (model.config.depth, model.config.depth_single) == (2, 2)
    blocks = {"double_blocks.0.": "double_blocks.1.", "double_blocks.1.": "double_blocks.2.",
              "single_blocks.0.": "single_blocks.0.", "single_blocks.1.": "single_blocks.2."}  # fmt: skip
    for name, tensor in kept.items():
        start = next((block for block in blocks if name.startswith(block)), "")
        assert torch.equal(tensor, whole[blocks.get(start, "") + name.removeprefix(start)])
    left_out = {name for name in whole if name.startswith(("double_blocks.0.", "single_blocks.1."))}
    assert len(kept) == len(whole) - len(left_out)


@pytest.mark.parametrize(("double", "single"), [([3], [0]), ([0], []), ([-1], [0])])
def test_blocks_that_are_not_there_are_refused(
    base: Path, tmp_path: Path, double: list[int], single: list[int]
) -> None:
    with pytest.raises(InputError, match="blocks 0 to 2; keep one or more"):
        keep_blocks(base, tmp_path / "smaller.safetensors", double, single)


def test_stage_1_starts_from_the_smaller_base(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "smaller.safetensors"
    keep_blocks(base, out, [1, 2], [0, 1, 2])
    model = parts._from_base(str(out), VOGUE_TINY, 128, 0, torch.float32, "cpu")
    assert model.config.depth == 2
    assert torch.equal(
        model.double_blocks[0].img_attn.qkv.weight, load_file(base)["double_blocks.1.img_attn.qkv.weight"]
    )


def test_all_its_files_together_are_small_enough() -> None:
    """The dimensions decide, whether the files are there or not."""
    from tokenizers import Tokenizer

    text = read_metadata(VINO_FOLDER / "text_encoder.safetensors")["tokenizer"]
    encoder = fresh_model(qwen2_5_vl(Tokenizer.from_str(text)), 0).state_dict()
    weights = sum(tensor.numel() for name, tensor in encoder.items() if name != "lm_head.weight")
    whole = MMDiTConfig.from_json(read_metadata(VINO_FOLDER / "model.safetensors")["config"])
    sizes = {name: getattr(whole, name) for name in Fresh.__dataclass_fields__}
    config = fresh_config(Fresh(**{**sizes, "depth": 2, "depth_single": 3}), VOGUE_TINY, 128)
    weights += sum(parameter.numel() for parameter in MMDiT(config, VOGUE_TINY.layout, device="meta").parameters())
    assert 2 * weights + len(text) < MOST - 200_000
    shipped = ROOT / "models" / "vogue-tiny"
    assert sum(path.stat().st_size for path in shipped.glob("*")) < MOST


def test_its_stages_are_those_of_the_tables() -> None:
    """Stage 3 has their tasks, but weights near vino-tiny's, with which it is compared."""
    found = [load_config(ROOT / f"configs/vogue_tiny_stage{stage}.yaml") for stage in (1, 2, 3)]
    large = [load_config(ROOT / f"configs/vogue_stage{stage}.yaml") for stage in (1, 2, 3)]
    for run, published in zip(found, large, strict=True):
        weights = {name: task.weight for name, task in run.data.tasks.items() if task.weight}
        assert set(weights) == set(published.data.tasks)
        if run.stage < 3:
            assert weights == {name: task.weight for name, task in published.data.tasks.items()}
        assert set(run.train) == set(published.train)
        assert run.files.vae == "models/vino-tiny/vae.safetensors"
    assert "tv2v" in found[2].data.tasks, "what is tested without having been taught can be taught by one setting"


def arguments(folder: Path) -> argparse.Namespace:
    values = {"model": folder, "tokens": None, "text_encoder": None, "vae": None, "system": None}
    return argparse.Namespace(**values, device="cpu", dtype="float32", offload=False, vae_tiling=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """models/vogue-tiny of few weights without a VAE, and models/vino-tiny beside it with one."""
    beside = tmp_path / "models" / "vino-tiny"
    beside.mkdir(parents=True)
    save_file(random_weights(vae_shapes(), 1), beside / "vae.safetensors", {"system": "vino-tiny"})
    return write_vogue_tiny(beside.parent)


def test_the_vae_beside_it_is_found_and_taken(folder: Path) -> None:
    given = arguments(folder)
    system = choose_system(given)
    assert system is VOGUE_TINY and given.vae == folder.parent / "vino-tiny" / "vae.safetensors"
    assert load_pipeline(given, system).system is VOGUE_TINY
    own = folder / "vae.safetensors"
    save_file(random_weights(vae_shapes(), 2), own, {"system": "vogue-tiny"})
    given = arguments(folder)
    assert load_pipeline(given, choose_system(given)) and given.vae == own


def test_only_the_vae_is_shared(folder: Path) -> None:
    save_file(random_weights(vae_shapes(), 2), folder / "vae.safetensors", {"system": "vogue"})
    given = arguments(folder)
    with pytest.raises(InputError, match="vae.safetensors: made for vogue, not vogue-tiny"):
        load_pipeline(given, choose_system(given))
    (folder / "vae.safetensors").unlink()
    encoder = folder / "text_encoder.safetensors"
    save_file(load_file(encoder), encoder, {**read_metadata(encoder), "system": "vino-tiny"})
    given = arguments(folder)
    with pytest.raises(InputError, match="text_encoder.safetensors: made for vino-tiny, not vogue-tiny"):
        load_pipeline(given, choose_system(given))


def test_no_vae_anywhere_is_an_error_that_names_the_place(folder: Path) -> None:
    (folder.parent / "vino-tiny" / "vae.safetensors").unlink()
    given = arguments(folder)
    with pytest.raises(InputError, match="vino-tiny/vae.safetensors"):
        load_pipeline(given, choose_system(given))


def test_it_is_scored_in_its_own_tasks_beside_vino_tiny() -> None:
    assert toy_tasks(VOGUE_TINY, ["i+i2i_edit", "v2v_edit", "t2i"]) == ("ti2i_baseimg", "tv2v", "t2i")
    assert toy_tasks(VOGUE_TINY, ["multiid"]) == ("ti2v", "ti2i"), "subjects in clips, and several in a picture"
    names = own_names(VOGUE_TINY)
    assert names["ti2i"] == "i2i_edit or multiid" and names["i2v"] == "i2v"
    assert all(task == name for task, name in own_names(VINO_TINY).items())
    assert set(names) < set(own_names(VINO_TINY)), "the same examples for both"
    with pytest.raises(InputError, match="--tasks tiv2v_clone: unknown to vogue-tiny. Choose from t2i.*i2i_edit"):
        toy_tasks(VOGUE_TINY, ["tiv2v_clone"])


def test_every_task_of_it_has_a_toy_task() -> None:
    reached = {name for task, names in VOGUE_TINY.training_tasks.items() for name in names}
    assert reached == set(VOGUE_TINY.presets)
