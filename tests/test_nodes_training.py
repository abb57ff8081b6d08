"""LoRA training from a graph, in this process with miniature random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import nodes
from media_files import moving_bar, write_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_vogue_weights import MODEL_FILE as VOGUE_MODEL_FILE
from tiny_vogue_weights import WHOLE_FILE, write_tiny_vogue_weights
from tiny_weights import MODEL_FILE, TEXT_ENCODER_FILE, TOKENS_FILE, VAE_FILE, write_tiny_weights

CAPTIONS = {"cat": "a cat in ink", "dog": "a dog in ink", "owl": "an owl in ink"}
SETTINGS = {
    "lora_name": "ink", "steps": 4, "learning_rate": 1e-2, "rank": 2, "resolution": 64, "length": 5, "batch_size": 1,
    "grad_accumulation_steps": 1, "dropout": 0.1, "seed": 0, "training_dtype": "fp32", "gradient_checkpointing": False,
}  # fmt: skip


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_weights(folder)
    write_tiny_vogue_weights(folder)
    yield folder
    parts.cache_clear()
    vogue_parts.cache_clear()


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders of a ComfyUI of our own: input, output, models/loras, and the miniature weights."""
    nodes()
    import folder_paths

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in ("diffusion_models", "text_encoders", "embeddings", "vae"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(weights / kind)], {".safetensors"}))
    loras = tmp_path / "loras"
    loras.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(loras)], {".safetensors"}))
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    yield tmp_path
    torch.set_num_threads(threads)


def write_pictures(folder: Path, captions: dict[str, str] = CAPTIONS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, caption) in enumerate(captions.items()):
        picture = Image.effect_noise((80, 64 + 16 * (number % 2)), 60).convert("RGB")
        picture.save(folder / f"{name}.png")
        if caption:
            (folder / f"{name}.txt").write_text(caption)


@lru_cache(maxsize=1)
def parts() -> dict[str, Any]:
    """What the loaders give, made in inference mode as ComfyUI does; for the first test and all others."""
    import comfy.sd
    import comfy.utils
    import folder_paths

    with torch.inference_mode():
        vae = folder_paths.get_full_path_or_raise("vae", Path(VAE_FILE).name)
        return {
            "model_name": Path(MODEL_FILE).name,
            "clip": nodes().VINOTextEncoderLoader.execute(Path(TEXT_ENCODER_FILE).name, "default")[0],
            "vae": comfy.sd.VAE(sd=comfy.utils.load_torch_file(vae)),
            "tokens": nodes().VINOTokensLoader.execute(Path(TOKENS_FILE).name)[0],
        }


@lru_cache(maxsize=1)
def vogue_parts() -> dict[str, Any]:
    """As `parts`, of VOGUE without learnable queries: there is no tokens file."""
    with torch.inference_mode():
        clip = nodes().VINOTextEncoderLoader.execute(Path(WHOLE_FILE).name, "default")[0]
    return {"model_name": Path(VOGUE_MODEL_FILE).name, "clip": clip, "vae": parts()["vae"]}


def dataset(folder: str = "ink") -> Any:
    return nodes().VINOLoraDataset.execute(folder, False)[0]


def train(given: dict[str, Any] | None = None, **changes: Any) -> Any:
    with torch.inference_mode():
        return nodes().VINOTrainLora.execute(**{**(given or parts()), **SETTINGS, "dataset": dataset(), **changes})


def saved(place: Path) -> list[str]:
    return sorted(path.relative_to(place / "loras").as_posix() for path in (place / "loras").rglob("*.safetensors"))


def losses(place: Path) -> list[float]:
    (record,) = (place / "output").rglob("losses.jsonl")
    return [json.loads(line)["loss"] for line in record.read_text().splitlines()]


def test_a_lora_is_trained_saved_and_loads(place: Path) -> None:
    write_pictures(place / "input" / "ink")
    given = parts()
    lora, name, plot = train(given).args
    assert saved(place) == [name] == ["ink_4_steps_00001_.safetensors"]
    assert plot.shape == (1, 540, 960, 3) and 0 <= plot.min() < plot.max() <= 1
    assert len(losses(place)) == 4
    # The boundary connector belongs to references, and there are none.
    assert all(tensor.any() for key, tensor in lora.items() if ".lora_B." in key and "vae_branch" not in key)

    check_stock_loader(given["model_name"], name, lora)
    assert not list(place.rglob(".*.part")), "something was left half written"


