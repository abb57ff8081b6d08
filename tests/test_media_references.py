"""Prepared references, and the patches the VLM makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from media_files import moving_bar, write_clip

from vino_core.encoder.visual import image_patches, image_sizes, video_patches, video_sizes
from vino_core.errors import InputError
from vino_core.media.references import References, prepare_image, prepare_video, scale_frames
from vino_core.media.videos import Selection, read_video
from vino_core.systems import get_system

VISION = get_system("vino").vision
AREA = 48 * 64


def test_file_and_its_frames_agree(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(22, 128, 96), fps=12)
    [frames] = read_video(path, [Selection(range)])
    read = prepare_video(path, 13, area=AREA)
    given = prepare_video(frames, 13, fps=12, area=AREA)
    assert read.frames.shape == given.frames.shape == (13, 48, 64, 3)
    assert torch.equal(read.vlm_frames, given.vlm_frames)
    assert read.fps == given.fps == 12
    assert (read.frames.float() - given.frames.float()).abs().mean() < 1.5


def test_vlm_sees_the_whole_clip_and_vae_the_start() -> None:
    frames = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 48, 64, 3)
    reference = prepare_video(frames, 17, fps=24, area=AREA)
    assert reference.frames[:, 0, 0, 0].tolist() == list(range(17))
    assert reference.vlm_frames[:, 0, 0, 0].tolist() == [0, 14, 28, 42, 57, 71, 85, 99]


def test_clip_is_cropped_at_the_right_and_bottom() -> None:
    reference = prepare_video(moving_bar(1, 96, 64), 5, fps=24, area=AREA)
    # 3,072 pixels at 3:2 are 45 x 68; whole units of 16 leave 32 x 64.
    assert reference.frames.shape == (1, 32, 64, 3)
    assert reference.frames[0, 0, 0, 0] > 200, "the red corner is at the top left"


def test_scaling_to_the_same_size_changes_nothing() -> None:
    frames = moving_bar(2)
    assert torch.equal(scale_frames(frames, (48, 64)), frames.float())


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (moving_bar(5), None, "None frames per second"),
        (moving_bar(5), 0.0, "0.0 frames per second"),
        (moving_bar(5).float(), 24.0, "uint8 frames.*float32"),
        (moving_bar(5)[0], 24.0, r"uint8 frames \[time, height, width, 3\]"),
        (moving_bar(5)[:0], 24.0, "no frames"),
        (torch.zeros(1, 0, 8, 3, dtype=torch.uint8), 24.0, "8 x 0 pixels"),
        (torch.zeros(1, 1, 190, 3, dtype=torch.uint8), 24.0, "190 x 1 pixels is too narrow.*crop"),
    ],
)
def test_unusable_frames(frames: torch.Tensor, fps: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_video(frames, 5, fps, area=AREA)


def test_target_size() -> None:
    wide = prepare_image(torch.zeros(48, 64, 3, dtype=torch.uint8), AREA)
    tall = prepare_image(torch.zeros(64, 48, 3, dtype=torch.uint8), AREA)
    clip = prepare_video(moving_bar(9), 9, 24, area=AREA)
    assert References().target() is None
    assert References((tall, wide)).target() == (48, 64, None)
    assert References((tall,), (clip, clip)).target() == (48, 64, 9)


def test_image_patch_order() -> None:
    # 64 x 96 becomes 320 x 224 patches' worth after both resizes; a flat picture keeps its colour everywhere.
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(96, 64, 3).contiguous()
    patches, grid = image_patches(pixels, VISION)
    assert grid == (1, *(side // 16 for side in image_sizes(96, 64, VISION)[1]))
    assert patches.shape == (grid[1] * grid[2], 3 * 2 * 16 * 16) and patches.dtype == torch.float32
    colours = patches.reshape(-1, 3, 2 * 16 * 16)
    assert torch.equal(colours, torch.tensor([-1.0, -0.6, 1.0])[None, :, None].expand_as(colours))


def test_video_patches_pair_frames() -> None:
    levels = torch.tensor([0, 0, 51, 51, 102, 102, 255, 255], dtype=torch.uint8)
    frames = levels[:, None, None, None].expand(8, 512, 512, 3).contiguous()
    patches, grid = video_patches(frames, VISION)
    assert grid == (4, *(side // 16 for side in video_sizes(512, 512, VISION)[1]))
    means = patches.reshape(4, -1).mean(dim=1)
    assert torch.allclose(means, torch.tensor([-1.0, -0.6, -0.2, 1.0]), atol=1e-5)


def test_wrong_number_of_vlm_frames() -> None:
    with pytest.raises(InputError, match="7 frames.*exactly 8"):
        video_patches(moving_bar(7), VISION)


def test_clip_too_narrow_for_the_vlm() -> None:
    with pytest.raises(InputError, match="10843 x 55 pixels: too narrow"):
        video_sizes(55, 10_843, VISION)
