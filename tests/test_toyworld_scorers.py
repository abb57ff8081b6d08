"""The toy world's scorers: full marks for the truth, also through an autoencoder's blur, and none for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vino_core.toyworld.draw import draw
from vino_core.toyworld.plans import ToyExample, first_frame
from vino_core.toyworld.scorers import Score, score
from vino_core.toyworld.tasks import ToySource
from vino_core.toyworld.textures import pattern
from vino_core.toyworld.world import COLOURS, PLACES, STILL, Camera, Motion, Scene, Sprite, Style, Texture
from vino_core.training.example import TASKS

CLIPS = ("t2v", "i2v", "ti2v", "tv2v", "tiv2v", "tiv2v_clone", "tiv2v_camclone")


def toys(task: str, count: int, split: str = "heldout", **options) -> list[ToyExample]:
    source = ToySource(task, seed=11, split=split, **options)
    return [source.toy(index) for index in range(count)]


def autoencoded(frames: Tensor, seed: int) -> Tensor:
    """A slight blur and some noise, 35 to 36 dB: about what vino-tiny's VAE leaves of a picture, uint8 [T, H, W, 3].

    Of a clip it leaves less; what that costs, tools/tiny/vae_limit.py tells.
    """
    kernel = torch.tensor([0.08, 0.84, 0.08])
    pixels = F.pad(frames.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(pixels, kernel[None, None, :, None]), kernel[None, None, None])
    blurred = blurred.reshape(len(frames), 3, *frames.shape[1:3]).permute(0, 2, 3, 1)
    noise = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))
    return (blurred + 3.2 * noise).round().clamp(0, 255).to(torch.uint8)


def showing(toy: ToyExample, scene: Scene) -> Score:
    """The score of a result that shows another scene."""
    target = toy.example.target
    return score(torch.from_numpy(draw(scene, target.shape[1], len(target))), toy)


@pytest.mark.parametrize("task", TASKS)
def test_truth_gets_full_marks(task: str) -> None:
    for toy in toys(task, 60):
        scored = score(toy.example.target, toy)
        assert scored.passed, (toy.truth.kind, scored)
        assert scored.motion is (True if task in CLIPS and toy.truth.target.sprites else None)
        assert scored.place_error is None or scored.place_error < 0.04
        assert scored.likeness is None or scored.likeness > 0.85
        assert scored.untouched in (None, 60.0) and scored.first_frame in (None, 60.0)


@pytest.mark.parametrize("task", TASKS)
def test_a_slight_blur_and_noise_cost_next_to_nothing(task: str) -> None:
    results = [score(autoencoded(toy.example.target, number), toy) for number, toy in enumerate(toys(task, 20))]
    assert sum(scored.passed for scored in results) >= 19
    assert all(30 < scored.untouched < 42 for scored in results if scored.untouched is not None)


@pytest.mark.parametrize(("size", "frames"), [(128, 9), (64, 17), (96, 5)])
def test_other_sizes_get_full_marks_too(size: int, frames: int) -> None:
    for task in ("t2i", "ti2i", "t2v", "tiv2v_camclone"):
        for toy in toys(task, 5, size=size, frames=frames):
            assert score(toy.example.target, toy).passed, toy.truth


def test_the_truth_is_not_looked_at() -> None:
    for toy in toys("ti2i", 3) + toys("tiv2v", 3):
        blind = replace(toy, example=replace(toy.example, target=torch.zeros_like(toy.example.target)))
        assert score(toy.example.target, blind) == score(toy.example.target, toy)


def first(sprites: tuple[Sprite, ...], **changes: object) -> tuple[Sprite, ...]:
    return (replace(sprites[0], **changes), *sprites[1:])


def other_colour(scene: Scene) -> Scene:
    names = list(COLOURS)
    changed = names[(names.index(scene.sprites[0].colour or "red") + 4) % len(names)]
    return replace(scene, sprites=first(scene.sprites, colour=changed, texture=Texture("plain")))


def other_shape(scene: Scene) -> Scene:
    return replace(scene, sprites=first(scene.sprites, shape={"circle": "star"}.get(scene.sprites[0].shape, "circle")))


def other_size(scene: Scene) -> Scene:
    return replace(scene, sprites=first(scene.sprites, size={"small": "large"}.get(scene.sprites[0].size, "small")))


def other_place(scene: Scene) -> Scene:
    x, y = scene.sprites[0].place
    return replace(scene, sprites=first(scene.sprites, place=(x, y - 0.15 if y > 0.4 else y + 0.15)))


def other_texture(scene: Scene) -> Scene:
    kind = "plain" if scene.sprites[0].texture.kind != "plain" else "striped"
    return replace(scene, sprites=first(scene.sprites, texture=Texture(kind)))


def one_less(scene: Scene) -> Scene:
    return replace(scene, sprites=scene.sprites[1:])


def one_more(scene: Scene) -> Scene:
    free = max(
        PLACES.values(), key=lambda p: min(abs(p[0] - s.place[0]) + abs(p[1] - s.place[1]) for s in scene.sprites)
    )
    extra = Sprite("square", "pink" if scene.background != "white" else "blue", Texture(), "small", free)
    return replace(scene, sprites=(*scene.sprites, extra))


def other_background(scene: Scene) -> Scene:
    return replace(scene, background={"white": "tiles", "tiles": "grey", "grass": "sea"}.get(scene.background, "grass"))


def other_style(scene: Scene) -> Scene:
    return replace(scene, style=Style("sepia" if scene.style.kind != "sepia" else "greyscale"))


WRONG: dict[str, tuple[Callable[[Scene], Scene], set[str]]] = {
    "colour": (other_colour, {"colour"}),
    "shape": (other_shape, {"shape"}),
    "size": (other_size, {"size"}),
    "place": (other_place, {"place", "found"}),
    "texture": (other_texture, {"texture"}),
    "missing": (one_less, {"found"}),
    "extra": (one_more, {"count"}),
    "background": (other_background, {"background"}),
    "style": (other_style, {"style"}),
}


@pytest.mark.parametrize("task", ["t2i", "t2v"])
@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_is_wrong_is_seen(task: str, wrong: str) -> None:
    spoil, blamed = WRONG[wrong]
    for toy in toys(task, 12, captions="long"):
        if toy.truth.target.style.kind != "none":
            continue
        scored = showing(toy, spoil(toy.truth.target))
        failed = {name for name, holds in scored.checks.items() if not holds}
        assert not scored.followed and failed & blamed, (toy.truth.target, failed)


def test_what_is_not_wrong_is_not_blamed() -> None:
    for toy in toys("t2i", 20, captions="long"):
        target = toy.truth.target
        if target.style.kind == "none" and target.sprites[0].texture.kind == "plain":
            failed = {name for name, holds in showing(toy, other_colour(target)).checks.items() if not holds}
            assert failed == {"colour"}, target


def test_open_captions_leave_sizes_and_places_free_and_the_rest_not() -> None:
    found = [toy for toy in toys("t2i", 60, captions="short") if toy.truth.is_open and not toy.truth.target.style.seed]
    assert len(found) > 10
    for toy in found:
        target = toy.truth.target
        if target.style.kind != "none":
            continue
        mirrored = tuple(replace(one, place=(1 - one.place[0], one.place[1])) for one in target.sprites)
        assert showing(toy, replace(target, sprites=mirrored)).passed, target
        assert not showing(toy, other_shape(target)).followed
        assert not showing(toy, one_less(target)).followed
        assert not showing(toy, other_background(target)).followed


@pytest.mark.parametrize(("task", "count"), [("ti2i", 40), ("ti2v", 16)])
def test_a_subject_is_known_by_its_texture(task: str, count: int) -> None:
    """Of the pictures one in four has a subject, of the clips each."""
    confused = []
    for toy in toys(task, count):
        target = toy.truth.target
        if "subject" not in toy.truth.kind:
            continue
        own = target.sprites[0].texture
        alike = Texture("pattern", own.colours, own.waves + 1000)
        alien = Texture("pattern", own.colours + 1000, own.waves)
        for texture in (alike, alien):
            scored = showing(toy, replace(target, sprites=first(target.sprites, texture=texture)))
            assert scored.identity is False and not scored.passed, (own, texture)
        flat = replace(target, sprites=first(target.sprites, texture=Texture(), colour="red"))
        assert showing(toy, flat).identity is False
        if len(target.sprites) > 1:
            one, other, *rest = target.sprites
            swapped = replace(one, texture=other.texture), replace(other, texture=one.texture)
            scored = showing(toy, replace(target, sprites=(*swapped, *rest)))
            assert scored.identity is False
            confused.append(scored.confused)
    # A turned surface may look more like a stranger's than like the other reference's.
    assert len(confused) > 5 and sum(confused) >= 0.9 * len(confused)


def test_a_pasted_subject_is_known_by_its_texture() -> None:
    """Where an edit takes a subject or a surface from a reference, one of another texture fails."""
    spoiled = 0
    for toy in toys("ti2i_baseimg", 20):
        sprites = toy.truth.target.sprites
        for index, sprite in enumerate(sprites):
            own = sprite.texture
            if own.kind != "pattern":
                continue
            for foreign in (replace(own, waves=own.waves + 1000), replace(own, colours=own.colours + 1000)):
                changed = (*sprites[:index], replace(sprite, texture=foreign), *sprites[index + 1 :])
                scored = showing(toy, replace(toy.truth.target, sprites=changed))
                assert scored.identity is False and not scored.passed, (own, foreign)
                spoiled += 1
    assert spoiled > 20


def test_another_of_the_pictures_is_not_the_one_to_select() -> None:
    for toy in toys("select_image", 12):
        others = [image for image in toy.example.images if not torch.equal(image, toy.example.target[0])]
        assert len(others) == len(toy.example.images) - 1
        for image in others:
            assert not score(image[None], toy).passed, toy.truth


def test_patterns_of_two_seeds_differ() -> None:
    one, other = pattern(Texture("pattern", 2, 4)), pattern(Texture("pattern", 2, 6))
    assert (one.colours == other.colours).all() and (one.waves != other.waves).all()


def test_an_edit_that_did_nothing_fails() -> None:
    for task in ("ti2i", "ti2i_baseimg", "tv2v", "tiv2v"):
        for toy in toys(task, 20):
            if toy.truth.source is not None:
                before = toy.example.videos[0] if toy.example.videos else toy.example.images[-1][None]
                scored = score(before, toy)
                assert not scored.passed, (toy.truth.kind, toy.truth.prompt)
                assert scored.untouched in (None, 60.0)


def test_a_changed_surrounding_costs_decibels() -> None:
    for toy in toys("ti2i", 30):
        if toy.truth.kind in ("recolour", "replace", "move", "add", "remove"):
            result = toy.example.target.float()
            scored = score((result * 0.6 + 90).round().to(torch.uint8), toy)
            assert scored.untouched is not None and scored.untouched < 28 and not scored.passed


def test_a_clip_that_stands_still_does_not_follow() -> None:
    for task in ("t2v", "i2v", "ti2v", "tiv2v_clone", "tiv2v_camclone"):
        for toy in toys(task, 15):
            if not toy.truth.is_open:
                scored = showing(toy, first_frame(toy.truth.target))
                assert not scored.followed, toy.truth
                if toy.truth.target.camera.kind == STILL:
                    assert scored.motion is False
                else:
                    assert scored.checks["camera"] is False


@pytest.mark.parametrize("task", ["tv2v", "tiv2v"])
def test_an_edited_clip_that_is_frozen_fails(task: str) -> None:
    frozen = 0
    for toy in toys(task, 15):
        target = toy.example.target
        still = target[:1].expand_as(target).contiguous()
        if not torch.equal(still, target):
            scored = score(still, toy)
            assert scored.motion is False and not scored.passed, toy.truth
            frozen += 1
    assert frozen > 10


def test_another_motion_is_not_the_one_asked_for() -> None:
    for toy in toys("tiv2v_clone", 20):
        target = toy.truth.target
        kind = "up" if target.sprites[0].place[1] > 0.5 else "down"
        if target.sprites[0].motion.kind in (kind, "free"):
            continue
        scored = showing(toy, replace(target, sprites=first(target.sprites, motion=Motion(kind))))
        assert scored.motion is False and not scored.followed, target
    for toy in toys("tiv2v_camclone", 12):
        target = toy.truth.target
        kind = "out" if target.camera.kind == "in" else "in"
        assert showing(toy, replace(target, camera=Camera(kind))).checks["camera"] is False


def test_noise_and_grey_get_nothing() -> None:
    for task in TASKS:
        for number, toy in enumerate(toys(task, 3)):
            shape = toy.example.target.shape
            noise = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
            for result in (noise, torch.full(shape, 100, dtype=torch.uint8)):
                assert not score(result, toy).followed


def test_a_result_of_the_wrong_shape_is_refused() -> None:
    toy = toys("t2i", 1)[0]
    with pytest.raises(ValueError, match="the result is"):
        score(toy.example.target[:, :32], toy)
