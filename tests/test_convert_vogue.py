"""Converting VOGUE (UniVideo): both variants, both generations of the text encoder's names, and what is refused."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path

import pytest
import torch
from checkpoint_files import published as vino_published
from comfy_inprocess import pack
from safetensors.torch import load_file, save_file
from vogue_files import (
    EMBEDDING,
    HEAD,
    QUERIES,
    VLM,
    VOCABULARY,
    VOGUE_GOLDENS,
    config_file,
    dimensions,
    mllm,
    newer,
    published,
    transformer,
)

from vino_core.checkpoints import sources
from vino_core.checkpoints.convert import plan_conversion
from vino_core.checkpoints.files import (
    check_variant,
    infer_mmdit_config,
    load_mmdit,
    load_tokens,
    made_for,
    read_metadata,
    save_tokens,
)
from vino_core.checkpoints.layouts import native_shapes, official_shapes
from vino_core.checkpoints.manifest import official_manifest
from vino_core.checkpoints.official import open_official
from vino_core.checkpoints.restore import restore
from vino_core.checkpoints.writing import write_safetensors
from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE

SOME = {"transformer.proj_out.bias": torch.zeros(64)}
"""Enough of a model where something else is wrong."""
FULL = json.loads((VOGUE_GOLDENS / "manifest_full.json").read_text())


def save(folder: Path, *states: dict[str, torch.Tensor]) -> list[Path]:
    """`states` as model.ckpt and mllm.ckpt in `folder`."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name, _ in zip(("model.ckpt", "mllm.ckpt"), states, strict=False)]
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path)
    return paths


def convert(folder: Path, *states: dict[str, torch.Tensor], **options) -> list[Path]:
    """Convert a miniature into `folder`/models; the paths of what was made."""
    plans = plan_conversion(
        save(folder / "official", *states), folder / "models", dimensions=dimensions(folder), **options
    )
    write_safetensors(plans)
    return [plan.path for plan in plans]


def test_manifest_is_the_published_one() -> None:
    expected = {f"transformer.{name}": tuple(shape) for name, shape in FULL["transformer"].items()}
    assert len(expected) == 1265
    queries = {name: tuple(shape) for name, shape in FULL["mllm_queries"].items()}
    assert official_manifest("vogue") == expected | queries
    assert official_shapes(VOGUE.mmdit, VOGUE.published, (512, 3584), None) == expected


def test_the_model_at_full_size_has_exactly_the_published_weights() -> None:
    model = MMDiT(VOGUE.mmdit, device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert native_shapes(VOGUE.mmdit) == shapes
    assert sum(map(prod, shapes.values())) == FULL["transformer_total_params"]


@pytest.mark.parametrize("queries", [0, QUERIES])
@pytest.mark.parametrize("names", ["old", "new", "bare"])
def test_both_variants_in_all_names(tmp_path: Path, queries: int, names: str) -> None:
    state = {"old": dict, "new": newer, "bare": lambda old: newer(old, prefix="")}[names](mllm(queries))
    model = {f"transformer.{name}" if names == "new" else name: tensor for name, tensor in transformer().items()}
    made = convert(tmp_path, model, state)
    tokens = ["vogue_tokens.safetensors"] if queries else []
    assert [path.name for path in made] == ["vogue_fp32.safetensors", *tokens, "qwen_2.5_vl_7b.safetensors"]

    encoder, source = load_file(made[-1]), mllm(queries)
    assert encoder.keys() == {name.removeprefix(VLM) for name in source}
    for name, tensor in encoder.items():
        own = source[VLM + name]
        assert torch.equal(tensor, own[:VOCABULARY] if VLM + name in (EMBEDDING, HEAD) else own), name
    if queries:
        stored, rows = load_file(made[1]), source[EMBEDDING][VOCABULARY:]
        assert torch.equal(stored["begin"], rows[0]) and torch.equal(stored["end"], rows[1])
        assert torch.equal(stored["tokens"], rows[2:])
        assert torch.equal(load_tokens(made[1]), torch.cat([rows[:1], rows[2:], rows[1:2]]))
    metadata = read_metadata(made[0])
    assert metadata["system"] == "vogue" and metadata["learnable_tokens"] == str(queries)
    assert "dropped" not in metadata

    paths = restore(made[0], made[1] if queries else None, tmp_path / "back", vlm=made[-1])
    assert [path.name for path in paths] == ["model.ckpt", "mllm.ckpt"]
    for path, expected in zip(paths, (transformer(), source), strict=True):
        back = torch.load(path, weights_only=True)
        assert back.keys() == expected.keys()
        for name, tensor in expected.items():
            assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_converted_model_has_every_weight_in_its_place(tmp_path: Path) -> None:
    model, system = load_mmdit(convert(tmp_path, transformer())[0])
    source = transformer()
    connector = model.qwen_project_in
    assert system == "vogue" and connector.config.gelu == "none"
    assert torch.equal(connector.norm_qwen.weight, source["qwen_project_in.ln.weight"])
    assert torch.equal(connector.mlp[2].weight, source["qwen_project_in.mlp.2.weight"])
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == sum(x.numel() for x in source.values())


def test_the_text_encoder_is_the_one_that_comfyui_loads(tmp_path: Path) -> None:
    plans = plan_conversion(save(tmp_path, published("model.ckpt"), published("mllm.ckpt")), tmp_path / "out")
    assert [plan.path.name for plan in plans] == [
        "vogue_bf16.safetensors",
        "vogue_tokens.safetensors",
        "qwen_2.5_vl_7b.safetensors",
    ]
    tokens = {name: info.shape for name, info in plans[1].tensors.items()}
    assert tokens == {"begin": (3584,), "end": (3584,), "tokens": (512, 3584), "lm_head": (514, 3584)}
    assert native_shapes(VOGUE.mmdit) == {name: info.shape for name, info in plans[0].tensors.items()}

    pack("vino_core.errors")  # makes ComfyUI's modules known
    import comfy.ops
    from comfy.text_encoders.llama import Qwen25_7BVLI

    theirs = Qwen25_7BVLI({}, dtype=torch.bfloat16, device="meta", operations=comfy.ops.disable_weight_init)
    own = {name: info.shape for name, info in plans[2].tensors.items()}
    assert own.pop("lm_head.weight") == (VOCABULARY, 3584)
    assert own == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}


