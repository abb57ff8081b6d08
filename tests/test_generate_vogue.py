"""From VOGUE's published files to a picture: `vino convert`, then `vino generate`, of both variants, in miniature."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paths import qwen_tokenizer
from PIL import Image
from tiny_files import MODEL, write_tiny_files
from tiny_vogue_vlm import CONFIG, HIDDEN, random_state
from vogue_files import EMBEDDING, HEAD, VLM

from vino_core.checkpoints.layouts import by_official, model_pieces
from vino_core.cli import main
from vino_core.config import ConnectorConfig
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vogue import VOGUE

TINY = replace(MODEL, connectors=(ConnectorConfig("qwen_project_in", HIDDEN, MODEL.text_dim, "none", 40),))
SMALL = ["--steps", "1", "--width", "64", "--height", "48", "--dtype", "float32", "--device", "cpu"]


def write_official(folder: Path) -> None:
    """model.ckpt, mllm.ckpt with 4 learnable tokens, the transformer's config.json, and a folder with a tokenizer."""
    native = MMDiT(TINY).state_dict()
    groups = by_official(model_pieces(TINY, VOGUE.published.connectors))
    torch.save(
        {
            name: torch.cat([native[p.native][p.native_start : p.native_start + p.rows] for p in pieces])
            for name, pieces in groups.items()
        },
        folder / "model.ckpt",
    )
    encoder = {VLM + name: tensor.bfloat16() for name, tensor in random_state().items()}
    added = torch.randn(6, HIDDEN).bfloat16()
    encoder |= {HEAD: torch.cat([encoder[HEAD], added])}
    old = f"{VLM}model.language_model.embed_tokens.weight"
    encoder[EMBEDDING] = torch.cat([encoder.pop(old), added])
    torch.save(encoder, folder / "mllm.ckpt")
    config = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": TINY.num_heads,
        "attention_head_dim": TINY.head_dim,
        "num_layers": TINY.depth,
        "num_single_layers": TINY.depth_single,
        "num_refiner_layers": TINY.depth_refiner,
        "mlp_ratio": TINY.mlp_ratio,
        "patch_size": 2,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": HIDDEN,
        "rope_theta": TINY.rope_theta,
        "rope_axes_dim": TINY.rope_axes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "qwen_2.5").mkdir()
    (folder / "qwen_2.5" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "qwen_2.5" / "tokenizer.json").write_text(qwen_tokenizer().backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted files of both variants, and a VAE."""
    folder = tmp_path_factory.mktemp("vogue")
    torch.manual_seed(0)
    write_official(folder)
    write_tiny_files(folder)
    options = ["--config", str(folder / "config.json"), "--out", str(folder)]
    official = [str(folder / "model.ckpt"), str(folder / "mllm.ckpt")]
    assert main(["convert", *official, *options, "--name", "queries", "--tokenizer", str(folder / "qwen_2.5")]) == 0
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(folder / "model.ckpt", alone)
    assert main(["convert", str(alone / "model.ckpt"), *options, "--name", "hidden"]) == 0
    return folder


def generate(files: Path, out: Path, variant: str, *words: object) -> int:
    named = ["--model", files / f"vogue_{variant}.safetensors", "--vae", files / "vae"]
    named += ["--text-encoder", files / "qwen_2.5_vl_7b_queries.safetensors", "--out", out, "--prompt", "a fox"]
    return main(["generate", *map(str, named), *SMALL, *map(str, words)])


@pytest.mark.parametrize("variant", ["hidden", "queries"])
def test_picture_of_either_variant(files: Path, tmp_path: Path, variant: str) -> None:
    tokens = ["--tokens", files / "vogue_tokens_queries.safetensors"] if variant == "queries" else []
    assert generate(files, tmp_path, variant, *tokens) == 0
    (sidecar,), (picture,) = tmp_path.glob("*.json"), tmp_path.glob("*.png")
    record = json.loads(sidecar.read_text())
    assert record["settings"]["system"] == "vogue" and ("tokens" in record["files"]) == bool(tokens)
    with Image.open(picture) as image:
        assert image.size == (64, 48) and len(set(image.tobytes())) > 10


def test_variants_are_not_mixed(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(files, tmp_path, "queries") == 1
    assert "is the variant with 4 learnable tokens. Name its tokens file." in capsys.readouterr().err
    assert generate(files, tmp_path, "hidden", "--tokens", files / "vogue_tokens_queries.safetensors") == 1
    assert "is the variant without them. Leave the tokens file out" in capsys.readouterr().err


def test_files_of_the_other_system(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(files, tmp_path, "hidden", "--tokens", files / "vino_tokens_tiny.safetensors") == 1
    assert "vino_tokens_tiny.safetensors: made for vino, not vogue" in capsys.readouterr().err
    assert (
        generate(files, tmp_path, "hidden", "--system", "vino", "--tokens", files / "vino_tokens_tiny.safetensors") == 1
    )
    assert "vogue_hidden.safetensors: made for vogue, not vino" in capsys.readouterr().err
