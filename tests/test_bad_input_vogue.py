"""Bad input to VOGUE, through the core that both doors share: an error that names input, value, what is allowed and
what to do, or the behaviour that the documentation promises.

What depends on a door has its tests there: test_generate_vogue.py and test_convert_vogue.py for the command line,
test_nodes_vogue.py and test_nodes_loaders.py for ComfyUI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vogue_vlm
import torch
from media_files import moving_bar, turn, write_clip, write_sound
from PIL import Image
from safetensors.torch import save_file
from test_bad_input import generate as command
from tiny_vogue_vlm import tiny_engine
from torch import Tensor

from vino_core.branches import branch_prompts, check_scales
from vino_core.checkpoints.files import check_variant, check_widths, load_mmdit, load_tokens, model_metadata
from vino_core.cli import main
from vino_core.encoder.encode import BranchPrompt, encode_branches
from vino_core.encoder.engine import IM_END, IMAGE_PAD
from vino_core.encoder.prompt import build_prompt
from vino_core.errors import InputError
from vino_core.media.images import read_image
from vino_core.media.references import Clip, References
from vino_core.mmdit.connectors import Connector, connect
from vino_core.request import Request
from vino_core.sampling.guidance import Branch
from vino_core.systems import expect_system, get_system
from vino_core.systems.vino import VINO
from vino_core.systems.vogue import VOGUE
from vino_core.tasks import check_scaled, get_preset, load_tasks, prepare_references, target_size

AREA = 64 * 48
QUERIES = VOGUE.with_tokens


def picture(width: int = 64, height: int = 48) -> Tensor:
    """A ramp, so that cropping and padding show."""
    ramp = torch.linspace(0, 200, width).to(torch.uint8)
    return ramp.expand(height, width)[..., None].expand(-1, -1, 3).contiguous()


def clip(frames: int, width: int = 64, height: int = 48) -> Clip:
    return Clip(picture(width, height).expand(frames, -1, -1, -1), 24.0)


def prepared(
    task: str, images: Sequence[Tensor] = (), clips: Sequence[Clip] = (), frames: int = 5, **options: Any
) -> References:
    return prepare_references(VOGUE, task, images, clips, frames, **{"area": AREA, **options})


def request(task: str = "t2i", references: References | None = None, **changes: Any) -> Request:
    """A request that is valid but for `changes`."""
    preset = get_preset(VOGUE, task)
    frames = changes.pop("frames", 1)
    given = references or References()
    width, height = changes.pop("width", 64), changes.pop("height", 48)
    values = {"prompt": "x", "negative": preset.negative, "text_scale": 5.0, "shift": 7.0, "steps": 2, "task": task}
    return Request(**{**values, "width": width, "height": height, "frames": frames, "references": given, **changes})


def refused(made: Request, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        made.validate(VOGUE)
    for word in words:
        assert re.search(word, str(caught.value)), (word, str(caught.value))


def test_sizes_and_numbers_of_frames() -> None:
    refused(request("t2v", frames=6), "6 frames", "nearest is 5 or 9")
    refused(request("t2v", frames=133), "133", "129")
    refused(request(width=60), "60 x 48", "multiples of 16", "nearest is 64 x 48")
    refused(request(height=0), "64 x 0")
    refused(request(steps=0), "steps is 0; at least 1")
    refused(request(seed=-1), "seed is -1", "between 0 and")
    request().validate(VOGUE)


def test_guidance_that_vogue_does_not_have() -> None:
    """Image guidance with text guidance off works with VINO; here the formula starts from the negative prompt."""
    refused(request(text_scale=1.0), "text_scale is 1.0; vogue takes values above 1 only", "own are 5, 6, 7")
    with pytest.raises(InputError, match=r"vogue-tiny takes .* Its tasks' own are 2\."):
        check_scales(get_system("vogue-tiny"), 1.0)
    refused(request(text_scale=0.5, image_scale=2.0), "text_scale is 0.5")
    refused(request(image_scale=101.0), "image_scale is 101.0; it must lie between 0 and 100")
    refused(request(text_scale=float("nan")), "text_scale is nan")


@pytest.mark.parametrize("size", [(0, 48), (48, 0), (65_536, 2), (65_536, 65_536), (40_000, 8)])
def test_empty_and_huge_pictures(size: tuple[int, int]) -> None:
    pixels = torch.zeros(1, 1, 3, dtype=torch.uint8).expand(size[1], size[0], 3)
    for task, count in (("i2i_edit", 1), ("multiid", 2), ("i+i2i_edit", 2)):
        with pytest.raises(InputError, match=rf"Picture.*{size[0]}.*{size[1]}|Picture.*empty"):
            prepared(task, [pixels] * count)


@pytest.mark.parametrize("task", ["i2v", "i2i_edit", "multiid"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "1"])
def test_pictures_of_other_kinds_become_rgb(tmp_path: Path, mode: str, task: str) -> None:
    grey = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20)
    image = grey if mode == "I;16" else Image.new(mode, (64, 48), 1)
    image.save(tmp_path / "a.png")
    (reference,) = prepared(task, [read_image(tmp_path / "a.png")], size=(48, 64)).images
    assert reference.pixels.dtype == torch.uint8 and reference.pixels.shape[-1] == 3
    assert tuple(reference.packed.shape) == (48, 64, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"a\.mp4.*empty|empty.*a\.mp4"), (b"hello" * 100, r"a\.mp4.*not a video"), (None, r"has no video.*audio")],
)
@pytest.mark.parametrize("task", ["v2v_edit", "i+v2v_edit"])
def test_no_video_is_named(tmp_path: Path, content: bytes | None, message: str, task: str) -> None:
    path = tmp_path / "a.mp4"
    if content is None:
        path = write_sound(tmp_path / "a.mp3")
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepared(task, [picture()] * task.startswith("i+"), [Clip(path)])


def test_odd_clips_are_edited_as_they_are(tmp_path: Path) -> None:
    """One frame, a varying rate, filmed upright."""
    times = [0, 10, 20, 100, 200, 500, 510, 900, 1500]
    single = write_clip(tmp_path / "one.mp4", moving_bar(1))
    varying = write_clip(tmp_path / "varying.mp4", moving_bar(9), milliseconds=times)
    upright = write_clip(tmp_path / "phone.mp4", moving_bar(5))
    turn(upright, 90)
    videos = [prepared("v2v_edit", [], [Clip(path)], 9).videos[0] for path in (single, varying, upright)]
    assert [len(video.frames) for video in videos] == [1, 9, 5]
    assert [len(video.vlm_frames) for video in videos] == [1, 2, 2]
    assert videos[2].frames.shape[1] > videos[2].frames.shape[2], "it stands upright"


def test_a_condition_shorter_than_the_target_decides_its_length() -> None:
    """A clip is edited frame by frame: the result is as long as what there is of it, 4n + 1 frames."""
    references = prepared("v2v_edit", [], [clip(14)], frames=81)
    assert len(references.videos[0].frames) == 13
    assert target_size(get_preset(VOGUE, "v2v_edit"), references, 81) == (48, 64, 13)
    request("v2v_edit", references, frames=13).validate(VOGUE)
    refused(
        request("v2v_edit", references, frames=81),
        "frames is 81",
        "the video to edit gives 13",
        "Set it to 13, leave it to the video, or choose a longer video",
    )


def test_a_first_frame_of_another_aspect_decides_the_size() -> None:
    """It is cut like the result, so it sets the aspect; another size for the result is refused, naming both."""
    tall = prepared("i2v", [picture(48, 96)])
    height, width, frames = target_size(get_preset(VOGUE, "i2v"), tall, 5)
    assert (height, width, frames) == (64, 32, 5)
    request("i2v", tall, frames=5, width=32, height=64).validate(VOGUE)
    refused(
        request("i2v", tall, frames=5, width=64, height=48),
        "size 64 x 48",
        "prepared for 32 x 64",
        "Leave width and height to the picture or video to edit; choose an area",
    )
    refused(request("i2v", tall, frames=1, width=32, height=64), "goes on from a picture: frames is 1", "at least 5")
    with pytest.raises(InputError, match=r"1000 x 2 pixels.*at most 200 times the shorter one: crop it"):
        prepared("i2v", [picture(1000, 2)])
    with pytest.raises(InputError, match=r"600 x 4 pixels is too narrow.*less than 16: crop it to a more even shape"):
        prepared("i2v", [picture(600, 4)])


@pytest.mark.parametrize(
    ("task", "images", "clips"), [("t2i", 0, "t2v"), ("i2i_edit", 1, "i2v, multiid"), ("i+i2i_edit", 2, "multiid")]
)
def test_a_clip_where_the_instruction_says_picture(task: str, images: int, clips: str) -> None:
    """The mirror of a clip that goes on from a picture and has one frame."""
    references = prepared(task, [picture()] * images)
    request(task, references).validate(VOGUE)
    refused(
        request(task, references, frames=9),
        rf"frames is 9, and the task {re.escape(task)} makes a picture",
        rf"Set the number of frames to 1 \(length at VINO References, or --frames\).*\({clips}\)",
    )
    request("multiid", prepared("multiid", [picture()], size=(48, 64)), frames=1).validate(VOGUE)
    plain = replace(request(frames=9), task=None)
    for same_way in (None, "t2i", "ti2i_baseimg", "t2v"):
        replace(plain, task=same_way).validate(VINO)  # no instruction reaches the model


@pytest.mark.parametrize("task", ["t2i", "t2v", "multiid"])
def test_an_area_that_nothing_is_scaled_to(task: str) -> None:
    with pytest.raises(InputError, match=f"area is 4000 pixels, but the task {task} scales no picture.*give width"):
        check_scaled(VOGUE, task, 4000)
    check_scaled(VOGUE, task, None)
    for decided in ("i2v", "i2i_edit", "i+v2v_edit"):
        check_scaled(VOGUE, decided, 4000)


def test_an_area_scales_vinos_references_if_not_its_result() -> None:
    check_scaled(VINO, "ti2v", 4000)
    check_scaled(VINO, "ti2i", 4000, of_result=True)
    with pytest.raises(InputError, match="the task ti2v scales no picture or video to what it makes"):
        check_scaled(VINO, "ti2v", 4000, of_result=True)


@pytest.mark.parametrize(
    ("task", "images", "videos", "message"),
    [
        ("multiid", 17, 0, r"takes 1 to 16 picture\(s\) and 0 video\(s\), not 17 and 0\. No task takes more"),
        ("i+i2i_edit", 17, 0, r"takes 2 to 16 picture\(s\).* more than 16 pictures and one video: connect fewer"),
        ("i+v2v_edit", 17, 1, r"takes 1 to 16 picture\(s\) and 1 video\(s\), not 17 and 1\. No task takes more"),
        (
            "i+i2i_edit",
            1,
            0,
            r"takes 2 to 16 picture\(s\) and 0 video\(s\), not 1 and 0\. Change .* \(i2v, i2i_edit, multiid\)",
        ),
        ("i2v", 2, 0, r"takes 1 picture\(s\) and 0 video\(s\), not 2 and 0\. Change .* \(i\+i2i_edit, multiid\)"),
        ("v2v_edit", 0, 2, r"takes 0 picture\(s\) and 1 video\(s\), not 0 and 2\. No task takes more"),
        ("t2v", 1, 0, r"takes 0 picture\(s\) and 0 video\(s\), not 1 and 0\. Change what is connected"),
        ("multiid", 0, 0, r"takes 1 to 16 picture\(s\).* choose a task that takes that \(t2i, t2v\)"),
    ],
)
def test_more_or_fewer_references_than_a_task_bears(task: str, images: int, videos: int, message: str) -> None:
    with pytest.raises(InputError, match=rf"task '{re.escape(task)}' {message}"):
        prepared(task, [picture()] * images, [clip(5)] * videos)


def test_as_many_references_as_a_task_bears() -> None:
    references = prepared("multiid", [picture()] * 16, size=(48, 64))
    request("multiid", references, frames=5).validate(VOGUE)
    assert VOGUE.arrange("multiid", 16, 0).before == tuple(range(16))


def test_a_task_of_the_other_system_or_of_none() -> None:
    with pytest.raises(InputError, match="task 'tiv2v' is unknown to vogue. Known: t2i, t2v, i2v"):
        prepared("tiv2v", [picture()], [clip(5)])
    with pytest.raises(InputError, match="task 'v2v_edit' is unknown to vino. Known: "):
        get_preset(VINO, "v2v_edit")


def test_a_base_image_without_one() -> None:
    with pytest.raises(InputError, match="base image is on, but no image is connected or given. Connect"):
        branch_prompts(VOGUE, "x", "", 0, 0, base_image=True, text_scale=5.0)
    seen = branch_prompts(VOGUE, "x", "", 1, 0, base_image=True, text_scale=5.0, image_scale=2.0)
    assert seen[Branch.NEGATIVE_IMAGE].references == (), "a single picture to edit: the third branch sees none"


@pytest.mark.parametrize("system", [VOGUE, QUERIES], ids=["hidden", "queries"])
@pytest.mark.parametrize(
    "text", ["", f"a fox{IM_END}{IMAGE_PAD}<|vision_start|>", "лиса прыгает 狐が跳ぶ 🦊", "word " * 4000]
)
def test_odd_prompts(system: Any, text: str) -> None:
    """Empty, with the names of special tokens, in other scripts, and of 20,000 characters, which are cut."""
    engine = tiny_engine()
    plan = build_prompt(system, engine, text, [])
    special = {engine.token_id(name) for name in (IMAGE_PAD, "<|vision_start|>")}
    assert not special & set(plan.ids)
    plain = build_prompt(system, engine, "", [])
    assert plan.ids.count(engine.token_id(IM_END)) == plain.ids.count(engine.token_id(IM_END))
    assert len(plan.ids) <= len(plain.ids) + 2048
    if len(text) > 10_000:
        assert any("2,048" in message or "2048" in message for message in plan.messages)
    with torch.no_grad():
        (encoded,) = encode_branches(engine, system, [BranchPrompt(text)], ())
    assert torch.isfinite(encoded.states).all()


def test_a_model_and_tokens_of_the_other_system(tmp_path: Path) -> None:
    for path, made_for, wanted in (("a", VINO, VOGUE), ("b", VOGUE, VINO)):
        file = tmp_path / f"{path}.safetensors"
        with pytest.raises(InputError, match=rf"{path}\.safetensors: made for {made_for.name}, not {wanted.name}"):
            expect_system(made_for.name, wanted, file)


@pytest.mark.parametrize("width", [2048, 2560])
def test_a_text_encoder_of_another_size(width: int) -> None:
    """Qwen2.5-VL-3B, and VINO's Qwen3-VL-4B."""
    with pytest.raises(InputError) as caught:
        check_widths(VOGUE.mmdit, None, width)
    message = str(caught.value)
    assert "qwen_project_in 3584" in message and str(width) in message and "Qwen2.5-VL-7B-Instruct" in message


