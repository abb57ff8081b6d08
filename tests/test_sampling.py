"""Schedule, guidance, sampler and the branches of a request."""

from __future__ import annotations

import pytest
import torch

from vino_core.branches import branch_prompts
from vino_core.errors import InputError
from vino_core.sampling.guidance import Branch, guided_velocity, needed_branches
from vino_core.sampling.sampler import euler, initial_noise
from vino_core.sampling.schedule import sigmas
from vino_core.systems.vino import VINO

POSITIVE, NEGATIVE, NEGATIVE_IMAGE = Branch


@pytest.mark.parametrize(
    "text, image, dropped, expected",
    [
        (5.0, 3.0, True, (POSITIVE, NEGATIVE, NEGATIVE_IMAGE)),
        (5.0, 1.0, True, (POSITIVE, NEGATIVE)),
        (1.0, 3.0, True, (POSITIVE, NEGATIVE_IMAGE)),
        (0.0, 1.0, True, (POSITIVE,)),
        (5.0, 3.0, False, (POSITIVE, NEGATIVE)),
    ],
)
def test_only_needed_branches_are_computed(text: float, image: float, dropped: bool, expected: tuple) -> None:
    assert needed_branches(text, image, dropped) == expected


def test_guidance_of_each_set_of_branches() -> None:
    c, u, u_img = (torch.tensor([value]) for value in (3.0, 2.0, 1.0))
    assert guided_velocity({POSITIVE: c, NEGATIVE: u, NEGATIVE_IMAGE: u_img}, 5.0, 3.0).item() == 1 + 3 * 1 + 5 * 1
    assert guided_velocity({POSITIVE: c, NEGATIVE: u}, 5.0, 3.0).item() == 2 + 5 * 1
    assert guided_velocity({POSITIVE: c, NEGATIVE_IMAGE: u_img}, 1.0, 3.0).item() == 1 + 3 * 2
    assert guided_velocity({POSITIVE: c}, 1.0, 1.0).item() == 3.0


def prompts(images: int, videos: int = 0, base: bool = False, text: float = 5.0, image: float = 3.0) -> dict:
    branches = branch_prompts(VINO, "yes", "no", images, videos, base, text, image)
    return {branch: (seen.text, seen.references) for branch, seen in branches.items()}


def test_third_branch_drops_images_and_keeps_videos() -> None:
    assert prompts(2, 1) == {
        POSITIVE: ("yes", (0, 1, 2)),
        NEGATIVE: ("no", (0, 1, 2)),
        NEGATIVE_IMAGE: ("no", (2,)),
    }


def test_third_branch_keeps_the_base_image() -> None:
    assert prompts(3, 1, base=True)[NEGATIVE_IMAGE] == ("no", (2, 3))


def test_a_base_image_alone_is_dropped_like_any_image() -> None:
    assert prompts(1, base=True)[NEGATIVE_IMAGE] == ("no", ())


def test_without_images_the_third_branch_is_the_second() -> None:
    assert set(prompts(0, 1)) == {POSITIVE, NEGATIVE}
    assert set(prompts(0)) == {POSITIVE, NEGATIVE}


def test_image_guidance_works_without_text_guidance() -> None:
    assert set(prompts(1, text=1.0)) == {POSITIVE, NEGATIVE_IMAGE}


def test_base_image_without_images_is_an_error() -> None:
    with pytest.raises(InputError, match="base image"):
        branch_prompts(VINO, "yes", "no", 0, 1, base_image=True)


def test_schedule_runs_from_one_to_zero() -> None:
    levels = sigmas(10, 7.0)
    assert levels[0] == 1 and levels[-1] == 0 and len(levels) == 11
    assert (levels[:-1] > levels[1:]).all()


@pytest.mark.parametrize("steps, shift", [(0, 5.0), (-1, 5.0), (10, 0.0), (10, -1.0), (10, float("nan"))])
def test_schedule_refuses_nonsense(steps: int, shift: float) -> None:
    with pytest.raises(InputError, match="steps is|shift is"):
        sigmas(steps, shift)


def test_euler_integrates_a_straight_flow_exactly() -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    done = euler(lambda x, sigma: noise - data, noise, sigmas(7, 5.0))
    assert torch.allclose(done, data, atol=1e-5)


def test_euler_reports_every_step_and_stops_when_asked() -> None:
    seen = []

    def report(step: int, steps: int, latents: torch.Tensor) -> None:
        seen.append((step, steps))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        euler(lambda x, sigma: x, torch.ones(1, 2), sigmas(5, 5.0), report)
    assert seen == [(1, 5), (2, 5), (3, 5)]


def test_nan_is_an_error_at_the_step_it_appears() -> None:
    with pytest.raises(InputError, match="after step 1 of 3"):
        euler(lambda x, sigma: x * float("nan"), torch.ones(1, 2), sigmas(3, 5.0))


def test_noise_is_fixed_by_the_seed_and_exact_in_bfloat16() -> None:
    noise = initial_noise((1, 16, 1, 4, 4), 7)
    assert noise.dtype == torch.float32
    assert torch.equal(noise, initial_noise((1, 16, 1, 4, 4), 7))
    assert not torch.equal(noise, initial_noise((1, 16, 1, 4, 4), 8))
    assert torch.equal(noise, noise.bfloat16().float())
