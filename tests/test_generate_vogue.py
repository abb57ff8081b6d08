"""From VOGUE's published files to a picture: `vino convert`, then `vino generate`, of both variants, in miniature; and
thinking mode."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from media_files import moving_bar, write_clip
from paths import GOLDENS, small_tokenizer
from PIL import Image
from tiny_files import MODEL, write_tiny_files
from tiny_vogue_vlm import CONFIG, HIDDEN, random_state
from vogue_files import EMBEDDING, HEAD, VLM

from vino_core.checkpoints.layouts import by_official, model_pieces
from vino_core.cli import main
from vino_core.config import ConnectorConfig
from vino_core.encoder.encode import encode_branches
from vino_core.encoder.engine import Sampling
from vino_core.encoder.prompt import build_prompt
from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.encoder.understand import ask
from vino_core.errors import InputError
from vino_core.mmdit.model import MMDiT
from vino_core.request import Request
from vino_core.systems import get_system
from vino_core.systems.vogue import VOGUE
from vino_core.tasks import prepare_question

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
    encoder[HEAD][len(small_tokenizer()) :] = 0  # of what it cannot spell it says nothing
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
    (folder / "qwen_2.5" / "tokenizer.json").write_text(small_tokenizer().backend_tokenizer.to_str())


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


def drawn(files: Path, out: Path, *words: object) -> int:
    """`vino generate` on one picture, with few tokens of text."""
    named = ["--model", files / "vogue_hidden.safetensors", "--vae", files / "vae", "--out", out]
    named += ["--text-encoder", files / "qwen_2.5_vl_7b_queries.safetensors", "--frames", 5, "--steps", 1]
    return main(["generate", *map(str, [*named, "--dtype", "float32", "--device", "cpu", *words])])


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature has nothing to say, so it says it in six tokens."""
    usual = Sampling(max_new_tokens=6, repetition_penalty=1.05)
    monkeypatch.setattr("vino_core.encoder.think.usual_sampling", lambda system: usual)


PICTURE = str(GOLDENS / "media" / "img_a.png")


@pytest.mark.parametrize(
    ("kind", "task", "size"),
    [("annotated", "i2v", ("--area", 3072)), ("canvas", "multiid", ("--width", 64, "--height", 48))],
)
def test_thinking_decides_task_and_prompt(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    brief: None,
    kind: str,
    task: str,
    size: tuple[object, ...],
) -> None:
    encoded: list[str] = []
    monkeypatch.setattr(
        "vino_core.pipeline.encode_branches",
        lambda engine, system, branches, *rest: (
            encoded.append(branches[0].text) or encode_branches(engine, system, branches, *rest)
        ),
    )
    assert drawn(files, tmp_path, "--think", kind, "--prompt", "", "--image", PICTURE, *size) == 0
    (sidecar,) = tmp_path.glob(f"*_{task}.json")
    record = json.loads(sidecar.read_text())
    thought, settings = record["thought"], record["settings"]
    assert thought["plan"] and thought["prompt"] and set(thought) == {"plan", "prompt"}
    assert (settings["task"], settings["prompt"]) == (task, thought["prompt"])
    assert (record["asked"]["think"], record["asked"]["prompt"], record["asked"]["preset"]) == (kind, "", task)
    assert encoded == [VOGUE.presets[task].instruction + thought["prompt"]]
    shown = capsys.readouterr().out
    assert f"plan: {thought['plan']}\n  prompt: {thought['prompt']}" in shown
    assert (tmp_path / record["file"]).suffix == ".mp4"


