"""The converter: exact both ways, strict about its input, and nothing half-done left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    UNUSED,
    config_file,
    convert_miniature,
    dimensions,
    golden_index,
    miniature,
    published,
)
from paths import GOLDENS, ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from parity_groups import case_tensors, load
from parity_groups.transformer import conditioning_of
from vino_core.checkpoints import writing
from vino_core.checkpoints.convert import plan_conversion
from vino_core.checkpoints.files import load_mmdit
from vino_core.checkpoints.header import read_header
from vino_core.checkpoints.layouts import native_shapes, official_shapes
from vino_core.checkpoints.manifest import official_manifest
from vino_core.checkpoints.official import open_official
from vino_core.checkpoints.restore import restore
from vino_core.checkpoints.sources import Checkpoint
from vino_core.checkpoints.writing import write_safetensors
from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vino import VINO

VLM = VINO.published.vlm


def written(folder: Path) -> list[str]:
    """Everything below `folder`, hidden files too."""
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_manifest_and_table_name_the_published_checkpoint() -> None:
    keys = json.loads((GOLDENS / "manifest_full.json").read_text())["keys"]
    expected = {name: tuple(shape) for name, shape in keys.items()}
    assert official_manifest("vino") == expected
    without_vlm = {name: shape for name, shape in expected.items() if not name.startswith(VLM)}
    assert official_shapes(VINO.mmdit, VINO.published, (256, 2560), 768) == without_vlm


def test_native_layout_is_the_models_own() -> None:
    model = MMDiT(VINO.mmdit, device="meta")
    assert native_shapes(VINO.mmdit) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    model, tokens = convert_miniature(tmp_path)
    back = torch.load(restore(model, tokens, tmp_path / "back.ckpt")[0], weights_only=True)
    source = {name: tensor for name, tensor in miniature().items() if not name.startswith(VLM)}
    assert back.keys() == source.keys()
    for name, tensor in source.items():
        expected = torch.zeros_like(tensor) if name.startswith(UNUSED) else tensor
        assert torch.equal(back[name], expected), name
        assert back[name].dtype == expected.dtype


def test_back_with_the_text_encoder(tmp_path: Path) -> None:
    model, tokens = convert_miniature(tmp_path)
    vlm = {name.removeprefix(VLM): tensor for name, tensor in miniature().items() if name.startswith(VLM)}
    vlm["model.language_model.embed_tokens.weight"] = torch.randn(10, 64)
    (tmp_path / "qwen").mkdir()
    save_file(vlm, tmp_path / "qwen" / "model.safetensors")
    restore(model, tokens, tmp_path / "back.ckpt", vlm=tmp_path / "qwen")
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)
    for name, tensor in vlm.items():
        assert torch.equal(back[VLM + name], tensor), name
    head, embedding = back[f"{VLM}lm_head.weight"], back[f"{VLM}model.language_model.embed_tokens.weight"]
    assert torch.equal(head, vlm["model.language_model.embed_tokens.weight"])
    assert head.data_ptr() == embedding.data_ptr(), "it is in the file once"


def test_what_came_back_without_the_text_encoder_is_converted_again(tmp_path: Path) -> None:
    """Its weights are checked where they are there, and never copied. Some of them are still too few."""
    state = published()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith(VLM)}, tmp_path / "back.ckpt")
    assert open_official([tmp_path / "back.ckpt"]).config == VINO.mmdit
    head = f"{VLM}lm_head.weight"
    some = {name: tensor for name, tensor in state.items() if name == head or not name.startswith(VLM)}
    torch.save(some, tmp_path / "some.ckpt")
    with pytest.raises(InputError, match=r"missing \(\d{3}\)"):
        open_official([tmp_path / "some.ckpt"])
    first = convert_miniature(tmp_path)
    back = restore(*first, tmp_path / "again.ckpt")
    plans = plan_conversion(back, tmp_path / "twice", VINO, dimensions=dimensions(tmp_path))
    write_safetensors(plans)
    for plan, path in zip(plans, first, strict=True):
        again, once = load_file(plan.path), load_file(path)
        assert again.keys() == once.keys() and all(torch.equal(again[name], once[name]) for name in once)


def test_converted_model_computes_the_reference_output(tmp_path: Path) -> None:
    model, system = load_mmdit(convert_miniature(tmp_path)[0])
    case = "ref3_diff"
    entry, tensors = golden_index()["cases"][case], case_tensors(load(GOLDENS / "transformer_cases.safetensors"), case)
    with torch.inference_mode():
        output = model(
            tensors["in.hidden_states"],
            tensors["in.timestep"],
            conditioning_of(entry, tensors),
            guidance=tensors["in.guidance"],
        )
    assert system == "vino"
    assert (output - tensors["out"]).abs().max() <= 2e-5


@pytest.mark.parametrize("wrapping", ["ddp", "nested", "safetensors", "shards"])
def test_other_containers_of_the_same_weights(tmp_path: Path, wrapping: str) -> None:
    expected = load_file(convert_miniature(tmp_path)[0])
    state = miniature()
    source = tmp_path / ("wrapped.safetensors" if wrapping == "safetensors" else "wrapped.pt")
    if wrapping == "ddp":
        torch.save({f"module.{name}": torch.nn.Parameter(tensor) for name, tensor in state.items()}, source)
    elif wrapping == "nested":
        torch.save({"epoch": 3, "state_dict": state}, source)
    elif wrapping == "safetensors":
        save_file(state, source)
    else:
        source = tmp_path / "model.safetensors.index.json"
        names = sorted(state)
        halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in halves.items():
            save_file({name: state[name] for name in part}, tmp_path / file)
        source.write_text(json.dumps({"weight_map": {n: file for file, part in halves.items() for n in part}}))
    plans = plan_conversion([source], tmp_path / "again", VINO, dimensions=dimensions(tmp_path))
    write_safetensors(plans)
    again = load_file(plans[0].path)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_metadata_and_tokens(tmp_path: Path) -> None:
    model, tokens = convert_miniature(tmp_path, name="mini")
    assert (model.name, tokens.name) == ("vino_mini.safetensors", "vino_tokens_mini.safetensors")
    metadata = read_header(model).metadata
    assert metadata["system"] == "vino" and metadata["format_version"] == "1"
    assert json.loads(metadata["dropped"])[f"{UNUSED}linear_1.weight"] == [64, 16]
    with safe_open(tokens, framework="pt") as file:
        assert list(file.keys()) == ["metaquery"]
        assert torch.equal(file.get_tensor("metaquery"), miniature()["mm_encoder.metaquery"])


def test_bf16_rounds_and_keep_does_not(tmp_path: Path) -> None:
    kept = convert_miniature(tmp_path)[0]
    (tmp_path / "again").mkdir()
    model = convert_miniature(tmp_path / "again", dtype=torch.bfloat16)[0]
    assert (kept.name, model.name) == ("vino_fp32.safetensors", "vino_bf16.safetensors")
    source, rounded = load_file(kept), load_file(model)
    assert all(torch.equal(rounded[name], source[name].bfloat16()) for name in source)


def test_fp16_overflow_is_an_error(tmp_path: Path) -> None:
    state = miniature()
    state["transformer.proj_out.weight"][3, 4] = 1e5
    torch.save(state, tmp_path / "large.ckpt")
    plans = plan_conversion(
        [tmp_path / "large.ckpt"], tmp_path / "out", VINO, dimensions=dimensions(tmp_path), dtype=torch.float16
    )
    with pytest.raises(InputError, match="proj_out.weight.*beyond what fp16 can hold"):
        write_safetensors(plans)
    assert written(tmp_path / "out") == []


def test_published_names_pass_and_every_difference_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = published()
    torch.save(state, tmp_path / "vino.ckpt")
    assert open_official([tmp_path / "vino.ckpt"]).config == VINO.mmdit

    del state["transformer.single_transformer_blocks.7.proj_mlp.bias"]
    del state["mm_encoder.mm_encoder.lm_head.weight"]
    state["transformer.extra.weight"] = torch.zeros(2)
    state["mm_encoder.metaquery"] = state["mm_encoder.metaquery"][:128]
    torch.save(state, tmp_path / "wrong.ckpt")
    assert main(["convert", str(tmp_path / "wrong.ckpt"), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "missing (2)" in message and "transformer.single_transformer_blocks.7.proj_mlp.bias" in message
    assert "mm_encoder.mm_encoder.lm_head.weight" in message
    assert "unexpected (1)" in message and "transformer.extra.weight" in message
    assert "mm_encoder.metaquery  [128, 2560] instead of [256, 2560]" in message
    assert written(tmp_path / "out") == []


def test_miniature_is_not_the_published_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(miniature(), tmp_path / "mini.ckpt")
    assert main(["convert", str(tmp_path / "mini.ckpt"), "--out", str(tmp_path / "out")]) == 1
    assert "--config" in capsys.readouterr().err


def test_command_line_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = [str(GOLDENS / f"{part}_weights.safetensors") for part in ("transformer", "mm_encoder")]
    config = ["--config", str(config_file(tmp_path)), "--out", str(tmp_path / "out")]
    assert main(["convert", *files, *config]) == 1
    assert "embed_rows" in capsys.readouterr().err
    assert main(["convert", *files, *config, "--ignore", "embed_*"]) == 0
    assert written(tmp_path / "out") == ["vino_fp32.safetensors", "vino_tokens.safetensors"]
    made = [str(tmp_path / "out" / name) for name in written(tmp_path / "out")]
    assert main(["convert", "--back", *made, "--out", str(tmp_path / "back.ckpt")]) == 0
    assert main(["convert", "--back", *made, "--out", str(tmp_path / "back.ckpt")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", "--back", *made[::-1], "--out", str(tmp_path / "swapped.ckpt")]) == 1
    assert main(["convert", "--back", *made, "--dtype", "bf16", "--out", str(tmp_path / "c.ckpt")]) == 1
    assert main(["convert", "--back", *made, "--out", str(tmp_path / "c.safetensors")]) == 1
    assert written(tmp_path) == ["back.ckpt", "config.json", "out", *written(tmp_path / "out")]


def test_existing_files_are_kept(tmp_path: Path) -> None:
    model, _ = convert_miniature(tmp_path)
    before = model.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        convert_miniature(tmp_path)
    assert model.read_bytes() == before


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(InputError, match="vino_fp32.safetensors: the disk is full"):
        convert_miniature(tmp_path)
    assert written(tmp_path / "models") == []


def test_full_disk_on_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = convert_miniature(tmp_path)

    def full(state: object, file: object) -> None:
        raise RuntimeError("writer failed") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="the disk is full"):
        restore(*files, tmp_path / "back.ckpt")
    assert not [name for name in written(tmp_path) if "back" in name]


def test_room_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = writing.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="MB are needed and 0.0 MB are free"):
        convert_miniature(tmp_path)
    assert written(tmp_path / "models") == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        convert_miniature(tmp_path)


def test_termination_leaves_nothing(tmp_path: Path) -> None:
    torch.save(miniature(), tmp_path / "mini.ckpt")
    program = (
        "import os, sys, time; os.fsync = lambda _: time.sleep(60); "
        "from vino_core.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["convert", str(tmp_path / "mini.ckpt"), "--out", str(tmp_path / "out")]
    arguments += ["--config", str(config_file(tmp_path))]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not written(tmp_path / "out") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any(name.endswith(".part") for name in written(tmp_path / "out"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert written(tmp_path / "out") == []


def saved(folder: Path, content: object) -> Path:
    path = folder / "bad.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


class Code:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        ({"lora_A.weight": torch.zeros(2, 2)}, "seems to be a LoRA"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 1)}, "HunyuanVideo"),
        ({"connector_vae_branch.mlp.0.weight": torch.zeros(3, 1)}, "converted already"),
        ({"transformer.proj_out.bias": "text"}, "not tensors: transformer.proj_out.bias"),
        ([torch.zeros(2)], "holds list, not a mapping"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: object, message: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        plan_conversion([path], tmp_path / "out", VINO)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["convert", str(tmp_path / "vino.ckpt"), "--out", str(tmp_path / "out")]) == 1
    assert "vino.ckpt: no such file" in capsys.readouterr().err


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path, {"transformer.proj_out.bias": Code(tmp_path / "executed")})
    with pytest.raises(InputError, match="would run code"):
        Checkpoint([path])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
def test_truncated_checkpoint(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, miniature())
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(InputError, match="truncated or damaged"):
        plan_conversion([path], tmp_path / "out", VINO, dimensions=dimensions(tmp_path))


def test_fp8_weights_cannot_be_converted(tmp_path: Path) -> None:
    state = miniature()
    name = "transformer.proj_out.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)
    with pytest.raises(InputError, match=f"{name} .torch.float8_e4m3fn"):
        plan_conversion([saved(tmp_path, state)], tmp_path / "out", VINO, dimensions=dimensions(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_weights_are_mapped_and_given_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mapped{suffix}"
    torch.save(miniature(), path) if suffix == ".ckpt" else save_file(miniature(), path)
    checkpoint = Checkpoint([path])
    rows = checkpoint.rows("transformer.proj_out.weight", 3, 5)
    assert torch.equal(rows, miniature()["transformer.proj_out.weight"][3:8])
    assert str(path) in Path("/proc/self/maps").read_text()
    del rows
    checkpoint.release()
    assert str(path) not in Path("/proc/self/maps").read_text()
