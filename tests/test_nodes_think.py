"""VINO Think on ComfyUI's native Qwen2.5-VL: the texts of the headless core, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import comfy_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import nodes
from safetensors.torch import save_file
from tiny_vogue_vlm import CONFIG, older_names, random_state, tiny_engine
from torch import Tensor

from vino_core.encoder.encode import encode_visuals
from vino_core.encoder.engine import Sampling
from vino_core.encoder.think import think
from vino_core.systems import get_system
from vino_core.tasks import prepare_references

VOGUE = get_system("vogue")
AREA = 64 * 48
TOKENS = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A miniature Qwen2.5-VL with random weights, from a file of the kind that Qwen's users have."""
    path = tmp_path_factory.mktemp("models") / "qwen.safetensors"
    save_file(older_names(random_state()), path, {"config": json.dumps(CONFIG)})
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(path))


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    module = pack("nodes.references")
    with patch.object(module, "prepare_references", partial(module.prepare_references, area=AREA)):
        yield


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


def picture(value: float = 1.0) -> Tensor:
    """uint8 [72, 96, 3]."""
    ramp = torch.linspace(0, 255 * value, 96).expand(72, 96)
    return ramp[..., None].expand(-1, -1, 3).round().to(torch.uint8)


def references(clip: Any, task: str, images: int = 1, length: int = 5, size: Any = None) -> Any:
    slots = {f"image_{number + 1}": picture(1 - 0.2 * number)[None] / 255 for number in range(images)}
    size = size or ({"size": "auto"} if task != "multiid" else {"size": "custom", "width": 64, "height": 48})
    return nodes().VINOReferences.execute(size, length, images=slots, videos={}, task=task, clip=clip)[0]


def answer(clip: Any, refs: Any, kind: str, prompt: str = "", seed: int = 0, **options: Any) -> tuple[str, str]:
    options = {"max_new_tokens": TOKENS, "temperature": 0.0, **options}
    with torch.inference_mode():
        return nodes().VINOThink.execute(clip, refs, kind, prompt, seed=seed, **options).args


@pytest.mark.parametrize(("kind", "task", "images"), [("annotated", "i2v", 1), ("canvas", "multiid", 2)])
def test_plan_and_prompt_are_those_of_the_headless_core(clip: Any, kind: str, task: str, images: int) -> None:
    given = [picture(1 - 0.2 * number) for number in range(images)]
    size = {"i2v": None, "multiid": (48, 64)}[task]
    prepared = prepare_references(VOGUE, task, given, frames=5, size=size, area=AREA)
    engine = tiny_engine()
    with torch.inference_mode():
        visuals = encode_visuals(engine, prepared, VOGUE.vision, understanding=True)
        expected = think(engine, VOGUE, kind, "a storm", visuals, Sampling(TOKENS, repetition_penalty=1.05))
    vlm = pack("nodes.comfy.vlm").ComfyVLM
    with patch.object(vlm, "vision", autospec=True, side_effect=vlm.vision) as vision:
        plan, prompt = answer(clip, references(clip, task, images), kind, "a storm")
    assert (plan, prompt) == (expected.plan, expected.prompt)
    assert plan != prompt
    assert vision.call_count == images, "each picture is encoded once for both texts"


def test_a_seed_fixes_both_texts(clip: Any) -> None:
    refs = references(clip, "i2v")
    options = {"temperature": 1.0, "max_new_tokens": 3}
    first, again, other = (answer(clip, refs, "annotated", seed=seed, **options) for seed in (1, 1, 2))
    assert first == again and first[0] != other[0]


def test_the_bar_runs_over_both_texts(clip: Any) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    with patch.object(
        comfy.utils.ProgressBar, "update_absolute", lambda bar, value, *_: seen.append((value, bar.total))
    ):
        answer(clip, references(clip, "i2v"), "annotated")
    assert [one for one in seen if one[1] > 1] == [(count, 2 * TOKENS) for count in range(2 * TOKENS)]


@pytest.mark.parametrize(
    ("task", "images", "length", "kind", "message"),
    [
        ("auto", 1, 5, "canvas", "'canvas' runs as the task multiid, not as i2v. Choose the task multiid in VINO Ref"),
        ("multiid", 1, 5, "annotated", "'annotated' runs as the task i2v, not as multiid. Choose the task i2v"),
        ("auto", 0, 5, "annotated", "'annotated' runs as the task i2v, not as t2v"),
        ("auto", 1, 1, "annotated", "'annotated' runs as the task i2v, not as i2i_edit"),
    ],
)
def test_references_of_another_task_are_refused(
    clip: Any, task: str, images: int, length: int, kind: str, message: str
) -> None:
    size = {"size": "custom", "width": 64, "height": 48}
    with pytest.raises(error(), match=message):
        answer(clip, references(clip, task, images, length, size), kind)


def test_vino_does_not_think() -> None:
    clip = comfy_runs.clip()
    refs = nodes().VINOReferences.execute({"size": "auto"}, 1, clip=clip)[0]
    with pytest.raises(error(), match="vino has no thinking mode; vogue and vogue-tiny have.*VINO Prompt Rewriter"):
        answer(clip, refs, "annotated")


def test_text_needs_the_head(tmp_path: Any) -> None:
    state = {name: value for name, value in older_names(random_state()).items() if name != "lm_head.weight"}
    save_file(state, tmp_path / "qwen.safetensors", {"config": json.dumps(CONFIG)})
    headless = pack("nodes.comfy.text_encoder").load_text_encoder(str(tmp_path / "qwen.safetensors"))
    with pytest.raises(error(), match=r"without the layer that writes text.*lm_head\.weight"):
        answer(headless, references(headless, "i2v"), "annotated")