def test_text_encoder_that_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    with pytest.raises(InputError, match=r"config.json: cannot be read.*tokenizer.json"):
        convert(tmp_path, transformer(), mllm(0), tokenizer=tmp_path / "qwen")
    for name in ("config", "tokenizer"):
        (tmp_path / "qwen" / f"{name}.json").write_text(json.dumps({"name": name}))
    made = convert(tmp_path, transformer(), mllm(0), tokenizer=tmp_path / "qwen")
    metadata = read_metadata(made[-1])
    assert metadata["kind"] == "text encoder" and "system" not in metadata
    assert [json.loads(metadata[name])["name"] for name in ("config", "tokenizer")] == ["config", "tokenizer"]
    (tmp_path / "official" / "mllm.ckpt").unlink()
    with pytest.raises(InputError, match="--tokenizer: no text encoder is written"):
        convert(tmp_path, transformer(), tokenizer=tmp_path / "qwen")


def test_checkpoint_with_the_word_embedding_alone(tmp_path: Path) -> None:
    made = convert(tmp_path, transformer(), {EMBEDDING: mllm(QUERIES)[EMBEDDING]})
    assert [path.name for path in made] == ["vogue_fp32.safetensors", "vogue_tokens.safetensors"]
    assert load_file(made[1]).keys() == {"begin", "end", "tokens"}
    text_encoder = tmp_path / "qwen.safetensors"
    save_file({name.removeprefix(VLM): tensor for name, tensor in newer(mllm(0)).items()}, text_encoder)
    back = torch.load(restore(*made, tmp_path / "back", vlm=text_encoder)[1], weights_only=True)
    assert torch.equal(back[EMBEDDING][VOCABULARY:], mllm(QUERIES)[EMBEDDING][VOCABULARY:])
    assert back[HEAD].shape == mllm(QUERIES)[HEAD].shape and not back[HEAD][VOCABULARY:].any()