@pytest.mark.parametrize(("system", "title"), [(VOGUE, "Qwen2.5-VL-7B-Instruct"), (VINO, "Qwen3-VL-4B-Instruct")])
def test_states_of_another_size_name_the_systems_own_text_encoder(system: Any, title: str) -> None:
    """In ComfyUI the two meet here, when the sampler starts."""
    model = torch.nn.ModuleDict(
        {system.text_connector: Connector(system.connector(system.text_connector), device="meta")}
    )
    with pytest.raises(InputError) as caught:
        connect(model, system, torch.zeros(1, 2, 2048, device="meta"), ())
    wanted = system.connector(system.text_connector).in_features
    assert f"2048 wide, the model's {system.text_connector} takes {wanted}" in str(caught.value)
    assert f"({title} for the published {system.published.title}, {wanted} wide)" in str(caught.value)


def test_tokens_for_a_text_encoder_of_another_size() -> None:
    with pytest.raises(InputError, match=r"the learnable tokens 2560.*Qwen2\.5-VL-7B-Instruct"):
        check_widths(VOGUE.mmdit, torch.zeros(258, 2560), 3584)


@pytest.mark.parametrize(
    ("learnable", "given", "message"),
    [
        (512, None, "no learnable tokens were given.*variant with 512 learnable tokens. Name its tokens file"),
        (
            0,
            514,
            "512 learnable tokens were given.*variant without them. Leave the tokens file out, or choose the other",
        ),
        (512, 10, "8 learnable tokens were given.*variant with 512"),
    ],
)
def test_a_checkpoint_of_the_wrong_variant(tmp_path: Path, learnable: int, given: int | None, message: str) -> None:
    path = tmp_path / "model.safetensors"
    names = {"qwen_project_in.norm_qwen.weight": torch.zeros(3584)}
    save_file(names, path, model_metadata("vogue", VOGUE.mmdit, learnable))
    with pytest.raises(InputError, match=rf"model\.safetensors: {message}"):
        check_variant(path, None if given is None else torch.zeros(given, 3584))


