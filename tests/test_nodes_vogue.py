"""VOGUE's tasks and variants through the nodes: what they decide, what each branch sees, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import comfy_runs
import comfy_vogue_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import VOGUE_MODEL, VOGUE_TOKENS, vogue_model
from comfy_runs import SCALE, nodes
from comfy_vogue_runs import CHANNELS, ReferenceVAE, case, clip, folder, given_clip, tokens
from safetensors.torch import save_file
from torch import Tensor
from vogue_files import VOGUE_GOLDENS

from vino_core.systems.vogue import VOGUE

AUTO = {"size": "auto"}
CUSTOM = {"size": "custom", "width": 64, "height": 48}
LAST = {"size": "last image"}
AREA = 64 * 48


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    """Pictures and clips to edit are prepared at a few pixels."""
    module = pack("nodes.references")
    with patch.object(module, "prepare_references", partial(module.prepare_references, area=AREA)):
        yield


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


def picture(value: float = 0.5, width: int = 96, height: int = 72) -> Tensor:
    ramp = torch.linspace(0, value, width).expand(height, width)
    return ramp[None, :, :, None].expand(1, -1, -1, 3)


def references(
    images: int = 0, videos: int = 0, length: int = 1, task: str = "auto", size: Any = AUTO, **options: Any
) -> Any:
    """(references, width, height, length) of VINO References."""
    slots = {f"image_{number + 1}": picture(0.3 + 0.1 * number) for number in range(images)}
    clips = {
        f"video_{number + 1}": given_clip(torch.zeros(13, 48, 64, 3, dtype=torch.uint8)) for number in range(videos)
    }
    options = {"clip": clip(), **options}
    return nodes().VINOReferences.execute(size, length, images=slots, videos=clips, task=task, **options).args


def encode(refs: Any, prompt: str = "x", base: bool = False, image_scale: float = 1.0, **options: Any) -> Any:
    with torch.inference_mode():
        return nodes().VINOEncoder.execute(clip(), refs, prompt, {"negative": "auto"}, base, image_scale, **options)[0]


def conditionings(context: Any, refs: Any = None, given: Any = None) -> list[Any]:
    with torch.inference_mode():
        made = list(nodes().VINOLearnableTokens.execute(clip(), context, given).args)
        return made if refs is None else list(nodes().VINOReferenceLatents.execute(*made, ReferenceVAE(), refs).args)


def sample(
    made: list[Any], latent: Any, model: Any = None, text_scale: float = 5.0, image_scale: float = 1.0
) -> Tensor:
    with torch.inference_mode():
        return nodes().VINOSampler.execute(
            model or comfy_vogue_runs.model(), *made[:2], latent, 0, 2, 7.0, text_scale, image_scale, 1.0, made[2]
        )[0]["samples"]


def empty(width: int, height: int, length: int) -> Any:
    return nodes().VINOEmptyLatent.execute(width, height, length, 1)[0]


@pytest.mark.parametrize(
    ("images", "videos", "length", "size", "task", "expected"),
    [
        (0, 0, 1, AUTO, "t2i", (832, 480, 1)),
        (0, 0, 61, AUTO, "t2v", (848, 480, 61)),
        (1, 0, 5, AUTO, "i2v", (64, 48, 5)),
        (1, 0, 1, AUTO, "i2i_edit", (64, 48, 1)),
        (2, 0, 129, AUTO, "multiid", (832, 480, 129)),
        (2, 0, 5, CUSTOM, "multiid", (64, 48, 5)),
        (1, 0, 1, LAST, "i2i_edit", (64, 48, 1)),
        (1, 0, 5, LAST, "i2v", (64, 48, 5)),
        (0, 1, 9, AUTO, "v2v_edit", (64, 48, 9)),
        (1, 1, 81, AUTO, "i+v2v_edit", (64, 48, 13)),
    ],
)
def test_what_is_connected_decides_the_task(
    images: int, videos: int, length: int, size: Any, task: str, expected: tuple[int, int, int]
) -> None:
    system = pack("vino_core.systems").get_system("vogue")
    for choice in ("auto", task):
        refs, *result = references(images, videos, length, choice, size)
        assert refs.task_for(system) == task
        assert tuple(result) == expected


def test_a_task_prepares_its_pictures() -> None:
    """The last of several is edited, the others lie on canvases of its size, and their squares go to the VLM."""
    system = pack("vino_core.systems").get_system("vogue")
    refs, width, height, length = references(2, task="i+i2i_edit")
    reference, edited = refs.for_system(system).images
    assert (width, height, length) == (64, 48, 1)
    assert tuple(reference.pixels.shape) == (96, 96, 3) and tuple(reference.packed.shape) == (48, 64, 3)
    assert tuple(edited.pixels.shape) == tuple(edited.packed.shape) == (48, 64, 3)
    assert edited.packed.dtype == torch.float32, "what is edited is not rounded before the VAE"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ti2v"}, "task 'ti2v': vogue does not know it; .*It is a task of vino and vino-tiny"),
        ({"task": "i2i_edit", "clip": None}, "task 'i2i_edit': vino does not know it; .*a task of vogue.*to clip"),
        ({"task": "multiid"}, r"'multiid' takes 1 to 16 picture\(s\) and 0 video\(s\), not 0 and 0"),
        ({"task": "i2v", "images": 1}, "goes on from a picture: frames is 1"),
        ({"task": "t2i", "length": 81}, r"frames is 81, and the task t2i makes a picture.*1 \(length at VINO.*\(t2v\)"),
        ({"task": "i2i_edit", "images": 1, "length": 81}, r"makes a picture.*\(i2v, multiid\)"),
        (
            {"images": 1, "size": {"size": "custom", "width": 96, "height": 64}},
            "prepared for 64 x 48.*one size for all",
        ),
        ({"length": 133}, "129"),
        ({"length": 129, "clip": None}, "length is 129, and vino makes 89 frames.*those of vogue, connect their text"),
        ({"size": {"size": "scaled", "area": 4000}}, "area is 4000 pixels, but the task t2i scales no .*'custom'"),
        ({"images": 2, "size": LAST}, "size is 'last image', but in the task multiid .*Choose 'custom' and give"),
        ({"images": 1, "videos": 1, "length": 9, "size": LAST}, r"task i\+v2v_edit .*Choose 'auto' or 'scaled'"),
        ({"size": LAST}, "size is 'last image', but no image is connected"),
        ({"images": 1, "size": {"size": "scaled", "area": 9}}, "area is 9 pixels; it must lie between 256"),
    ],
)
def test_what_does_not_apply_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(error(), match=message):
        references(**options)


def test_an_area_scales_what_is_edited_and_the_result() -> None:
    scaled = {"size": "scaled", "area": 4 * AREA}
    refs, *size = references(2, task="i+i2i_edit", size=scaled)
    assert size == [128, 96, 1]
    reference, edited = refs.for_system(pack("vino_core.systems").get_system("vogue")).images
    assert tuple(edited.packed.shape) == tuple(reference.packed.shape) == (96, 128, 3)
    assert references(0, 1, 9, size=scaled)[1:] == (128, 96, 9)


def test_a_preset_is_vogues() -> None:
    preset = VOGUE.presets["i+v2v_edit"]
    assert nodes().VINOPreset.execute("i+v2v_edit", clip()).args == (129, 50, 7.0, 7.0, 2.0, preset.negative)
    with pytest.raises(error(), match="vogue does not know it"):
        nodes().VINOPreset.execute("tiv2v_clone", clip())


def test_a_base_image_cannot_change_what_was_prepared() -> None:
    message = r"base_image: with it the last picture is edited, and in the task {} none is. Choose the task {}"
    for images, options, task, edits in (
        (2, {}, "multiid", r"i\+i2i_edit"),
        (2, {"task": "multiid"}, "multiid", r"i\+i2i_edit"),
        (1, {"length": 5, "size": AUTO}, "i2v", "i2i_edit"),
    ):
        with pytest.raises(error(), match=message.format(task, edits)):
            encode(references(images, **{"size": CUSTOM, **options})[0], base=True)
    chosen = references(2, task="i+i2i_edit")[0]
    for base in (False, True):
        assert encode(chosen, base=base).system.name == "vogue"


def ids(context: Any) -> dict[str, list[int]]:
    return {branch.value: list(encoded.prompt.plan.ids) for branch, encoded in context.branches.items()}


def contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole)))


def test_the_instruction_stands_before_the_prompt_only() -> None:
    engine = pack("nodes.comfy.vlm").ComfyVLM(clip())
    made = ids(encode(references(1)[0], "Make it night.", image_scale=2.0))
    positive = engine.tokenize(VOGUE.presets["i2i_edit"].instruction + "Make it night.")
    negative = engine.tokenize(VOGUE.negative_image)
    assert contains(made["positive"], positive)
    for name in ("negative", "negative_image"):
        assert contains(made[name], negative) and not contains(made[name], positive[:20])
    pad = engine.token_id("<|image_pad|>")
    assert pad in made["positive"] and pad in made["negative"] and pad not in made["negative_image"]


def test_tags_are_an_option_of_vogue() -> None:
    engine = pack("nodes.comfy.vlm").ComfyVLM(clip())
    refs, tag = references(1)[0], engine.tokenize("user\nImage 1: ")
    assert contains(ids(encode(refs, tags=True))["positive"], tag)
    assert not contains(ids(encode(refs))["positive"], tag)
    plain = comfy_runs.given_references(pack("vino_core.media.references").References(), 64, 48, 1)
    with pytest.raises(error(), match="tags: vino labels references by itself"):
        nodes().VINOEncoder.execute(comfy_runs.clip(), plain, "x", {"negative": "none"}, False, 1.0, tags=True)


def test_a_variant_lays_out_its_own_prompt() -> None:
    """Tokens at the encoder mean the variant that has some: other frames of a clip, other states, and it keeps them."""
    refs = references(0, 1, 9)[0]
    hidden, queries = encode(refs), encode(refs, tokens=tokens())
    shown = [len(refs.for_system(context.system).videos[0].vlm_frames) for context in (hidden, queries)]
    assert shown == [2, 8]
    plain, kept, given = conditionings(hidden), conditionings(queries), conditionings(queries, given=tokens())
    assert [made[0][0][1]["vino_learnable"] for made in (plain, kept, given)] == [0, 8, 8]
    assert torch.equal(kept[0][0][0], given[0][0][0])
    assert plain[0][0][0].shape[1] > kept[0][0][0].shape[1], "no vision tokens in this variant"


def test_tokens_must_fit_the_prompt() -> None:
    refs = references()[0]
    with pytest.raises(error(), match="tokens: the prompt was encoded for a model without learnable tokens"):
        conditionings(encode(refs), given=tokens())
    with pytest.raises(error(), match="tokens: made for vino, but the text encoder belongs to vogue"):
        encode(refs, tokens=comfy_runs.learnable_tokens())
    with torch.inference_mode(), pytest.raises(error(), match="nothing is connected, but vino has learnable tokens"):
        plain = comfy_runs.given_references(pack("vino_core.media.references").References(), 64, 48, 1)
        context = nodes().VINOEncoder.execute(comfy_runs.clip(), plain, "x", {"negative": "none"}, False, 1.0)[0]
        nodes().VINOLearnableTokens.execute(comfy_runs.clip(), context)


def test_each_reference_gets_its_place_in_each_branch() -> None:
    refs = references(2, task="i+i2i_edit")[0]
    made = conditionings(encode(refs, image_scale=2.0), refs)
    latents = [values["reference_latents"] for ((_, values),) in made]
    assert [len(seen) for seen in latents] == [2, 2, 0]
    assert [values["vino_behind"] for ((_, values),) in made] == [1, 1, 0]
    assert not any("vino_first_frame" in values for ((_, values),) in made)


def seen_by(model: Any) -> list[tuple[int, int, int]]:
    """Filled while sampling: frames (noisy, of references before, of conditions behind) of each evaluation."""
    seen: list[tuple[int, int, int]] = []

    def look(run: Any, *arguments: Any, **options: Any) -> Tensor:
        x, _, _, _, before, behind, _ = arguments
        seen.append((x.shape[2], *(sum(latent.shape[2] for latent in latents) for latents in (before, behind))))
        return run(*arguments, **options)

    model.add_wrapper("diffusion_model", look)
    return seen


def test_the_branch_without_references_sees_noisy_frames_only() -> None:
    """With i2v too, whose first frame it has not got: the result begins with the picture all the same."""
    refs, *size = references(1, length=9)
    made = conditionings(encode(refs, image_scale=2.0), refs)
    model = comfy_vogue_runs.model().clone()
    seen = seen_by(model)
    samples = sample(made, empty(*size), model, image_scale=2.0)
    assert set(seen) == {(2, 1, 0), (2, 0, 0)}
    first = made[0][0][1]["vino_first_frame"]
    assert (samples[:, :CHANNELS, :1] - first[:, :CHANNELS]).abs().max() < 1e-5


def test_context_windows_begin_with_the_first_frame_only_once() -> None:
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    refs, *size = references(1, length=25)
    made = conditionings(encode(refs), refs)
    windowed = ContextWindowsManualNode.execute(
        comfy_vogue_runs.model(), 4, 1, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    seen = seen_by(windowed)
    samples = sample(made, empty(*size), windowed)
    assert set(seen) == {(3, 1, 0), (5, 1, 0)}, "later windows keep all 4 frames, behind one that ComfyUI puts before"
    first = made[0][0][1]["vino_first_frame"]
    assert (samples[:, :CHANNELS, :1] - first[:, :CHANNELS]).abs().max() < 1e-5


@pytest.mark.parametrize("text_scale", [1.0, 0.0])
def test_sampling_needs_the_negative_prompt(text_scale: float) -> None:
    run = case("t2v")
    with pytest.raises(error(), match="text_scale .*vogue takes values above 1 only"):
        sample(run.branches, run.latent, text_scale=text_scale)


def test_a_latent_that_does_not_fit_the_references_is_refused() -> None:
    run = case("i2i_edit")
    with pytest.raises(error(), match="latent_image: it is 96x64 pixels, but the references were prepared for 32x64"):
        sample(run.branches, empty(96, 64, 1))
    run = case("i2v")
    with pytest.raises(error(), match="latent_image: it has one frame"):
        sample(run.branches, empty(64, 32, 1))


@pytest.mark.parametrize(
    ("images", "videos", "given", "length"), [(0, 1, 9, 13), (0, 1, 9, 5), (1, 1, 13, 9), (1, 0, 1, 5), (2, 0, 1, 5)]
)
def test_what_is_edited_is_as_long_as_the_result(images: int, videos: int, given: int, length: int) -> None:
    """The same clip with its own length samples, whatever the length of the pictures before it."""
    task = "auto" if videos else {1: "i2i_edit", 2: "i+i2i_edit"}[images]
    refs, width, height, own = references(images, videos, given, task)
    made = conditionings(encode(refs), refs)
    assert own == given and torch.isfinite(sample(made, empty(width, height, own))).all()
    with pytest.raises(error(), match=f"latent_image: its length is {length}, but what is edited gave {given}.*VINO R"):
        sample(made, empty(width, height, length))


def test_a_context_window_edits_its_own_frames_of_a_clip() -> None:
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    refs, *size = references(1, 1, length=13)
    made = conditionings(encode(refs), refs)
    windowed = ContextWindowsManualNode.execute(
        comfy_vogue_runs.model(), 2, 1, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    seen = seen_by(windowed)
    assert torch.isfinite(sample(made, empty(*size), windowed)).all()
    assert seen and all(before == 1 and behind == noisy for noisy, before, behind in seen) and seen[0][0] < 4


def test_a_batch_begins_with_the_first_frame_in_each_sample() -> None:
    run = case("i2v")
    samples = sample(run.branches, {"samples": run.latent["samples"].repeat(2, 1, 1, 1, 1)})
    wanted = run.tensors["mid.cond_latents"]
    assert (samples[:, :CHANNELS, :1] * SCALE - wanted).abs().max() < 1e-5
    assert not torch.equal(samples[0], samples[1])


def variant(path: Path, learnable: int) -> Path:
    tensors, metadata = vogue_model(VOGUE_GOLDENS)
    metadata["learnable_tokens"] = str(learnable)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


def test_an_incomplete_model_is_named_by_its_system(tmp_path: Path) -> None:
    nodes()
    import comfy.sd

    tensors, metadata = vogue_model(VOGUE_GOLDENS)
    del tensors["double_blocks.0.img_attn.proj.weight"]
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(error(), match="vogue model: 1 weights are missing from the file, double_blocks.0.img_attn.pr"):
        comfy.sd.load_diffusion_model(str(tmp_path / "a.safetensors"))


def test_a_model_of_the_other_variant_is_refused(tmp_path: Path) -> None:
    """Also when ComfyUI's own node saved it, which writes no metadata of ours."""
    nodes()
    import comfy.sd

    made = {
        name: conditionings(encode(references()[0], tokens=given)) for name, given in (("h", None), ("q", tokens()))
    }
    latent = empty(64, 48, 1)
    for learnable, own, other in ((0, "h", "q"), (8, "q", "h")):
        model = comfy.sd.load_diffusion_model(str(variant(tmp_path / f"{learnable}.safetensors", learnable)))
        comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model, metadata={})
        for loaded in (model, comfy.sd.load_diffusion_model(str(tmp_path / "saved.safetensors"))):
            assert torch.isfinite(sample(made[own], latent, loaded)).all()
            with pytest.raises(error(), match=f"made with {8 - learnable} learnable.*trained with {learnable}"):
                sample(made[other], latent, loaded)


