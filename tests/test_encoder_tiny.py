"""The shipped miniature's text encoder: one file that both engines read alike, and that knows its toy world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from paths import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tools.tiny.vlm_eval import accuracies
from vino_core.encoder.encode import BranchPrompt, encode_branches, encode_visuals
from vino_core.encoder.engine import GREEDY, IM_END, IMAGE_PAD, VLMEngine
from vino_core.encoder.transformers_engine import TransformersEngine, load_engine
from vino_core.encoder.understand import ask, rewrite_prompt
from vino_core.errors import InputError
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.toyworld.requests import Settings, request_of
from vino_core.toyworld.tasks import ToySource

FILE = ROOT / "models" / "vino-tiny" / "text_encoder.safetensors"
PROMPTS = ("", "a red circle on grass", "What stands at the top left?", "Ein Bär, 很好 😀\n\ttabs", "<|im_end|> 12.5")


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return load_engine(FILE, torch.float32)


@pytest.fixture(scope="module")
def clip() -> Any:
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(FILE))


@pytest.fixture
def native(clip: Any) -> Iterator[Any]:
    with torch.inference_mode(), ExitStack() as stack:
        yield stack.enter_context(pack("nodes.comfy.vlm").open_engine(clip, 2048))


def metadata() -> dict[str, str]:
    with safe_open(FILE, "pt") as file:
        return file.metadata()


def test_toy_words_are_single_tokens(engine: TransformersEngine) -> None:
    text = "Put a small striped red star at the bottom left of Image 1, moving to the right."
    assert len(engine.tokenize(text)) == len(text.split()) + 2
    assert len(engine.tokenize("<0.3 seconds>")) == 1


@pytest.mark.parametrize("text", PROMPTS)
def test_any_text_comes_back(engine: TransformersEngine, text: str) -> None:
    ids = engine.tokenize(text)
    assert engine.tokenizer.decode(ids) == text
    assert not {engine.token_id(IM_END), engine.token_id(IMAGE_PAD)} & set(ids)


@pytest.mark.parametrize("text", PROMPTS)
def test_both_engines_have_the_same_ids(engine: TransformersEngine, native: Any, text: str) -> None:
    assert native.tokenize(text) == engine.tokenize(text)
    assert native.token_id(IMAGE_PAD) == engine.token_id(IMAGE_PAD)


@pytest.mark.parametrize("task", ["t2i", "ti2i", "tiv2v", "select_image"])
def test_both_engines_have_the_same_states(engine: TransformersEngine, native: Any, task: str) -> None:
    request = request_of(ToySource(task).example(0), Settings(), VINO_TINY)

    def states(of: VLMEngine) -> torch.Tensor:
        visuals = encode_visuals(of, request.references, VINO_TINY.vision)
        branch = BranchPrompt(request.prompt, tuple(range(len(visuals))))
        return encode_branches(of, VINO_TINY, [branch], visuals)[0].states

    wanted, found = states(engine), states(native)
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, atol=1e-4, rtol=0)


def test_the_native_engine_describes_a_picture_alike(engine: TransformersEngine, native: Any) -> None:
    request = request_of(ToySource("ti2i").example(3), Settings(), VINO_TINY)
    texts = [
        rewrite_prompt(of, VINO_TINY, request.prompt, encode_visuals(of, request.references, VINO_TINY.vision), GREEDY)
        for of in (engine, native)
    ]
    assert texts[0].endswith(".") and texts[0] == texts[1]


def test_the_clip_tells_its_system(clip: Any) -> None:
    assert pack("nodes.comfy.systems").clip_system(clip.clone()).name == "vino-tiny"


def test_core_reads_texts_and_pictures_with_the_own_vocabulary(clip: Any) -> None:
    tokens = clip.tokenize("a red circle", images=[torch.rand(1, 64, 64, 3)])
    (row,) = next(iter(tokens.values()))
    assert sum(isinstance(entry[0], dict) for entry in row) == 1
    assert clip.encode_from_tokens_scheduled(tokens)[0][0].shape[-1] == 128


def test_it_knows_its_world(engine: TransformersEngine) -> None:
    """Far below what the file reached when it was made, far above what chance or damage gives."""
    floors = {
        "caption, one shape": 0.6,
        "caption, two shapes": 0.4,
        "caption of a clip": 0.3,
        "colour": 0.6,
        "shape": 0.5,
        "place": 0.6,
        "count": 0.8,
        "background": 0.85,
    }
    found = accuracies(engine, 40, seed=1, only=floors)
    assert found.keys() == floors.keys()
    assert {kind: rate.value for kind, rate in found.items() if rate.value < floors[kind]} == {}


def test_it_answers_in_words(engine: TransformersEngine) -> None:
    source = ToySource("reconstruct_image", split="heldout")
    right = 0
    for number in range(10):
        toy = source.toy(number)
        seen = encode_visuals(engine, request_of(toy.example, Settings(), VINO_TINY).references, VINO_TINY.vision)
        answer = ask(engine, VINO_TINY, "How many shapes are there?", seen)
        right += answer == ("no", "one", "two")[len(toy.truth.target.sprites)]
    assert right >= 8


@pytest.mark.parametrize("lost", ["config", "tokenizer"])
def test_a_file_without_its_metadata_is_an_error(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "te.safetensors"
    save_file(load_file(FILE), path, {key: value for key, value in metadata().items() if key != lost})
    with pytest.raises(InputError, match=f"no {lost}"):
        load_engine(path)


def test_a_damaged_tokenizer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "te.safetensors"
    save_file(load_file(FILE), path, {**metadata(), "tokenizer": "{"})
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        load_engine(path)
    with pytest.raises(ValueError, match="tokenizer cannot be read"):
        pack("nodes.comfy.text_encoder").load_text_encoder(str(path))
