"""Sizes and frame choices beyond the tables of the parity check: extremes and messages."""

from __future__ import annotations

import pytest

from vino_core.errors import InputError
from vino_core.media.sizing import (
    best_grid,
    check_frames,
    check_size,
    check_source,
    crop_to_unit,
    fit_area,
    smart_resize,
    video_frame_indices,
    vlm_frame_indices,
)


def test_prepared_sizes_of_common_shapes() -> None:
    assert fit_area(1920, 1080) == (478, 851)
    assert crop_to_unit(478, 851) == (464, 848)
    assert best_grid(1920, 1080) == (480, 848)
    assert best_grid(1, 1) == (640, 640)


def test_equally_near_grids_take_the_narrower() -> None:
    # 1264 and 1280 columns miss the area by the same number of pixels and the ratio by the same amount.
    assert best_grid(1272, 320) == (320, 1264)


def test_best_grid_stays_on_the_grid_for_extreme_ratios() -> None:
    for width, height in ((1, 200), (200, 1), (32_768, 164)):
        tall, wide = best_grid(width, height)
        assert tall % 16 == wide % 16 == 0 and tall >= 16 and wide >= 16


@pytest.mark.parametrize("frames", [1, 2, 5, 7, 8, 9, 85, 1001])
def test_vlm_frames_span_the_clip(frames: int) -> None:
    indices = vlm_frame_indices(frames)
    assert len(indices) == 8 and indices[0] == 0 and indices[-1] == frames - 1 and indices == sorted(indices)


def test_video_frames_are_four_n_plus_one_from_the_start() -> None:
    assert video_frame_indices(4, 24, 81) == [0]
    assert video_frame_indices(84, 24, 89) == list(range(81))
    assert video_frame_indices(240, 60, 81, sample_fps=30) == list(range(0, 161, 2))


@pytest.mark.parametrize(("frames", "num_frames"), [(0, 81), (10, 0), (-1, 5)])
def test_no_frames_is_an_error(frames: int, num_frames: int) -> None:
    with pytest.raises(InputError, match=f"{num_frames} of {frames} video frames.*at least 1"):
        video_frame_indices(frames, 24, num_frames)


def test_no_frames_for_the_vlm_is_an_error() -> None:
    with pytest.raises(InputError, match="at least 1 frame"):
        vlm_frame_indices(0)


def test_stride_past_the_end_is_an_error() -> None:
    with pytest.raises(InputError, match="a clip of 161 frames, this one has 160"):
        video_frame_indices(160, 24, 81, sample_fps=12)


def test_smart_resize_refuses_threads() -> None:
    assert smart_resize(200, 1, 28, 1, 10**9) == (196, 28)
    with pytest.raises(InputError, match="1 x 201 pixels.*200 times.*Crop"):
        smart_resize(201, 1, 28, 1, 10**9)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 5), "cat: 0 x 5 pixels.*at least 1"),
        ((65_536, 65_536), "cat: 65536 x 65536.*32768.*scale it down"),
        ((65_536, 400), "65536 x 400.*scale it down"),
        ((30_000, 30_000), "134 million in all"),
        ((401, 2), "401 x 2.*200 times.*crop"),
    ],
)
def test_impossible_sources(size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_source(*size, name="cat")


def test_possible_sources() -> None:
    for size in ((1, 1), (200, 1), (32_768, 4_000)):
        check_source(*size, name="cat")


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((850, 480), "848 x 480"), ((850, 479), "848 x 480"), ((8, 24), "16 x 32"), ((0, -16), "16 x 16")],
)
def test_wrong_sizes_offer_the_nearest(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(InputError, match=f"Size {size[0]} x {size[1]}: .*multiples of 16.*nearest is {nearest}"):
        check_size(*size)


def test_right_sizes_pass() -> None:
    check_size(848, 480)
    check_size(16, 16)


@pytest.mark.parametrize(
    ("frames", "maximum", "nearest"),
    [
        (80, None, "77 or 81"),
        (3, None, "1 or 5"),
        (0, None, "1"),
        (-3, 89, "1"),
        (90, 89, "89"),
        (93, 89, "89"),
        (88, 91, "85 or 89"),
    ],
)
def test_wrong_frame_counts_offer_the_nearest(frames: int, maximum: int | None, nearest: str) -> None:
    with pytest.raises(InputError, match=rf"^{frames} frames: .*multiple of 4 plus 1.*nearest is {nearest}\.$"):
        check_frames(frames, maximum)


def test_right_frame_counts_pass() -> None:
    for frames in (1, 5, 81, 89):
        check_frames(frames, 89)
    check_frames(1001)