def check_stock_loader(model_name: str, lora_name: str, lora: dict[str, torch.Tensor]) -> None:
    """Every matrix of the LoRA finds its place through ComfyUI's own loader."""
    import nodes as core

    with torch.inference_mode():
        model = nodes().VINOModelLoader.execute(model_name, "default")[0]
        (patched,) = core.LoraLoaderModelOnly().load_lora_model_only(model, lora_name, 1.0)
    assert len(patched.patches) == sum(".lora_A." in key for key in lora) > 10


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Press ComfyUI's stop button when the progress bar has reached this step of training."""
    import comfy.model_management
    import comfy.utils

    usual = comfy.utils.ProgressBar.update_absolute

    def press(self: Any, value: int, total: int | None = None, preview: Any = None) -> None:
        usual(self, value, total, preview)
        if value == step and total is not None:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", press)
    return comfy.model_management.InterruptProcessingException


def test_a_stopped_run_keeps_what_it_learnt_and_goes_on_exactly(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(place / "input" / "ink")
    given = parts()
    train(given, seed=5, lora_name="whole")
    whole = losses(place)
    with monkeypatch.context() as patched, pytest.raises(interrupted_at(2, patched)):
        train(given, seed=5)
    assert saved(place) == ["ink_2_steps_00001_.safetensors", "whole_4_steps_00001_.safetensors"]
    train(given, seed=5)
    assert "ink_4_steps_00001_.safetensors" in saved(place)
    (record,) = (place / "output").glob("vino_training/ink_*/losses.jsonl")
    assert [json.loads(line)["loss"] for line in record.read_text().splitlines()] == whole


def test_a_finished_run_is_not_repeated_but_can_go_further(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(place / "input" / "ink")
    given = parts()
    first = train(given)[1]
    with monkeypatch.context() as patched:
        patched.setattr(pack("nodes.comfy.training"), "encode_all", None)
        assert train(given)[1] == first
    assert train(given, steps=6)[1] == "ink_6_steps_00001_.safetensors"
    assert len(losses(place)) == 6
    with pytest.raises(error(), match="steps is 5, but a run with these settings has done 6"):
        train(given, steps=5)
    # Another picture makes it another run, and nothing is overwritten.
    write_pictures(place / "input" / "ink", {"fox": "a fox in ink"})
    assert train(given)[1] == "ink_4_steps_00002_.safetensors"
    assert len(list((place / "output" / "vino_training").iterdir())) == 2


def test_it_trains_after_sampling_in_inference_mode(place: Path) -> None:
    """Tables that sampling leaves in caches must not be such that training cannot use them."""
    write_pictures(place / "input" / "ink", {"cat": ""} | {"cat": "a cat in ink"})
    given = parts()
    packing = pack("vino_core.mmdit.packing")
    usual, tables = packing.rotary_table, packing.small_tables
    tables.cache_clear()
    layouts: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        model = pack("vino_core.mmdit.model")
        patched.setattr(model, "rotary_table", lambda *key: layouts.append(key) or usual(*key))
        train(given, steps=1, dropout=0.0)
        tables.cache_clear()
        with torch.inference_mode():
            usual(*layouts[0])
        train(given, steps=2, dropout=0.0)
    assert tables.cache_info().hits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_name": "../ink"}, "inside models/loras"),
        ({"lora_name": "  "}, "inside models/loras"),
        ({"length": 6}, "6"),
    ],
)
def test_mistakes_are_named_before_anything_runs(changes: dict, message: str, place: Path) -> None:
    write_pictures(place / "input" / "ink")
    with pytest.raises(error(), match=re.escape(message)):
        train(**changes)
    assert saved(place) == [] and not (place / "output" / "vino_training").exists()


def test_parts_that_do_not_belong_together_are_refused(place: Path) -> None:
    write_pictures(place / "input" / "ink")
    given = parts()
    values = torch.zeros(4, 32)
    with pytest.raises(error(), match="wide"):
        train({**given, "tokens": type(given["tokens"])(values, given["tokens"].system)})
    other = pack("vino_core.systems").get_system("vino-tiny")
    with pytest.raises(error(), match="tokens: made for vino-tiny"):
        train({**given, "tokens": type(given["tokens"])(given["tokens"].values, other)})


def test_a_model_that_does_not_fit_and_missing_packages_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    import comfy.model_management

    write_pictures(place / "input" / "ink")
    given = parts()
    with monkeypatch.context() as patched:
        patched.setattr(comfy.model_management, "get_total_memory", lambda device: 1000)
        with pytest.raises(error(), match="keeps the whole model in memory"):
            train(given)
    with monkeypatch.context() as patched:
        usual = importlib.util.find_spec
        patched.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else usual(name, *rest))
        with pytest.raises(error(), match=r'pip install "peft>=0.15"'):
            train(given)