def test_a_resume_compares_thinking(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, brief: None) -> None:
    def run(**fields: object) -> int:
        row = {"index": "one", "task": "i2v", "caption": "x", "ref_image_paths": [PICTURE], **fields}
        (tmp_path / "list.json").write_text(json.dumps([row]))
        return drawn(files, tmp_path / "out", "--tasks", tmp_path / "list.json", "--area", 3072)

    assert run(think="annotated") == 0
    assert json.loads((tmp_path / "out" / "one.json").read_text())["thought"]["plan"]
    assert run(think="annotated") == 0
    assert "1 of 1 done already" in capsys.readouterr().out
    assert run() == 1
    assert "exists with other settings (think)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--think", "annotated", "--preset", "multiid"), "runs as the task i2v, not as multiid. Choose that one"),
        (("--think", "canvas", "--understand"), "both --understand and thinking are asked for"),
        (("--think", "annotated", "--frames", "1"), "goes on from a picture: frames is 1"),
        (("--think", "annotated", "--image", PICTURE), r"'i2v' takes 1 picture(s) and 0 video(s), not 2 and 0"),
        (("--think", "canvas", "--system", "vino"), "vino has no thinking mode; vogue and vogue-tiny have"),
    ],
)
def test_contradictions_are_found_before_a_word_is_written(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("vino_core.encoder.think.think", lambda *_, **__: pytest.fail("it thinks"))
    tokens = ["--tokens", files / "vino_tokens_tiny.safetensors"] if "vino" in words else []
    assert drawn(files, tmp_path, "--prompt", "x", "--image", PICTURE, *tokens, *words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_row_that_contradicts_itself_is_named(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"index": "two", "task": "multiid", "caption": "", "ref_image_paths": [PICTURE], "think": "annotated"}
    (tmp_path / "list.json").write_text(json.dumps([row]))
    assert drawn(files, tmp_path / "out", "--tasks", tmp_path / "list.json") == 1
    assert "two: thinking: a picture of the kind 'annotated' runs as the task i2v" in capsys.readouterr().err


def test_tags_reach_the_prompt_by_flag_and_by_row(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "vino_core.pipeline.encode_branches",
        lambda engine, system, branches, visuals, tags: (
            seen.append(
                (engine.detokenize(build_prompt(system, engine, "", [v.item for v in visuals], tags=tags).ids), tags)
            )
            or encode_branches(engine, system, branches, visuals, tags)
        ),
    )
    row = {"task": "i2i_edit", "caption": "x", "ref_image_paths": [PICTURE]}
    (tmp_path / "list.json").write_text(
        json.dumps([{**row, "index": "with", "tags": True}, {**row, "index": "without"}])
    )
    words = ("--area", 3072, "--frames", 1)
    assert drawn(files, tmp_path / "out", "--tasks", tmp_path / "list.json", *words) == 0
    assert [("Image 1: " in text, tags) for text, tags in seen] == [(True, True), (False, False)]
    record = json.loads((tmp_path / "out" / "with.json").read_text())
    assert record["settings"]["tags"] is True and record["asked"]["tags"] is True
    assert "tags" not in json.loads((tmp_path / "out" / "without.json").read_text())["asked"]
    assert drawn(files, tmp_path / "flag", "--prompt", "x", "--image", PICTURE, "--tags", *words) == 0
    assert seen[-1][1] is True
    (tmp_path / "list.json").write_text(json.dumps([{**row, "index": "with", "tags": "yes"}]))
    assert drawn(files, tmp_path / "out", "--tasks", tmp_path / "list.json", *words) == 1
    assert "row 1: tags is 'yes'; it must be true or false" in capsys.readouterr().err


def test_tags_are_refused_where_there_are_labels() -> None:
    made = Request("x", 640, 640, 1, "", 5.0, 5.0, 1, tags=True)
    with pytest.raises(InputError, match="tags: vino labels references by itself. Switch tags off"):
        made.validate(get_system("vino"))
    replace(made, text_scale=2.0).validate(VOGUE)


@pytest.fixture
def terse(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Answers of six tokens; what `vino generate` loads beside the text encoder is a mistake."""
    usual = Sampling(max_new_tokens=6, repetition_penalty=1.05)
    monkeypatch.setattr("vino_core.encoder.understand.usual_sampling", lambda system: usual)


def test_a_question_is_answered_by_the_text_encoder_alone(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, terse: None
) -> None:
    """As published: no instruction, all frames of the clip at 720 x 1280, no learnable tokens."""
    monkeypatch.setattr("vino_core.checkpoints.files.load_mmdit", lambda *_, **__: pytest.fail("a model is loaded"))
    asked: list[tuple[str, list[tuple[int, ...]]]] = []
    monkeypatch.setattr(
        "vino_core.encoder.understand.ask",
        lambda engine, system, text, visuals, on_token: (
            asked.append((text, [visual.item.grid for visual in visuals]))
            or ask(engine, system, text, visuals, on_token=on_token)
        ),
    )
    clip = write_clip(tmp_path / "clip.mp4", moving_bar(14))
    words = ("--prompt", "What is this?", "--preset", "understanding", "--video", clip, "--image", PICTURE)
    named = ["--model", files / "vogue_hidden.safetensors", "--dtype", "float32", "--device", "cpu", "--area", 3072]
    named += ["--text-encoder", files / "qwen_2.5_vl_7b_queries.safetensors"]
    assert main(["generate", *map(str, [*named, "--out", tmp_path / "out", *words])]) == 0
    (answer,) = (tmp_path / "out").glob("*_understanding.txt")
    record = json.loads(answer.with_suffix(".json").read_text())
    assert record["answer"] + "\n" == answer.read_text() and record["settings"]["prompt"] == "What is this?"
    assert f"answer: {record['answer']}" in capsys.readouterr().out
    ((text, (picture, frames)),) = asked
    assert text == "What is this?" and picture[0] == 1 and frames[0] == 7, "13 frames, the last one twice"
    assert main(["generate", *map(str, [*named, "--out", tmp_path / "out", *words[:1], " ", *words[2:]])]) == 1
    assert (
        "_understanding: question: it is empty. Write what you want to know (at VINO Ask, or with --prompt)"
        in capsys.readouterr().err
    )


def test_only_questions_need_no_vae(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, terse: None) -> None:
    row = {"index": "ask", "task": "understanding", "caption": "What is it?", "ref_image_paths": [PICTURE]}
    named = ["--model", files / "vogue_queries.safetensors", "--tasks", tmp_path / "list.json", "--out", tmp_path / "a"]
    named += ["--dtype", "float32", "--device", "cpu", "--area", 3072]
    encoder = ["--text-encoder", files / "qwen_2.5_vl_7b_queries.safetensors"]

    def made(rows: list[dict[str, object]], *words: object) -> int:
        (tmp_path / "list.json").write_text(json.dumps(rows))
        return main(["generate", *map(str, [*named, *words])])

    assert made([row], *encoder) == 0 and (tmp_path / "a" / "ask.txt").is_file()
    for rows, words, option in (
        ([row], (), "--text-encoder"),
        ([row, {**row, "index": "edit", "task": "i2i_edit"}], encoder, "--vae"),
    ):
        assert made(rows, *words, "--overwrite") == 1
        assert f"{option}: not given. Name the file" in capsys.readouterr().err


def test_no_answer_is_no_result(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "generate", lambda *_: "")
    named = ["--model", files / "vogue_hidden.safetensors", "--out", tmp_path / "out", "--device", "cpu"]
    named += ["--text-encoder", files / "qwen_2.5_vl_7b_queries.safetensors", "--dtype", "float32"]
    assert main(["generate", *map(str, named), "--preset", "understanding", "--prompt", "What is red?"]) == 1
    shown = capsys.readouterr()
    assert "failed: answer: the text encoder wrote nothing. Show it what" in shown.err and "answer:" not in shown.out
    words = ("--understand", "--prompt", "Make it red.", "--image", PICTURE, "--area", 3072)
    assert drawn(files, tmp_path / "out", *words) == 1
    assert "failed: rewritten prompt: the text encoder wrote nothing" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_row_of_a_list_may_be_a_question(files: Path, tmp_path: Path, terse: None) -> None:
    rows = [
        {"index": "ask", "task": "understanding", "caption": "What is it?", "ref_image_paths": [PICTURE]},
        {"index": "edit", "task": "i2i_edit", "caption": "x", "ref_image_paths": [PICTURE]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    words = ("--tasks", tmp_path / "list.json", "--area", 3072, "--frames", 1)
    assert drawn(files, tmp_path / "out", *words) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ask.txt", "ask.json", "edit.png", "edit.json"}
    assert drawn(files, tmp_path / "out", *words) == 0


def test_a_row_that_scales_nothing_fails_alone(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"index": "new", "task": "t2i", "caption": "x"},
        {"index": "edit", "task": "i2i_edit", "caption": "x", "ref_image_paths": [PICTURE]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    words = ("--tasks", tmp_path / "list.json", "--area", 3072, "--frames", 1)
    assert drawn(files, tmp_path / "out", *words) == 1
    shown = capsys.readouterr().err
    assert "the task t2i scales no picture" in shown and "1 of 2 failed: new" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"edit.png", "edit.json"}


def test_a_question_shows_things_at_their_published_size() -> None:
    made = prepare_question(VOGUE, [torch.zeros(1080, 1920, 3, dtype=torch.uint8)])
    assert tuple(made.images[0].pixels.shape) == (720, 1280, 3)
    assert prepare_question(VOGUE, []).packed == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--frames", 0), "0 frames: the number of frames must be a multiple of 4 plus 1 (1, 5, 9, ... 129)"),
        (("--frames", 6), "The nearest is 5 or 9"),
        (("--area", 0), "area is 0 pixels; it must lie between 256 (16 x 16) and 134217728"),
        (("--area", -5), "area is -5 pixels"),
        (("--area", 10**12), "area is 1000000000000 pixels"),
        (("--area", 300, "--frames", 1), "crop it to a more even shape, or scale it to a larger area"),
        (("--base-image", "--preset", "i2v"), "in the task i2v none is. Choose the task i2i_edit"),
    ],
)
def test_numbers_that_cannot_be_meant(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: tuple[object, ...], message: str
) -> None:
    assert drawn(files, tmp_path, "--prompt", "x", "--image", PICTURE, *words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_video_says_that_it_decides_the_length(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clip = write_clip(tmp_path / "clip.mp4", moving_bar(7))
    words = ("--prompt", "x", "--video", clip, "--area", 3072)
    assert drawn(files, tmp_path / "a", *words, "--frames", 9) == 0
    assert "the video decides the length: 5 frames, not 9" in capsys.readouterr().out
    assert drawn(files, tmp_path / "b", *words, "--frames", 5) == 0
    assert "decides the length" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.ckpt", "mllm.ckpt", "qwen_2.5_vl_7b_queries.safetensors"])
def test_a_file_that_is_no_model_is_named_first(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    """Not that the files of a system are missing that it was taken for."""
    named = ["--model", files / name, "--vae", files / "vae", "--out", tmp_path, "--prompt", "x"]
    assert main(["generate", *map(str, named), "--text-encoder", str(files / "qwen")]) == 1
    message = capsys.readouterr().err
    assert f"{name}: not a model that loads here" in message and "vino convert" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image", "nowhere.png"), "there is no file 'nowhere.png'. Check the paths at --image and --video"),
        (("--video", "nowhere.mp4"), "there is no file 'nowhere.mp4'"),
        (("--image", PICTURE) * 17, "task 'multiid' takes 1 to 16 picture(s) and 0 video(s), not 17 and 0"),
        (("--preset", "t2v", "--image", PICTURE), "task 't2v' takes 0 picture(s) and 0 video(s), not 1 and 0"),
        (("--preset", "t2i"), "frames is 5, and the task t2i makes a picture. Set the number of frames to 1"),
        (("--preset", "i2i_edit", "--image", PICTURE), "makes a video of the same input (i2v, multiid)"),
        (("--preset", "t2i", "--frames", 1, "--area", 3072), "area is 3072 pixels, but the task t2i scales no picture"),
        (("--preset", "multiid", "--image", PICTURE, "--area", 3072), "('custom' at VINO References, or --width and"),
        (("--area", 5), "area is 5 pixels; it must lie between 256 (16 x 16) and 134217728"),
        (("--text-scale", 1), "text_scale is 1.0; vogue takes values above 1 only"),
        (("--width", 60, "--height", 48), "The nearest is 64 x 48"),
        (("--preset", "multiid", "--base-image", *("--image", PICTURE) * 2), "Choose the task i+i2i_edit"),
    ],
)
def test_one_request_is_checked_before_weights_are_loaded(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.setattr("vino_core.commands.generate.load_pipeline", lambda *_: pytest.fail("weights are loaded"))
    assert drawn(files, tmp_path, "--prompt", "x", *words) == 1
    assert message in capsys.readouterr().err
