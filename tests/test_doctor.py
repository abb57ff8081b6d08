"""`vino doctor`: packages, files and memory, reported as they are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import convert_miniature
from paths import GOLDENS, ROOT
from safetensors.torch import load_file, save_file
from tiny_files import MODEL
from tiny_weights import write_tiny_weights
from vogue_files import VOGUE_GOLDENS

from vino_core.checkpoints.files import SAVED, model_metadata, read_metadata, save_tokens
from vino_core.checkpoints.layouts import native_shapes
from vino_core.cli import main
from vino_core.config import ConnectorConfig
from vino_core.doctor import packages
from vino_core.doctor.inventory import FOLDERS, missing_kinds, take_inventory, width_conflicts
from vino_core.doctor.memory import activation_bytes, parameters, tokens, verdict
from vino_core.systems import SYSTEMS
from vino_core.systems.base import Job
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE


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
    assert missing_kinds(found) == {} and width_conflicts(found) == []


def test_widths_that_do_not_agree(models: Path) -> None:
    (models / "embeddings" / "vino_tokens.safetensors").unlink()
    save_tokens(models / "embeddings" / "vino_tokens.safetensors", torch.zeros(8, 2560), "vino")
    conflicts = width_conflicts(take_inventory(models)[0])
    assert conflicts == ["vino_fp32.safetensors takes a tokens of width 64; found: 2560"]


def test_report(models: Path, capsys: pytest.CaptureFixture) -> None:
    (models / "vae" / "hunyuan_video_vae.safetensors").unlink()
    assert main(["doctor", "--comfyui", str(models.parent)]) == 0
    text = capsys.readouterr().out
    for part in ("vino_fp32.safetensors", "vae", "missing", "half.safetensors: truncated", "torch", "cpu", "85 frames",
                 "`vino generate` needs a bf16 row to fit"):  # fmt: skip
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
    assert problems == width_conflicts(found) == list(missing_kinds(found)) == []

    vae = tmp_path / "vae.safetensors"
    save_file(load_file(vae), vae)  # as Wan's own, which names no system
    assert list(missing_kinds(take_inventory(tmp_path)[0])) == ["vae"]


def linked(folder: Path, names: dict[str, str]) -> Path:
    """`folder` with links to files of models/, by the place in `folder` at which each is to stand."""
    for place, name in names.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to(ROOT / "models" / name)
    return folder


def test_vogue_tiny_lacks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It has no learnable tokens, which its file does not say, and takes vino-tiny's VAE from the folder beside it."""
    own = {f"vogue-tiny/{name}": f"vogue-tiny/{name}" for name in ("model.safetensors", "text_encoder.safetensors")}
    comfyui = {
        "diffusion_models/vogue_tiny.safetensors": "vogue-tiny/model.safetensors",
        "text_encoders/vogue_tiny_text_encoder.safetensors": "vogue-tiny/text_encoder.safetensors",
        "vae/vino_tiny_vae.safetensors": "vino-tiny/vae.safetensors",
    }
    models = ROOT / "models"
    for folder in (models / "vogue-tiny", models, linked(tmp_path / "comfyui" / "models", comfyui)):
        assert main(["doctor", "--models", str(folder), "--json"]) == 0
        files = json.loads(capsys.readouterr().out)["files"]
        assert files["missing"] == {} and files["problems"] == files["conflicts"] == []
        vaes = [entry["details"] for entry in files["found"] if entry["kind"] == "vae"]
        assert vaes == ["vino-tiny, in Wan 2.1's layout"]

    alone = linked(tmp_path / "alone", own) / "vogue-tiny"
    assert missing_kinds(take_inventory(alone)[0]) == {"vae": "vino-tiny's own: vino-tiny/vae.safetensors"}
    without = {f"vino-tiny/{name}.safetensors": f"vino-tiny/{name}.safetensors" for name in ("model", "text_encoder")}
    linked(alone.parent, without)
    (alone.parent / "vino-tiny" / "vae.safetensors").write_bytes(b"")
    found, problems = take_inventory(alone)
    assert list(missing_kinds(found)) == ["vae"] and "the file is empty" in problems[0].reason
    assert "vino-tiny_tokens.safetensors" in missing_kinds(take_inventory(alone.parent)[0])["tokens"]