def test_a_model_whose_scales_are_lost_is_refused(place: Path) -> None:
    import folder_paths

    write_pictures(place / "input" / "ink")
    given = parts()
    source = folder_paths.get_full_path_or_raise("diffusion_models", given["model_name"])
    tensors = load_file(source)
    name = "double_blocks.0.img_attn.qkv.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    metadata = pack("vino_core.checkpoints.files").read_metadata(source)
    save_file(tensors, Path(source).with_name("cut_fp8.safetensors"), metadata)
    with pytest.raises(error(), match="has no scale"):
        train({**given, "model_name": "cut_fp8.safetensors"})


def test_folders_in_front_of_the_name_are_made(place: Path) -> None:
    write_pictures(place / "input" / "ink")
    name = train(lora_name="styles/ink", steps=1)[1]
    assert saved(place) == [name.replace("\\", "/")] == ["styles/ink_1_steps_00001_.safetensors"]


def test_the_dataset_tells_what_it_holds(place: Path) -> None:
    write_pictures(place / "input" / "sets" / "ink")
    found, summary = nodes().VINOLoraDataset.execute("sets/ink", False).args
    assert found.tasks == {"t2i": 3} and summary.startswith("3 examples: 3 t2i")


def test_unusable_files_are_named_or_left_out(place: Path) -> None:
    write_pictures(place / "input" / "ink", CAPTIONS | {"fox": ""})
    (place / "input" / "ink" / "elk.png").write_bytes(b"no picture")
    (place / "input" / "ink" / "elk.txt").write_text("an elk")
    with pytest.raises(error(), match="2 of 5 examples cannot be used") as caught:
        dataset()
    assert "fox.png: the caption is missing" in str(caught.value) and "elk.png" in str(caught.value)
    result = nodes().VINOLoraDataset.execute("ink", True)
    assert result[0].tasks == {"t2i": 3} and "elk.png" in result.ui.value
    for name in CAPTIONS:
        (place / "input" / "ink" / f"{name}.txt").unlink()
    with pytest.raises(error(), match="5 of 5 examples"):
        nodes().VINOLoraDataset.execute("ink", True)


def test_empty_and_foreign_folders_are_refused(place: Path) -> None:
    (place / "input" / "ink").mkdir()
    with pytest.raises(error(), match="no pictures or clips in it"):
        dataset()
    for folder in ("../output", "nowhere"):
        with pytest.raises(error(), match="there is no such folder"):
            dataset(folder)


def test_comfyui_notices_a_changed_folder(place: Path) -> None:
    write_pictures(place / "input" / "ink")
    look = nodes().VINOLoraDataset.fingerprint_inputs
    before = look("ink", False)
    assert look("ink", False) == before
    (place / "input" / "ink" / "cat.txt").write_text("a cat in pencil")
    assert look("ink", False) != before


def write_manifest(folder: Path) -> None:
    """An edit with a reference picture, and a clip."""
    write_pictures(folder)
    write_clip(folder / "walk.mp4", moving_bar(9, 64, 64))
    rows = [
        {
            "index": 1,
            "task": "ti2i",
            "caption": "Make it ink.",
            "ref_image_paths": ["dog.png"],
            "target_path": "cat.png",
        },
        {"index": 2, "task": "t2v", "caption": "a walk", "target_path": "walk.mp4"},
    ]
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def test_edits_and_clips_are_trained_too(place: Path) -> None:
    write_manifest(place / "input" / "ink")
    lora = train(steps=6, dropout=0.3)[0]
    (record,) = (place / "output").rglob("losses.jsonl")
    assert {json.loads(line)["task"] for line in record.read_text().splitlines()} == {"ti2i", "t2v"}
    assert all(tensor.any() for key, tensor in lora.items() if ".lora_B." in key)


def write_vogue_manifest(folder: Path) -> None:
    """What VOGUE puts in three places: a clip to go on from a picture, an edit, an edit with a reference, of a clip."""
    write_pictures(folder)
    write_clip(folder / "walk.mp4", moving_bar(9, 64, 64))
    clip = {"ref_video_path": "walk.mp4", "target_path": "walk.mp4"}
    rows = [
        {"task": "i2v", "caption": "It walks.", "ref_image_paths": ["dog.png"], "target_path": "walk.mp4"},
        {"task": "ti2i", "caption": "Make it ink.", "ref_image_paths": ["dog.png"], "target_path": "cat.png"},
        {"task": "tiv2v", "caption": "Swap them.", "ref_image_paths": ["owl.png"], **clip},
    ]
    lines = [json.dumps({"index": number, **row}) for number, row in enumerate(rows)]
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def test_vogue_is_trained_and_its_lora_loads(place: Path) -> None:
    write_vogue_manifest(place / "input" / "ink")
    given = vogue_parts()
    lora, name, _ = train(given, steps=8, dropout=0.3).args
    (record,) = (place / "output").rglob("losses.jsonl")
    assert {json.loads(line)["task"] for line in record.read_text().splitlines()} == {"i2v", "ti2i", "tiv2v"}
    assert all(tensor.any() for key, tensor in lora.items() if ".lora_B." in key)
    assert any("qwen_project_in.mlp.0" in key for key in lora)
    check_stock_loader(given["model_name"], name, lora)