def test_conditionings_and_models_of_two_systems_are_refused() -> None:
    vogue = conditionings(encode(references()[0]))
    with pytest.raises(error(), match="conditioning: made for vogue, but the model belongs to vino"):
        sample(vogue, empty(64, 48, 1), comfy_runs.model())


def test_loaders_know_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes()
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(folder() / name))
    model = nodes().VINOModelLoader.execute(VOGUE_MODEL, "default")[0]
    assert model.model.diffusion_model.system.name == "vogue"
    assert model.model.model_sampling.shift == 7.0
    loaded = nodes().VINOTokensLoader.execute(VOGUE_TOKENS)[0]
    assert loaded.system.name == "vogue" and tuple(loaded.values.shape) == (8 + 2, 64)


def test_timesteps_take_the_models_precision() -> None:
    """As in the published bfloat16 runs, and on the same scale whatever ModelSamplingSD3 sets."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    small = comfy.sd.load_diffusion_model(str(folder() / VOGUE_MODEL), model_options={"dtype": torch.bfloat16})
    (patched,) = ModelSamplingSD3().patch(small, 5.0)
    patched.patch_model()
    sigma = torch.tensor([0.9371])
    made = patched.model.process_timestep(patched.model.model_sampling.timestep(sigma).float())
    dtype = patched.model.get_dtype_inference()
    patched.unpatch_model()
    assert made.dtype == torch.float32
    assert torch.equal(made, (sigma * 1000).to(dtype).float())


def test_the_text_encoder_answers() -> None:
    refs = references(1, 1, 9)[0]
    with torch.inference_mode():
        assert isinstance(nodes().VINOAsk.execute(clip(), refs, "What is this?", 3, 0.0, 0)[0], str)


def test_no_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = references()[0]
    monkeypatch.setattr(pack("nodes.comfy.vlm").ComfyVLM, "generate", lambda *_: "")
    with torch.inference_mode(), pytest.raises(error(), match="wrote nothing. Show it .*VINO References, or"):
        nodes().VINOAsk.execute(clip(), refs, "What is red?", 3, 0.0, 0)
