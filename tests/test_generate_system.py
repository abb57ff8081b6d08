"""`vino generate` on a folder of one system's files: the files say which system it is, its presets say the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
import torch
from paths import GOLDENS, small_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_files import MODEL
from tiny_vlm import HIDDEN, random_state, small_config
from tiny_weights import random_weights, vae_shapes

from vino_core.checkpoints.files import made_for, model_metadata, read_metadata, save_tokens
from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vino_tiny import VINO_TINY

MEDIA = GOLDENS / "media"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as the four files of a vino-tiny."""
    path = tmp_path_factory.mktemp("models") / "vino-tiny"
    path.mkdir()
    torch.manual_seed(0)
    save_file(MMDiT(MODEL).state_dict(), path / "model.safetensors", model_metadata("vino-tiny", MODEL))
    save_tokens(path / "tokens.safetensors", torch.randn(4, HIDDEN), "vino-tiny")
    tokenizer = small_tokenizer().backend_tokenizer.to_str()
    metadata = {"config": json.dumps(small_config()), "tokenizer": tokenizer, "system": "vino-tiny"}
    save_file(random_state(0, small_config()), path / "text_encoder.safetensors", metadata)
    save_file(random_weights(vae_shapes(), 1), path / "vae.safetensors", {"system": "vino-tiny"})
    return path


def generate(model: Path, out: Path, *words: object) -> int:
    return main(["generate", "--model", str(model), "--out", str(out), "--device", "cpu", *map(str, words)])


def settings(out: Path) -> dict:
    (sidecar,) = out.glob("*.json")
    return json.loads(sidecar.read_text())["settings"]


def test_a_folder_and_a_prompt_are_enough(folder: Path, tmp_path: Path) -> None:
    assert generate(folder, tmp_path, "--prompt", "a red circle") == 0
    (file,) = tmp_path.glob("*_t2i.png")
    with Image.open(file) as image:
        assert image.size == (64, 64)
        assert len(set(image.tobytes())) > 10
    made, preset = settings(tmp_path), VINO_TINY.presets["t2i"]
    assert made["system"] == "vino-tiny"
    for name in ("steps", "text_scale", "image_scale", "shift", "negative"):
        assert made[name] == getattr(preset, name)


def test_clips_have_the_systems_length_and_rate(folder: Path, tmp_path: Path) -> None:
    assert generate(folder, tmp_path, "--prompt", "a red circle", "--preset", "t2v", "--steps", 1) == 0
    (file,) = tmp_path.glob("*.mp4")
    with av.open(str(file)) as clip:
        stream = clip.streams.video[0]
        assert (stream.frames, stream.average_rate) == (VINO_TINY.presets["t2v"].frames, VINO_TINY.frame_rate)


def test_references_have_the_systems_area(folder: Path, tmp_path: Path) -> None:
    words = ["--image", MEDIA / "img_a.png", "--video", MEDIA / "clip_a.mp4", "--steps", 1]
    assert generate(folder, tmp_path, "--prompt", "Image 1 into Video 1", *words) == 0
    made = settings(tmp_path)
    assert 0.7 * 64 * 64 < made["width"] * made["height"] <= 64 * 64
    assert made["frames"] == VINO_TINY.presets["tiv2v"].frames


def test_too_many_frames_for_the_system(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(folder, tmp_path, "--prompt", "x", "--frames", 21) == 1
    assert "17" in capsys.readouterr().err


def test_another_system_than_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(folder, tmp_path, "--prompt", "x", "--system", "vino") == 1
    error = capsys.readouterr().err
    assert "model.safetensors: made for vino-tiny, not vino" in error


@pytest.mark.parametrize("name", ["tokens", "text_encoder", "vae"])
def test_one_file_of_another_system(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    other = tmp_path / f"{name}.safetensors"
    source = folder / f"{name}.safetensors"
    save_file(load_file(source), other, {**read_metadata(source), "system": "vino"})
    assert generate(folder, tmp_path / "out", "--prompt", "x", f"--{name.replace('_', '-')}", other) == 1
    assert f"{name}.safetensors: made for vino, not vino-tiny" in capsys.readouterr().err


def test_a_model_that_names_no_system_takes_the_option(folder: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "unnamed"
    shutil.copytree(folder, unnamed)
    for name in ("model", "tokens", "text_encoder"):
        source = folder / f"{name}.safetensors"
        metadata = {key: text for key, text in read_metadata(source).items() if key != "system"}
        save_file(load_file(source), unnamed / source.name, metadata)
    assert made_for(unnamed / "model.safetensors").name == "vino"
    words = ["--prompt", "x", "--steps", 1, "--system", "vino-tiny"]
    assert generate(unnamed, tmp_path / "out", *words) == 0
    assert settings(tmp_path / "out")["width"] == 64


def test_an_unknown_system_is_named(folder: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.safetensors"
    save_file(load_file(folder / "tokens.safetensors"), later, {"system": "vino-9"})
    with pytest.raises(InputError, match=r"later\.safetensors: made for the system 'vino-9', which is unknown here"):
        made_for(later)


def test_a_file_that_the_folder_lacks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    for name in ("model", "tokens", "vae"):
        shutil.copy(folder / f"{name}.safetensors", partial)
    assert generate(partial, tmp_path / "out", "--prompt", "x") == 1
    assert "text_encoder.safetensors" in capsys.readouterr().err
    assert generate(partial / "model.safetensors", tmp_path / "out", "--prompt", "x") == 1
    error = capsys.readouterr().err
    assert "--tokens: not given" in error and "text_encoder.safetensors" in error