def test_vogue_with_queries_trains_behind_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(place / "input" / "ink")
    given, training, seen = vogue_parts(), pack("nodes.comfy.training"), []
    usual = training.train
    monkeypatch.setattr(training, "train", lambda *parts: seen.append(parts) or usual(*parts))
    values = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    tokens = pack("nodes.types").LearnableTokens(values, pack("vino_core.systems").get_system("vogue"))
    for options in ({}, {"tokens": tokens}):
        train({**given, **options}, steps=1, dropout=0.0)
    lengths = [sorted(found.states.shape[1] for found in examples.samples.values()) for _, _, examples in seen]
    # Four queries, whose two marks are left out, and the end of the turn before them.
    assert [more - less for less, more in zip(*lengths, strict=True)] == [4 + 1] * 3
    assert [system.learnable_tokens > 0 for _, system, _ in seen] == [False, True]


def test_parts_of_the_other_system_and_the_other_variant_are_refused(place: Path) -> None:
    import folder_paths

    write_pictures(place / "input" / "ink")
    given, other = vogue_parts(), parts()
    with pytest.raises(error(), match="tokens: vino has learnable tokens, and none are connected"):
        train({**other, "tokens": None})
    with pytest.raises(error(), match="made for vino, but the text encoder belongs to vogue"):
        train({**given, "model_name": other["model_name"]})
    with pytest.raises(error(), match="tokens: made for vino"):
        train({**given, "tokens": other["tokens"]})
    source = Path(folder_paths.get_full_path_or_raise("diffusion_models", given["model_name"]))
    metadata = pack("vino_core.checkpoints.files").read_metadata(source)
    save_file(load_file(source), source.with_name("queries.safetensors"), {**metadata, "learnable_tokens": "4"})
    with pytest.raises(error(), match="no learnable tokens were given, and this model is the variant with 4"):
        train({**given, "model_name": "queries.safetensors"})
    write_manifest(place / "input" / "clone")
    manifest = place / "input" / "clone" / "manifest.jsonl"
    row = {"index": 1, "task": "tiv2v_clone", "caption": "Like it.", "ref_image_paths": ["dog.png"]}
    row |= {"ref_video_path": "walk.mp4", "target_path": "walk.mp4"}
    manifest.write_text(json.dumps(row))
    with pytest.raises(error(), match="vogue has no task tiv2v_clone"):
        train(given, dataset=dataset("clone"))


@pytest.mark.parametrize("system_parts", [parts, vogue_parts], ids=["vino", "vogue"])
def test_training_sees_what_sampling_sees(
    place: Path, monkeypatch: pytest.MonkeyPatch, system_parts: Callable[[], dict[str, Any]]
) -> None:
    """States and latents of an edit equal those of the nodes that prepare it for sampling."""
    write_manifest(place / "input" / "ink")
    given = system_parts()
    training, seen = pack("nodes.comfy.training"), {}
    usual = training.train

    def watched(run: Any, system: Any, examples: Any) -> Any:
        seen.update(examples=examples, run=run, system=system)
        return usual(run, system, examples)

    monkeypatch.setattr(training, "train", watched)
    train(given, steps=1, dropout=0.0)
    run, system = seen["run"], seen["system"]
    example = dataset().sources(5, 8)["ti2i"].example(0)
    prepare = pack("vino_core.training.prepare").prepare
    prepared = prepare(example, pack("vino_core.training.dropout").Dropped(), run.data, system).references
    size = prepared.images[0].packed.shape
    types = pack("nodes.types")
    references = types.PreparedReferences(lambda _: (prepared, types.TargetSize(size[1], size[0], 1)), system)
    with torch.inference_mode():
        context = nodes().VINOEncoder.execute(
            given["clip"], references, "Make it ink.", {"negative": "none"}, False, 1.0
        )
        branches = nodes().VINOLearnableTokens.execute(given["clip"], context[0], given.get("tokens")).args
        positive = nodes().VINOReferenceLatents.execute(*branches, given["vae"], references)[0]
    states, values = positive[0]
    (sample,) = [found for key, found in seen["examples"].samples.items() if key[0] == "ti2i"]
    assert (sample.states - states).abs().max() < 1e-5
    (latents,) = values["reference_latents"]
    assert ((*sample.references, *sample.conditions)[0] - latents * system.latent_scale).abs().max() < 1e-6
