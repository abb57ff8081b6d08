"""VOGUE beside its reference numbers: which task, which place, which branch, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vino_core.branches import branch_prompts
from vino_core.errors import InputError
from vino_core.media.references import Clip, ImageReference, References
from vino_core.mmdit.batch import stack
from vino_core.mmdit.model import Conditioning
from vino_core.mmdit.packing import bounded_layout, pack, sequential_layout
from vino_core.request import Request
from vino_core.sampling.guidance import Branch
from vino_core.systems import get_system
from vino_core.tasks import get_preset, prepare_references, target_size

VOGUE = get_system("vogue")


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


NOTHING = References()


def request(references: References = NOTHING, **changes: object) -> Request:
    settings = {"width": 64, "height": 48, "frames": 9, "text_scale": 5.0, "shift": 7.0, "steps": 1, "negative": ""}
    return Request(prompt="x", references=references, **{**settings, **changes})


@pytest.mark.parametrize(
    "counts, name",
    [
        ((0, 0, 1, False), "t2i"),
        ((0, 0, 61, False), "t2v"),
        ((1, 0, 129, False), "i2v"),
        ((1, 0, 1, False), "i2i_edit"),
        ((1, 0, 1, True), "i2i_edit"),
        ((3, 0, 1, True), "i+i2i_edit"),
        ((2, 0, 129, False), "multiid"),
        ((0, 1, 129, False), "v2v_edit"),
        ((2, 1, 129, False), "i+v2v_edit"),
    ],
)
def test_the_task_is_what_is_connected(counts: tuple[int, int, int, bool], name: str) -> None:
    assert VOGUE.default_task(*counts) == name
    VOGUE.arrange(name, *counts[:2])


@pytest.mark.parametrize(
    "task, images, videos, places",
    [
        ("i2v", 1, 0, ((), 0, ())),
        ("i+i2i_edit", 3, 0, ((0, 1), None, (2,))),
        ("i+v2v_edit", 2, 1, ((0, 1), None, (2,))),
        ("multiid", 3, 0, ((0, 1, 2), None, ())),
    ],
)
def test_places(task: str, images: int, videos: int, places: tuple) -> None:
    found = VOGUE.arrange(task, images, videos)
    assert (found.before, found.first_frame, found.after) == places


@pytest.mark.parametrize(
    "task, images, videos", [("i2v", 2, 0), ("v2v_edit", 0, 2), ("t2v", 1, 0), ("i+i2i_edit", 1, 0)]
)
def test_a_task_refuses_other_references(task: str, images: int, videos: int) -> None:
    with pytest.raises(InputError, match=f"'{task.replace('+', '[+]')}' takes"):
        VOGUE.arrange(task, images, videos)


def test_time_runs_through_all_frames() -> None:
    layout = sequential_layout([(1, 2, 3), (1, 2, 3)], (4, 2, 3), [(2, 2, 3)])
    assert [(segment.kind, segment.start) for segment in layout.segments] == [
        ("reference", 0),
        ("reference", 1),
        ("target", 2),
        ("reference", 6),
    ]
    assert (layout.target.start, layout.target.stop, layout.tokens) == (12, 36, 48)


def test_conditions_are_packed_behind_the_target() -> None:
    layout = sequential_layout([(1, 1, 1)], (1, 1, 1), [(1, 1, 1)])
    before, target, after = (torch.full((1, 1, 2), float(value)) for value in range(3))
    assert pack(layout, target, [before, after])[0, :, 0].tolist() == [0, 1, 2]


def test_vino_packs_nothing_behind_the_target() -> None:
    with pytest.raises(ValueError, match="no place behind"):
        bounded_layout([], (1, 1, 1), [(1, 1, 1)])


def test_batches_keep_the_conditions() -> None:
    samples = [Conditioning(torch.ones(1, 2, 4), conditions=(torch.full((1, 4, 1, 2, 2), float(i)),)) for i in range(2)]
    (joined,) = stack(samples).conditions
    assert joined[:, 0, 0, 0, 0].tolist() == [0, 1]


def test_the_third_branch_sees_nothing() -> None:
    seen = branch_prompts(VOGUE, "yes", "no", 2, 1, False, 5.0, 2.0)
    assert {branch: (one.text, one.references) for branch, one in seen.items()} == {
        Branch.POSITIVE: ("yes", (0, 1, 2)),
        Branch.NEGATIVE: ("no", (0, 1, 2)),
        Branch.NEGATIVE_IMAGE: ("no", ()),
    }


def test_text_guidance_cannot_be_switched_off() -> None:
    with pytest.raises(InputError, match="text_scale is 1.0; vogue takes values above 1"):
        request(text_scale=1.0).validate(VOGUE)
    request(text_scale=1.01).validate(VOGUE)
    request(text_scale=1.0).validate(get_system("vino"))


def test_the_instruction_goes_before_the_prompt() -> None:
    wanted = request(task="t2v").instructed(VOGUE)
    assert wanted == VOGUE.presets["t2v"].instruction + "x" and len(wanted) > 200
    assert request().instructed(get_system("vino")) == "x"


def test_a_condition_decides_the_size_and_references_lie_on_canvases() -> None:
    pictures = [picture(40, 80), picture(64, 96)]
    found = prepare_references(VOGUE, "i+i2i_edit", pictures, area=48 * 64)
    reference, condition = found.images
    assert tuple(condition.packed.shape) == (32, 64, 3) and condition.packed.dtype == torch.float32
    assert torch.equal(condition.packed.round().to(torch.uint8), condition.pixels)
    assert tuple(reference.pixels.shape) == (80, 80, 3) and tuple(reference.packed.shape) == (32, 64, 3)
    assert (reference.packed[:, :16] == 255).all() and (reference.packed[:, -16:] == 255).all()
    assert target_size(get_preset(VOGUE, "i+i2i_edit"), found, 1) == (32, 64, 1)
    assert torch.equal(reference.pixels[20:60], pictures[0])


def test_a_file_and_its_frames_are_seen_alike_by_the_vlm() -> None:
    clip = torch.stack([torch.full((48, 64, 3), value, dtype=torch.uint8) for value in range(12)])
    (video,) = prepare_references(VOGUE, "v2v_edit", [], [Clip(clip, 24.0)], area=48 * 64).videos
    assert video.frames[:, 0, 0, 0].tolist() == list(range(9))
    assert video.vlm_frames[:, 0, 0, 0].tolist() == [0, 8]


def test_references_of_another_size_are_refused() -> None:
    references = References((ImageReference(picture(50, 50), picture(48, 64)),))
    request(references, task="i2v").validate(VOGUE)
    with pytest.raises(InputError, match="size 80 x 48: the references were prepared for 64 x 48"):
        request(references, task="i2v", width=80).validate(VOGUE)


def test_a_first_frame_needs_frames_behind_it() -> None:
    references = References((ImageReference(picture(48, 64)),))
    with pytest.raises(InputError, match="i2v goes on from a picture: frames is 1"):
        request(references, task="i2v", frames=1).validate(VOGUE)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(InputError, match="task 'ti2i' is unknown to vogue"):
        request(task="ti2i").validate(VOGUE)


def test_settings_without_a_reference_are_the_tasks_own() -> None:
    preset = get_preset(VOGUE, "t2v")
    assert target_size(preset, References(), preset.frames) == (480, 848, 61)
    assert replace(preset, instruction="") != preset
