"""VINO References and VINO Empty Latent: order, size, length, and what they refuse."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import nodes
from paths import GOLDENS

AUTO = {"size": "auto"}
CLIP = GOLDENS / "media" / "clip_a.mp4"  # 29 frames of 96x64


def picture(width: int = 96, height: int = 64, value: float = 0.5, channels: int = 3) -> torch.Tensor:
    return torch.full((1, height, width, channels), value)


def video(**trim: float) -> Any:
    nodes()
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(CLIP), **trim)


def run(size: dict[str, Any] = AUTO, length: int = 5, **slots: Any) -> tuple[Any, int, int, int]:
    return nodes().VINOReferences.execute(size, length, **slots).args


def as_vino(prepared: Any) -> Any:
    """The references as published VINO takes them."""
    return prepared.for_system(pack("vino_core.systems").get_system("vino"))


def test_images_come_in_the_order_of_their_numbers() -> None:
    values = {f"image_{number}": picture(value=number / 20) for number in range(1, 13)}
    names = list(values)
    random.Random(0).shuffle(names)
    prepared, *_ = run(images={name: values[name] for name in names})
    levels = [int(image.pixels.float().median()) for image in as_vino(prepared).images]
    assert levels == [round(number / 20 * 255) for number in range(1, 13)]


def test_a_batch_counts_as_several_references() -> None:
    prepared, *_ = run(images={"image_1": torch.cat([picture(), picture()]), "image_2": None})
    assert len(as_vino(prepared).images) == 2


@pytest.mark.parametrize(("channels", "value", "seen"), [(1, 0.2, 51), (3, 1.7, 255), (4, 0.0, 255)])
def test_channels_and_range(channels: int, value: float, seen: int) -> None:
    """Grey is widened, values are clamped, transparency (alpha 0) is laid over white."""
    prepared, *_ = run(images={"image_1": picture(value=value, channels=channels)})
    assert int(as_vino(prepared).images[0].pixels.median()) == seen


@pytest.mark.parametrize(
    ("length", "slots", "size"),
    [
        (1, {}, (640, 640, 1)),
        (5, {}, (848, 480, 5)),
        (5, {"images": {"image_1": picture(96, 64)}}, (784, 528, 5)),
        (1, {"images": {"image_1": picture(64, 64), "image_2": picture(96, 64)}}, (784, 528, 1)),
        (5, {"images": {"image_1": picture(64, 64), "image_2": picture(96, 64)}}, (848, 480, 5)),
    ],
)
def test_automatic_size_is_that_of_the_task(length: int, slots: dict, size: tuple[int, int, int]) -> None:
    _, *result = run(length=length, **slots)
    assert tuple(result) == size


def test_vino_makes_clips_and_pictures_in_the_same_way() -> None:
    assert run(length=81, task="t2i")[1:] == (640, 640, 81)


def test_a_video_decides_size_and_length() -> None:
    prepared, width, height, length = run(length=81, videos={"video_1": video()})
    frames = as_vino(prepared).videos[0].frames
    assert (length, height, width) == tuple(frames.shape[:3])
    assert length == 29 and prepared.frames == 29


def test_a_trimmed_video_shows_only_its_part() -> None:
    whole, *_ = run(length=9, videos={"video_1": video()})
    part, *_ = run(length=9, videos={"video_1": video(start_time=1.0)})
    first, later = as_vino(whole).videos[0].vlm_frames, as_vino(part).videos[0].vlm_frames
    assert not torch.equal(first[0], later[0])
    assert (
        first[-1].float() - later[-1].float()
    ).abs().mean() < 6  # the same last frame, by ComfyUI's own colour conversion


@pytest.mark.parametrize(
    ("size", "slots", "expected"),
    [
        ({"size": "custom", "width": 64, "height": 48}, {}, (64, 48, 5)),
        ({"size": "last image"}, {"images": {"image_1": picture(64, 64), "image_2": picture(96, 64)}}, (784, 528, 5)),
    ],
)
def test_chosen_size(size: dict, slots: dict, expected: tuple[int, int, int]) -> None:
    _, *result = run(size, **slots)
    assert tuple(result) == expected


@pytest.mark.parametrize(
    ("size", "length", "slots", "message"),
    [
        (AUTO, 6, {}, "nearest is 5 or 9"),
        (AUTO, 93, {}, "89"),
        ({"size": "custom", "width": 100, "height": 64}, 5, {}, "nearest is 96 x 64"),
        ({"size": "last image"}, 5, {}, "no image is connected"),
        ({"size": "first video"}, 5, {}, "no video is connected"),
        (AUTO, 5, {"images": {"image_3": picture(value=float("nan"))}}, "image_3: NaN"),
        (AUTO, 5, {"images": {"image_1": torch.zeros(1, 0, 8, 3)}}, "at least 1 pixel"),
        (AUTO, 5, {"images": {"image_1": torch.zeros(1, 1, 65536, 3)}}, "65536"),
        (AUTO, 5, {"images": {"image_1": torch.zeros(1, 8, 8, 2)}}, "image_1: expected a picture"),
    ],
)
def test_unusable_input_is_named(size: dict, length: int, slots: dict, message: str) -> None:
    with pytest.raises(pack("vino_core.errors").InputError, match=message):
        run(size, length, **slots)


def test_empty_latent_has_the_models_shape() -> None:
    latent = nodes().VINOEmptyLatent.execute(96, 64, 9, 2)[0]["samples"]
    assert latent.shape == (2, 16, 3, 8, 12) and not latent.any()


@pytest.mark.parametrize(("size", "message"), [((96, 60, 5), "nearest is 96 x 64"), ((96, 64, 7), "nearest is 5 or 9")])
def test_empty_latent_refuses_what_the_model_cannot_do(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(pack("vino_core.errors").InputError, match=message):
        nodes().VINOEmptyLatent.execute(*size, 1)


def test_reading_a_clip_stops_when_comfyui_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long one the whole file is decoded, as the text encoder sees its last frame."""
    nodes()
    import comfy.model_management

    decoded = []
    videos = pack("vino_core.media.videos")
    usual = videos.may_go_on

    def pressed() -> None:
        decoded.append(1)
        if len(decoded) == 40:  # 29 packets were counted: this is in the second pass
            comfy.model_management.interrupt_current_processing()
        usual()

    monkeypatch.setattr(videos, "may_go_on", pressed)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(videos={"video_1": video()})
    assert len(decoded) == 40
    assert as_vino(run(videos={"video_1": video()})[0]).videos