def test_published_names_pass_and_every_difference_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hidden = open_official(save(tmp_path, published("model.ckpt"), published("mllm.ckpt", VOCABULARY)))
    assert hidden.system is VOGUE and hidden.config == VOGUE.mmdit and hidden.tokens == 0
    model, encoder = published("model.ckpt"), published("mllm.ckpt")
    del model["transformer.qwen_project_in.mlp.2.bias"]
    model["transformer.time_text_embed.text_embedder.linear_1.bias"] = torch.zeros(3072)
    encoder[f"{VLM}model.layers.3.mlp.up_proj.weight"] = torch.zeros(2, 2)
    paths = save(tmp_path, model, encoder)
    assert main(["convert", *map(str, paths), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "missing (1)" in message and "qwen_project_in.mlp.2.bias" in message
    assert "unexpected (1)" in message and "text_embedder.linear_1.bias" in message
    assert "layers.3.mlp.up_proj.weight  [2, 2] instead of [18944, 3584]" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gone", [f"{VLM}model.layers.1.mlp.up_proj.weight", f"{VLM}visual.merger.ln_q.weight", HEAD])
def test_incomplete_text_encoder_of_another_size(tmp_path: Path, gone: str) -> None:
    state = {name: tensor for name, tensor in mllm(0).items() if name != gone} | {f"{VLM}extra": torch.zeros(2)}
    with pytest.raises(InputError, match="(?s)missing .1.*unexpected .1") as error:
        convert(tmp_path, transformer(), state)
    assert gone in str(error.value) and f"{VLM}extra" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [
        (VOCABULARY + 66, 3584, "66 more than Qwen2.5-VL-7B-Instruct.*0 or 512 learnable tokens"),
        (VOCABULARY - 1, 3584, "-1 more than"),
        (151936, 2048, "2048 wide, and the model's connector takes 3584.*Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_text_encoder_of_another_model(tmp_path: Path, rows: int, width: int, message: str) -> None:
    state = published("mllm.ckpt") | {EMBEDDING: torch.zeros(()).expand(rows, width)}
    with pytest.raises(InputError, match=message):
        open_official(save(tmp_path, SOME, state))


def test_vino_and_vogue_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(vino_published(), tmp_path / "vino.ckpt")
    torch.save(published("model.ckpt"), tmp_path / "vogue.ckpt")
    out = ["--out", str(tmp_path / "out")]
    assert main(["convert", str(tmp_path / "vino.ckpt"), "--system", "vogue", *out]) == 1
    assert "checkpoint of VINO, not of VOGUE (UniVideo). Give --system vino" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "vogue.ckpt"), "--system", "vino", *out]) == 1
    assert "checkpoint of VOGUE (UniVideo), not of VINO. Give --system vogue" in capsys.readouterr().err
    assert open_official([tmp_path / "vino.ckpt"]).system is VINO
    assert not (tmp_path / "out").exists()


def test_text_encoder_of_vino_with_a_model_of_vogue(tmp_path: Path) -> None:
    prefix = VINO.published.vlm
    qwen3 = {name.removeprefix(prefix): x for name, x in vino_published().items() if name.startswith(prefix)}
    with pytest.raises(InputError, match="2560 wide.*Qwen2.5-VL-7B-Instruct"):
        open_official(save(tmp_path, SOME, qwen3), VOGUE)


def test_files_that_do_not_stand_alone(tmp_path: Path) -> None:
    paths = save(tmp_path, transformer(), published("mllm.ckpt"))
    with pytest.raises(InputError, match="VOGUE's mllm.ckpt: name model.ckpt with it"):
        open_official(paths[1:], VOGUE)
    with pytest.raises(InputError, match="mllm.ckpt: lies beside.*Name both"):
        open_official(paths[:1])
    doubled = transformer() | {"transformer.proj_out.bias": torch.zeros(16)}
    with pytest.raises(InputError, match=r"proj_out.bias is the same as"):
        open_official(save(tmp_path / "doubled", doubled))


def test_converted_and_quantised_files(tmp_path: Path) -> None:
    made = convert(tmp_path, transformer())
    with pytest.raises(InputError, match="VOGUE model in ComfyUI's layout: it is converted already"):
        open_official(made)
    state = transformer() | {"proj_out.weight": transformer()["proj_out.weight"].to(torch.float8_e4m3fn)}
    with pytest.raises(InputError, match="proj_out.weight .torch.float8_e4m3fn"):
        convert(tmp_path, state)
    state = mllm(0) | {f"{VLM}model.norm.weight": torch.zeros(64, dtype=torch.float8_e4m3fn)}
    with pytest.raises(InputError, match="norm.weight .torch.float8_e4m3fn"):
        convert(tmp_path, transformer(), state)


@pytest.mark.parametrize("number", [0, 1])
def test_truncated_checkpoint(tmp_path: Path, number: int) -> None:
    paths = save(tmp_path, transformer(), {EMBEDDING: torch.zeros(100, 64)})
    os.truncate(paths[number], int(paths[number].stat().st_size * 0.9))
    with pytest.raises(InputError, match=f"{paths[number].name}: truncated or damaged"):
        open_official(paths)


def test_command_line_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    paths = save(tmp_path / "official", transformer(), mllm(QUERIES))
    config, out = ["--config", str(config_file(tmp_path))], ["--out", str(tmp_path / "models")]
    assert main(["convert", *map(str, paths), *config, *out, "--name", "mini", "--dtype", "bf16"]) == 0
    printed = capsys.readouterr().out
    assert "vogue_mini.safetensors" in printed and "models/text_encoders" in printed
    model, tokens, encoder = (
        str(tmp_path / "models" / f"{name}_mini.safetensors") for name in ("vogue", "vogue_tokens", "qwen_2.5_vl_7b")
    )
    back = ["--out", str(tmp_path / "back")]
    assert main(["convert", "--back", model, "--vlm", encoder, *back]) == 1
    assert "the variant with 8 learnable tokens. Name its tokens file" in capsys.readouterr().err
    assert main(["convert", "--back", model, tokens, *back]) == 1
    error = capsys.readouterr().err
    assert "--vlm was not given" in error and "rows of its text encoder, in mllm.ckpt" in error
    assert "Qwen2.5-VL-7B-Instruct with --vlm" in error and "writes model.ckpt alone" in error
    assert main(["convert", "--back", model, "--out", str(tmp_path / "half")]) == 0
    assert "mllm.ckpt was not written: it holds the text encoder" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["model.ckpt"]
    assert main(["convert", "--back", model, tokens, "--vlm", encoder, "--out", str(tmp_path / "back.ckpt")]) == 1
    assert "model.ckpt and mllm.ckpt. Name a folder" in capsys.readouterr().err
    assert main(["convert", "--back", model, tokens, "--vlm", encoder, *back]) == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["mllm.ckpt", "model.ckpt"]
    (tmp_path / "official" / "mllm.ckpt").unlink()
    assert main(["convert", str(paths[0]), *config, *out, "--name", "alone"]) == 0
    assert (
        "mllm.ckpt was not named, so this is taken for the variant without learnable tokens" in capsys.readouterr().out
    )


def test_the_way_back_holds_a_part_of_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = convert(tmp_path, transformer(), mllm(QUERIES))
    monkeypatch.setattr(sources, "PART", 2**20)
    seen: list[tuple[int, int]] = []
    paths = restore(*made[:2], tmp_path / "back", vlm=made[2], progress=lambda *counts: seen.append(counts))
    assert mllm(QUERIES)[EMBEDDING].nbytes > 15 * 2**20, "the tables are many parts"
    assert max(count for count, _ in seen) <= 2**20
    assert {total for _, total in seen} == {sum(count for count, _ in seen)}
    back = torch.load(paths[1], weights_only=True, mmap=True)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(back[name], mllm(QUERIES)[name]), name


def test_config_of_the_published_shapes_without_metadata() -> None:
    assert infer_mmdit_config(native_shapes(VOGUE.mmdit)) == VOGUE.mmdit


def test_files_without_metadata_tell_their_system(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(1) for name in native_shapes(VOGUE.mmdit)}, model)
    assert made_for(model) is VOGUE
    tokens = torch.randn(10, 64)
    save_tokens(tmp_path / "made.safetensors", tokens, "vogue")
    stored = load_file(tmp_path / "made.safetensors")
    assert torch.equal(stored["begin"], tokens[0]) and torch.equal(stored["end"], tokens[-1])
    save_file(stored, tmp_path / "bare.safetensors")
    assert made_for(tmp_path / "bare.safetensors") is VOGUE
    assert torch.equal(load_tokens(tmp_path / "bare.safetensors"), tokens)
    del stored["end"]
    save_file(stored, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match="no learnable tokens"):
        load_tokens(tmp_path / "half.safetensors")