def test_a_file_of_others_may_be_either_variant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "quantised.safetensors"
    save_file({"qwen_project_in.norm_qwen.weight": torch.zeros(3584)}, path)
    for given, variant in ((None, "without"), (torch.zeros(514, 3584), "with")):
        caplog.clear()
        check_variant(path, given)
        assert f"taken for the variant {variant} them" in caplog.text and "quantised.safetensors" in caplog.text
    caplog.clear()
    save_file({"connector.norm.weight": torch.zeros(2560)}, tmp_path / "vino.safetensors")
    check_variant(tmp_path / "vino.safetensors", torch.zeros(258, 2560))
    assert not caplog.text, "VINO has no variants"


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, empty, truncated, and another model's."""
    whole = tmp_path / "whole.safetensors"
    save_file({"qwen_project_in.norm_qwen.weight": torch.zeros(3584)}, whole, model_metadata("vogue", VOGUE.mmdit, 0))
    (tmp_path / "short.safetensors").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "empty.safetensors").touch()
    save_file({"input_blocks.0.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in (
        ("nowhere", "no such file. Check the path"),
        ("empty", "the file is empty. Download or copy it again"),
        ("short", "truncated: .* bytes of at least .*repeat it"),
        ("other", "Stable Diffusion"),
        ("whole", "not a model that loads here"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.safetensors.*{message}|{message}.*{name}\.safetensors"):
            load_mmdit(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: no learnable tokens.*vino convert"):
        load_tokens(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "ti2v"}, "'ti2v' is unknown to vogue. Known: t2i"),
        ({"task": "i2v", "ref_image_paths": ["nowhere.png", 3]}, "row 1: ref_image_paths holds 3"),
        ({"task": "t2v", "seed": "seven"}, "row 1: seed is 'seven'; it must be int"),
        ({"task": "t2v", "index": "a/b"}, "row 1: index 'a/b' names the output file"),
    ],
)
def test_a_task_list_names_the_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"index": "one", "caption": "x", **row}]))
    with pytest.raises(InputError, match=message):
        load_tasks(path, VOGUE)


def test_the_command_names_a_task_it_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--system", "vogue", "--out", str(tmp_path), "--prompt", "x", "--preset", "tiv2v"]
    files = [part for name in ("model", "text-encoder", "vae") for part in (f"--{name}", "nowhere")]
    assert main([*words, *files]) == 1
    assert "task 'tiv2v' is unknown to vogue. Known: t2i" in capsys.readouterr().err
    assert command(tmp_path, "--prompt", "x", "--preset", "v2v_edit") == 1
    assert "task 'v2v_edit' is unknown to vino" in capsys.readouterr().err


def test_latents_that_are_not_finite(tmp_path: Path) -> None:
    from paths import GOLDENS

    from parity_groups.vae import reference_vae

    latents = torch.zeros(1, 16, 1, 4, 4)
    latents[0, 0, 0, 0, 0] = float("inf")
    with pytest.raises(InputError, match="NaN or infinite.*wider dtype"):
        reference_vae(GOLDENS).decode(latents)


def test_the_miniature_is_what_these_tests_take_it_for() -> None:
    assert tiny_vogue_vlm.CONFIG["model_type"] == "qwen2_5_vl"
    assert replace(VOGUE, with_tokens=None).for_tokens(object()).name == QUERIES.name == "vogue"
