"""VINO Train LoRA tells the text encoder and the VAE that are connected from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from media_files import moving_bar, write_clip
from test_nodes_training import parts, place, train, weights, write_pictures  # noqa: F401
from tiny_weights import VAE_FILE

pytestmark = pytest.mark.usefixtures("place")


def digests(*owners: Any) -> list[str]:
    return [pack("nodes.comfy.digest").weights_digest(owner) for owner in owners]


def test_another_text_encoder_or_vae_is_another_run(tmp_path: Path) -> None:
    """The same settings with another VAE gave the old VAE's LoRA back."""
    import comfy.sd
    import comfy.utils
    import folder_paths

    write_pictures(tmp_path / "input" / "ink")
    given = parts()
    first = train(given, steps=1)[1]
    state = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("vae", Path(VAE_FILE).name))
    name = next(name for name in state if name.startswith("encoder.") and state[name].ndim > 1)
    state[name] = state[name] * 1.5
    with torch.inference_mode():
        other = comfy.sd.VAE(sd=state)
    second = train({**given, "vae": other}, steps=1)[1]
    assert [first, second] == ["ink_1_steps_00001_.safetensors", "ink_1_steps_00002_.safetensors"]

    clip = given["clip"].clone()
    name, weight = next((name, weight) for name, weight in clip.patcher.model_state_dict().items() if weight.ndim == 2)
    clip.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.5)
    assert train({**given, "clip": clip}, steps=1)[1] == "ink_1_steps_00003_.safetensors"
    assert train(given, steps=1)[1] == first


def test_a_digest_stays_while_weights_come_and_go() -> None:
    import comfy.model_management

    clip = parts()["clip"].clone()
    before = digests(clip, parts()["vae"])
    name, weight = next((name, weight) for name, weight in clip.patcher.model_state_dict().items() if weight.ndim == 2)
    with torch.inference_mode():
        clip.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.5)
        (patched,) = digests(clip)
        comfy.model_management.load_models_gpu([clip.patcher], force_full_load=True)
        assert clip.patcher.backup and digests(clip) == [patched] != [before[0]]
        comfy.model_management.unload_all_models()
    assert digests(parts()["clip"], parts()["vae"]) == before

    stronger = parts()["clip"].clone()
    stronger.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.6)
    assert digests(stronger) != [patched]


def test_of_long_reference_clips_a_run_keeps_what_it_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "input" / "ink"
    folder.mkdir()
    for name, frames in (("long.mp4", 60), ("short.mp4", 5)):
        write_clip(folder / name, moving_bar(frames, 64, 64))
    row = {"index": 1, "task": "tv2v", "caption": "a", "ref_video_path": "long.mp4", "target_path": "short.mp4"}
    (folder / "manifest.jsonl").write_text(json.dumps(row))
    training, kept = pack("nodes.comfy.training"), []
    usual = training.encode_all

    def look(run: Any, sources: Any, *others: Any) -> Any:
        kept.append(sources["tv2v"].example(0).videos[0].kept)
        return usual(run, sources, *others)

    monkeypatch.setattr(training, "encode_all", look)
    train(steps=1)
    assert 5 < len(kept[0]) < 16


@pytest.mark.parametrize("count", [0, 1, 2, 24903680, 388956160])
def test_a_digest_takes_weights_of_any_size(count: int) -> None:
    """The larger two are matrices of Qwen3-VL-4B, whose last place float32 rounds to one behind it."""
    sample = pack("nodes.comfy.digest")._sample
    shape, numbers = sample(torch.ones(min(1, count)).expand(count))
    assert shape.startswith(f"({count},)") and len(numbers) == 4 * min(count, 64)


def test_a_digest_looks_at_both_ends() -> None:
    sample, weight = pack("nodes.comfy.digest")._sample, torch.zeros(1000)
    before = [*sample(weight)]
    for end in (0, -1):
        changed = weight.clone()
        changed[end] = 1
        assert [*sample(changed)] != before