@pytest.mark.parametrize("option", ["--comfyui", "--models"])
def test_folder_that_does_not_exist(tmp_path: Path, option: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", option, str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_an_empty_comfyui_path_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFYUI_PATH", "")
    assert main(["doctor"]) == 0
    assert "models is not a folder" not in capsys.readouterr().err


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    versions = {requirement.name: "99.0" for requirement in packages.REQUIREMENTS}
    versions |= {"transformers": "4.56.2", "diffusers": None}
    monkeypatch.setattr(packages, "_installed", versions.get)
    remedies = {state.name: state.remedy for state in packages.check_packages() if state.remedy}
    assert remedies.keys() == {"transformers", "diffusers"}
    assert all("'.[headless]'" in remedy for remedy in remedies.values())
    for name in ("torch", "av"):
        monkeypatch.setattr(packages, "_installed", {**versions, name: None}.get)
        assert main(["doctor"]) == 0
        assert "not examined before the packages" in capsys.readouterr().out


def test_requirements_are_those_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared: dict[str, dict[str, str]] = {}
    for key in ("dependencies", "torch", "headless", "training", "deepspeed", "ray"):
        block = re.search(rf"^{key} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1]
        declared[key] = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', block))
    known: dict[str, dict[str, str]] = {key: {} for key in declared}
    for requirement in packages.REQUIREMENTS:
        known[requirement.extra or "dependencies"][requirement.name] = requirement.floor
    # Of the optional extras the doctor names the package that they are for, not what it needs besides.
    for key in ("deepspeed", "ray"):
        declared[key] = {key: declared[key][key]}
    assert known == declared
    assert f'requires-comfyui = ">={packages.COMFYUI}.0"' in text


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('__version__ = "0.30.0"\n', "ComfyUI 0.30.0 in {folder}\n"),
        ('# generated\n__version__ = "0.26.1"\n', "ComfyUI 0.26.1 in {folder}; 0.30 or newer is needed: update it\n"),
        ("version = None\n", "ComfyUI of unknown version: {folder} has no comfyui_version.py that says it\n"),
        (None, "ComfyUI of unknown version: {folder} has no comfyui_version.py that says it\n"),
    ],
)
def test_comfyuis_version_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: str | None, line: str
) -> None:
    (tmp_path / "models").mkdir()
    if content is not None:
        (tmp_path / "comfyui_version.py").write_text(content)
    assert main(["doctor", "--comfyui", str(tmp_path)]) == 0
    assert line.format(folder=tmp_path) in capsys.readouterr().out


def test_memory_of_the_published_model() -> None:
    published = json.loads((GOLDENS / "manifest_full.json").read_text())["param_counts"]
    unused = published["transformer.time_text_embed.text_embedder (allocated, never used)"]
    connectors = published["mm_encoder.connector"] + published["mm_encoder.connector_vae_branch"]
    assert parameters(VINO.mmdit) == published["transformer."] - unused + connectors
    plain, edit = (job for job in VINO.jobs if job.name in ("picture 640x640", "video edit 848x480, 81 frames"))
    assert tokens(plain, VINO) == 40 * 40 + 512
    assert tokens(edit, VINO) == 2 * 21 * 30 * 53 + 2 + 512 + 4 * 588
    assert activation_bytes(edit, VINO, VINO.mmdit) > 10 * activation_bytes(plain, VINO, VINO.mmdit)


def test_the_readme_tells_the_same_memory() -> None:
    """Its table is what the doctor computes and 1 GB, to a tenth of a GB."""
    jobs = [
        Job("picture", 1, 640, 640),
        Job("clip", 85, 480, 848),
        Job("edit", 81, 480, 848, videos=1),
    ]
    weights = {"bf16": 16.0, "fp8": 8.0, "GGUF Q4_K_M": 4.85}
    text = (ROOT / "README.md").read_text()
    for name, bits in weights.items():
        row = re.search(rf"^\| {name} \| ([\d.]+) GB \| ([\d.]+) GB \| ([\d.]+) GB \|$", text, re.MULTILINE)
        size = parameters(VINO.mmdit) * bits / 8
        needs = [(size + activation_bytes(job, VINO, VINO.mmdit)) / 1e9 + 1 for job in jobs]
        assert [float(told) for told in row.groups()] == pytest.approx(needs, abs=0.051)


