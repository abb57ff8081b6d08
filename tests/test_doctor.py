"""`vino doctor`: packages, files and memory, reported as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoint_files import convert_miniature
from paths import GOLDENS, ROOT
from safetensors.torch import load_file, save_file
from tiny_weights import write_tiny_weights

from vino_core.checkpoints.files import save_tokens
from vino_core.cli import main
from vino_core.doctor import packages
from vino_core.doctor.inventory import FOLDERS, missing_kinds, take_inventory, width_conflicts
from vino_core.doctor.memory import JOBS, activation_bytes, parameters, tokens, verdict
from vino_core.systems.vino import VINO


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder as ComfyUI has it: one of each kind, a damaged model, and files of others."""
    root = tmp_path / "comfyui" / "models"
    for name in ("diffusion_models", "embeddings", "text_encoders/qwen", "vae", "loras"):
        (root / name).mkdir(parents=True)
    (tmp_path / "work").mkdir()
    model, learnable = convert_miniature(tmp_path / "work")
    model.rename(root / "diffusion_models" / "vino_fp32.safetensors")
    learnable.rename(root / "embeddings" / "vino_tokens.safetensors")
    (root / "diffusion_models" / "half.safetensors").write_bytes(b"\x10\x27\0\0\0\0\0\0{")
    save_file({"emb_params": torch.zeros(2, 768)}, root / "embeddings" / "someone.safetensors")
    vae = load_file(GOLDENS / "vae_weights.safetensors")
    save_file({name.removeprefix("vae."): x for name, x in vae.items()}, root / "vae" / "hunyuan_video_vae.safetensors")
    (root / "text_encoders" / "qwen" / "config.json").write_text(
        json.dumps({"model_type": "qwen3_vl", "dtype": "bfloat16", "text_config": {"hidden_size": 64}})
    )
    save_file({"model.a": torch.zeros(3)}, root / "text_encoders" / "qwen" / "model.safetensors")
    return root


def test_files_are_recognised(models: Path) -> None:
    found, problems = take_inventory(models)
    assert [(entry.kind, entry.path.name, entry.width) for entry in found] == [
        ("model", "vino_fp32.safetensors", 64),
        ("tokens", "vino_tokens.safetensors", 64),
        ("text encoder", "qwen", 64),
        ("vae", "hunyuan_video_vae.safetensors", None),
    ]
    assert found[0].details == "vino, 2+2 blocks x 64" and found[0].dtype == "fp32"
    assert found[0].size == found[0].path.stat().st_size
    assert [problem.path.name for problem in problems] == ["half.safetensors"]
    assert missing_kinds(found) == [] and width_conflicts(found) == []


def test_widths_that_do_not_agree(models: Path) -> None:
    (models / "embeddings" / "vino_tokens.safetensors").unlink()
    save_tokens(models / "embeddings" / "vino_tokens.safetensors", torch.zeros(8, 2560), "vino")
    conflicts = width_conflicts(take_inventory(models)[0])
    assert conflicts == ["vino_fp32.safetensors takes a tokens of width 64; found: 2560"]


def test_report(models: Path, capsys: pytest.CaptureFixture) -> None:
    (models / "vae" / "hunyuan_video_vae.safetensors").unlink()
    assert main(["doctor", "--comfyui", str(models.parent)]) == 0
    text = capsys.readouterr().out
    for part in ("vino_fp32.safetensors", "vae", "missing", "half.safetensors: truncated", "torch", "cpu", "85 frames"):
        assert part in text
    assert main(["doctor", "--models", str(models), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"]["folder"] == str(models)
    assert list(report["files"]["missing"]) == ["vae"]


def test_flat_folder(models: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    (models / "diffusion_models" / "vino_fp32.safetensors").rename(flat / "vino_fp32.safetensors")
    assert [entry.kind for entry in take_inventory(flat)[0]] == ["model"]


def test_a_folder_of_the_miniature(tmp_path: Path) -> None:
    names = {name: f"{name}.safetensors" for name in ("model", "tokens", "text_encoder", "vae")}
    write_tiny_weights(tmp_path, system="vino-tiny", names=names)
    found, problems = take_inventory(tmp_path)
    assert {entry.kind: entry.details.partition(",")[0] for entry in found} == {kind: "vino-tiny" for kind in FOLDERS}
    assert problems == width_conflicts(found) == missing_kinds(found) == []

    vae = tmp_path / "vae.safetensors"
    save_file(load_file(vae), vae)  # as Wan's own, which names no system
    assert missing_kinds(take_inventory(tmp_path)[0]) == ["vae"]


@pytest.mark.parametrize("option", ["--comfyui", "--models"])
def test_folder_that_does_not_exist(tmp_path: Path, option: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", option, str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    versions = {requirement.name: "99.0" for requirement in packages.REQUIREMENTS}
    versions |= {"transformers": "4.56.2", "diffusers": None}
    monkeypatch.setattr(packages, "_installed", versions.get)
    remedies = {state.name: state.remedy for state in packages.check_packages() if state.remedy}
    assert remedies.keys() == {"transformers", "diffusers"}
    assert all("'.[headless]'" in remedy for remedy in remedies.values())
    versions["torch"] = None
    assert main(["doctor"]) == 0
    assert "not examined before the packages" in capsys.readouterr().out


def test_requirements_are_those_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared: dict[str, dict[str, str]] = {}
    for key in ("dependencies", "torch", "headless"):
        block = re.search(rf"^{key} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1]
        declared[key] = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', block))
    known: dict[str, dict[str, str]] = {key: {} for key in declared}
    for requirement in packages.REQUIREMENTS:
        known[requirement.extra or "dependencies"][requirement.name] = requirement.floor
    assert known == declared


def test_memory_of_the_published_model() -> None:
    published = json.loads((GOLDENS / "manifest_full.json").read_text())["param_counts"]
    unused = published["transformer.time_text_embed.text_embedder (allocated, never used)"]
    connectors = published["mm_encoder.connector"] + published["mm_encoder.connector_vae_branch"]
    assert parameters(VINO.mmdit) == published["transformer."] - unused + connectors
    plain, edit = (job for job in JOBS if job.name in ("picture 640x640", "video edit 848x480, 81 frames"))
    assert tokens(plain, VINO) == 40 * 40 + 512
    assert activation_bytes(edit, VINO, VINO.mmdit) > 10 * activation_bytes(plain, VINO, VINO.mmdit)


@pytest.mark.parametrize(
    ("available", "offload", "expected"),
    [
        (32, True, "fits"),
        (31, True, "with offload"),
        (31, False, "too large"),
        (5, True, "too large"),
        (None, True, "unknown"),
    ],
)
def test_verdict(available: int | None, offload: bool, expected: str) -> None:
    assert verdict(26, 6, available, offload) == expected