def test_model_of_another_system(tmp_path: Path) -> None:
    made = convert(tmp_path, transformer())
    save_file(load_file(made[0]), tmp_path / "named.safetensors", read_metadata(made[0]) | {"system": "vino"})
    with pytest.raises(InputError, match="no model of vino, but of vogue"):
        load_mmdit(tmp_path / "named.safetensors")


def test_variants_are_told_apart(tmp_path: Path) -> None:
    for name in ("hidden", "queries"):
        (tmp_path / name).mkdir()
    hidden = convert(tmp_path / "hidden", transformer())
    queries = convert(tmp_path / "queries", transformer(), {EMBEDDING: mllm(QUERIES)[EMBEDDING]})
    tokens = load_tokens(queries[1])
    check_variant(hidden[0], None)
    check_variant(queries[0], tokens)
    with pytest.raises(InputError, match="8 learnable tokens were given, and this model is the variant without them"):
        check_variant(hidden[0], tokens)
    with pytest.raises(InputError, match="no learnable tokens were given, and this model is the variant with 8"):
        check_variant(queries[0], None)
    with pytest.raises(InputError, match="6 learnable tokens were given"):
        check_variant(queries[0], tokens[:-2])


def test_vino_needs_both_files_for_the_way_back(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="the tokens file was not given"):
        restore(tmp_path / "a.safetensors", None, tmp_path / "back.ckpt")