def test_memory_of_vogue() -> None:
    published = json.loads((VOGUE_GOLDENS / "manifest_full.json").read_text())
    assert parameters(VOGUE.mmdit) == published["transformer_total_params"]
    jobs = {job.name: tokens(job, VOGUE) for job in VOGUE.jobs}
    assert jobs["picture 832x480"] == 30 * 52 + 512
    frame = 30 * 53
    assert jobs["video edit 848x480, 129 frames"] == 2 * 33 * frame + 512 + 522
    (edit,) = (job for job in VOGUE.jobs if job.videos)
    assert tokens(edit, VOGUE.for_tokens(512)) == 2 * 33 * frame + 512


def test_a_further_system_needs_no_word_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    job = Job("picture 96x96", 1, 96, 96)
    published = replace(VOGUE.published, title="Third", hints=())
    monkeypatch.setitem(SYSTEMS, "third", replace(VOGUE, name="third", jobs=(job,), published=published))
    assert main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["needs"]["rows"]
    assert list(dict.fromkeys(row["system"] for row in rows)) == ["VINO", "VOGUE (UniVideo)", "Third"]
    assert [(row["job"], row["tokens"]) for row in rows if row["system"] == "Third"] == [(job.name, 36 + 512)] * 2


def vogue_folder(root: Path, queries: bool) -> Path:
    """Files of a tiny VOGUE: model, text encoder, VAE, and tokens for one variant; that model says which it is."""
    config = replace(MODEL, connectors=(ConnectorConfig("qwen_project_in", 64, 48, "none", 40),))
    root.mkdir()
    weights = {name: torch.zeros(shape) for name, shape in native_shapes(config).items()}
    save_file(weights, root / "vogue_a.safetensors", model_metadata("vogue", config, 8 if queries else 0))
    qwen = {"visual.merger.mlp.2.weight": torch.zeros(64, 8), "visual.merger.ln_q.weight": torch.zeros(8)}
    save_file(qwen, root / "qwen_2.5_vl_7b.safetensors")
    vae = load_file(GOLDENS / "vae_weights.safetensors")
    save_file({name.removeprefix("vae."): x for name, x in vae.items()}, root / "hunyuan_video_vae.safetensors")
    return root


def test_files_of_vogue(tmp_path: Path) -> None:
    hidden, problems = take_inventory(vogue_folder(tmp_path / "hidden", queries=False))
    assert {entry.kind: entry.details for entry in hidden} == {
        "vae": "HunyuanVideo",
        "text encoder": "Qwen2.5-VL, width 64",
        "model": "vogue, 1+1 blocks x 64",
    }
    assert problems == [] and missing_kinds(hidden) == {} and width_conflicts(hidden) == []

    root = vogue_folder(tmp_path / "queries", queries=True)
    save_tokens(root / "vino_tokens.safetensors", torch.zeros(8, 64), "vino")  # of another system: no help
    (root / "qwen_2.5_vl_7b.safetensors").unlink()
    missing = missing_kinds(take_inventory(root)[0])
    assert "vogue_tokens.safetensors" in missing["tokens"]
    assert "Qwen2.5-VL-7B-Instruct" in missing["text encoder"]
    assert missing.keys() == {"tokens", "text encoder"}

    # As ComfyUI's own nodes save it, without our metadata.
    model = root / "vogue_a.safetensors"
    stated = {name: read_metadata(model)[entry].encode() for entry, name in SAVED.items()}
    save_file({**load_file(model), **{name: torch.tensor(list(text)).byte() for name, text in stated.items()}}, model)
    assert "vogue_tokens.safetensors" in missing_kinds(take_inventory(root)[0])["tokens"]

    save_tokens(root / "vogue_tokens.safetensors", torch.zeros(10, 32), "vogue")
    (root / "qwen").mkdir()
    (root / "qwen" / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "hidden_size": 64}))
    save_file({"a": torch.zeros(1)}, root / "qwen" / "model.safetensors")
    found = take_inventory(root)[0]
    assert missing_kinds(found) == {}
    assert width_conflicts(found) == ["vogue_a.safetensors takes a tokens of width 64; found: 32"]


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
