"""The toy world's examples: the same for the same number, true to their words, and split as promised."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT

from vino_core.errors import InputError
from vino_core.toyworld.backgrounds import BACKGROUNDS, paint_background
from vino_core.toyworld.captions import GROUNDS
from vino_core.toyworld.draw import coverage, draw
from vino_core.toyworld.sampling import SPLITS, is_clear, is_hidden
from vino_core.toyworld.tasks import KINDS, ToySource
from vino_core.toyworld.world import (
    COLOURS,
    FREE,
    MOTIONS,
    PAN,
    PLACES,
    SHAPES,
    Appearance,
    Camera,
    Motion,
    Scene,
    Sprite,
    Texture,
    View,
)
from vino_core.training.example import TASKS

MANY = 40


def plans(task: str, split: str = "train", count: int = MANY, **options) -> list:
    source = ToySource(task, split=split, **options)
    return [source.plan(index) for index in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_examples_have_the_shapes_of_their_task(task: str) -> None:
    source = ToySource(task, frames=5)
    assert source.name == task and source.count is None
    for index in range(6):
        example = source.example(index)
        is_clip = task in ("t2v", "i2v", "ti2v") or task.startswith("tv2v") or task.startswith("tiv2v")
        assert example.target.shape == (5 if is_clip else 1, 64, 64, 3)
        assert example.target.dtype == torch.uint8
        assert all(image.shape == (64, 64, 3) and image.dtype == torch.uint8 for image in example.images)
        assert all(video.shape == (5, 64, 64, 3) and video.dtype == torch.uint8 for video in example.videos)
        assert (example.task, example.id) == (task, f"toy-{task}-train-0-{index}")
        assert example.base_image == (task == "ti2i_baseimg")
        counted = {name: [int(n) for n in re.findall(rf"{name} (\d)", example.prompt)] for name in ("Image", "Video")}
        assert max(counted["Image"], default=0) <= len(example.images)
        assert max(counted["Video"], default=0) <= len(example.videos)


def test_number_of_references() -> None:
    assert {len(plan.images) for plan in plans("ti2v")} == {1, 2, 3, 4}
    assert {len(plan.images) for plan in plans("select_image")} == {2, 3, 4}
    for task, images, videos in (("t2i", 0, 0), ("i2v", 1, 0), ("ti2i_baseimg", 2, 0), ("tv2v", 0, 1), ("tiv2v", 1, 1)):
        assert {(len(plan.images), len(plan.videos)) for plan in plans(task, count=8)} == {(images, videos)}


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_comes_up_about_as_often_as_it_should(task: str) -> None:
    found = [plan.kind for plan in plans(task, count=300)]
    for kind in set(KINDS[task]):
        share = KINDS[task].count(kind) / len(KINDS[task])
        assert abs(found.count(kind) / 300 - share) < 4 * (share * (1 - share) / 300) ** 0.5 + 1e-9


def test_an_example_is_a_function_of_its_number() -> None:
    source = ToySource("tiv2v", seed=3)
    late = source.toy(7)
    for index in (0, 7):
        again = ToySource("tiv2v", seed=3).toy(index)
    assert again.truth == late.truth
    assert torch.equal(again.example.target, late.example.target)
    assert torch.equal(again.example.videos[0], late.example.videos[0])
    others = [ToySource("tiv2v", seed=4).toy(7), source.toy(8), ToySource("tiv2v", seed=3, split="heldout").toy(7)]
    assert all(not torch.equal(other.example.target, late.example.target) for other in others)


def test_an_example_is_the_same_in_another_process() -> None:
    code = (
        "from vino_core.toyworld.tasks import ToySource; example = ToySource('ti2v', seed=5).example(11); "
        "print(int(example.target.long().sum()), example.prompt)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    example = ToySource("ti2v", seed=5).example(11)
    assert said.strip() == f"{int(example.target.long().sum())} {example.prompt}"


@pytest.mark.parametrize("task", TASKS)
def test_training_never_shows_what_is_held_out(task: str) -> None:
    for plan in plans(task):
        assert not any(is_hidden(one, scene.background) for scene in plan.scenes for one in scene.sprites)
    for plan in plans(task, "heldout", 15):
        shown = [(one, scene.background) for scene in plan.scenes for one in scene.sprites]
        assert any(is_hidden(*pair) for pair in shown)
        assert all(is_hidden(*pair) for pair in shown if pair[0].texture.is_pattern)


def test_splits_share_no_pattern_path_or_duotone() -> None:
    seeds: dict[str, set[int]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for task in ("ti2v", "tiv2v_clone", "tiv2v_camclone", "ti2i_baseimg"):
            for plan in plans(task, split, 20):
                for scene in plan.scenes:
                    seeds[split] |= {scene.style.seed, scene.camera.seed}
                    seeds[split] |= {n for s in scene.sprites for n in (s.texture.waves, s.motion.seed)}
        seeds[split] -= {0}
    assert len(seeds["train"]) > 50 and len(seeds["heldout"]) > 50
    assert {seed % 2 for seed in seeds["train"]} == {0} and {seed % 2 for seed in seeds["heldout"]} == {1}


def test_every_attribute_occurs_in_both_splits_and_a_tenth_of_the_combinations_is_hidden() -> None:
    for split in SPLITS:
        scenes = [plan.target for plan in plans("t2i", split, 400)]
        sprites = [one for scene in scenes for one in scene.sprites]
        assert {one.shape for one in sprites} == set(SHAPES)
        assert {one.colour for one in sprites} == set(COLOURS)
        assert {one.place_name for one in sprites} == set(PLACES)
        assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    everything = [
        is_hidden(Sprite(shape, colour, Texture(texture), "small", (0.5, 0.5)), background)
        for shape in SHAPES
        for colour in COLOURS
        for texture in ("plain", "striped", "spotted")
        for background in BACKGROUNDS
    ]
    assert 0.08 < np.mean(everything) < 0.12


@pytest.mark.parametrize("task", ["t2i", "t2v"])
def test_long_captions_say_everything(task: str) -> None:
    for plan in plans(task, captions="long"):
        assert not plan.is_open
        words = plan.prompt.lower()
        assert GROUNDS[plan.target.background] in words
        for one in plan.target.sprites:
            texture = [] if one.texture.kind == "plain" else [one.texture.kind]
            assert " ".join([one.size, *texture, str(one.colour), one.shape]) in words
            assert f"the {one.place_name}" in words


def test_short_captions_may_leave_sizes_and_places_open_and_nothing_else() -> None:
    found = plans("t2i", captions="short", count=80)
    assert 0.2 < np.mean([plan.is_open for plan in found]) < 0.6
    for plan in found:
        words = plan.prompt.lower()
        assert GROUNDS[plan.target.background] in words
        for one in plan.target.sprites:
            assert f"{one.colour} {one.shape}" in words
            assert plan.is_open != (f"{one.size} " in words and f"the {one.place_name}" in words)


def test_a_place_is_never_named_as_if_it_were_a_direction() -> None:
    """To the right of where it is would be somewhere else than at the right."""
    prompts = [plan.prompt for plan in map(ToySource("ti2i").plan, range(400)) if plan.kind == "move"]
    assert len(prompts) > 30 and any(" to the top left." in prompt for prompt in prompts)
    assert not [prompt for prompt in prompts if re.search(r"^(Move|Shift) .* to the (left|right|top|bottom)\.", prompt)]


def test_first_frames_and_camera_clones_start_at_the_picture() -> None:
    for task in ("i2v", "tiv2v_clone", "tiv2v_camclone"):
        for index in range(6):
            example = ToySource(task).example(index)
            assert torch.equal(example.target[0], example.images[0])
            assert not torch.equal(example.target[-1], example.images[0])


def test_subjects_look_alike_in_reference_and_target() -> None:
    for plan in plans("ti2v"):
        for reference, one in zip(plan.images, plan.target.sprites, strict=True):
            (subject,) = reference.sprites
            assert (subject.shape, subject.texture, subject.colour) == (one.shape, one.texture, None)


def test_cloned_motion_is_the_one_of_the_clip() -> None:
    kinds = set()
    for plan in plans("tiv2v_clone"):
        assert plan.target.sprites[0].motion == plan.videos[0].sprites[0].motion
        kinds.add(plan.target.sprites[0].motion.kind)
    assert FREE in kinds and len(kinds) > 5
    assert all(plan.target.camera == plan.videos[0].camera for plan in plans("tiv2v_camclone"))


def test_sprites_are_in_sight_apart_and_clear() -> None:
    for task in ("t2v", "tv2v", "tiv2v_camclone"):
        assert all(is_clear(plan.target) for plan in plans(task))
    red = Sprite("circle", "red", Texture(), "large", PLACES["left"])
    blue = Sprite("square", "blue", Texture(), "large", PLACES["centre"])
    assert is_clear(Scene((red,), "white"))
    assert not is_clear(Scene((red, blue), "white")), "they overlap"
    green = Sprite("circle", "green", Texture(), "large", PLACES["left"])
    assert is_clear(Scene((green,), "white")) and not is_clear(Scene((green,), "grass")), "too weak a contrast"
    assert not is_clear(Scene((Sprite("circle", "red", Texture(), "large", PLACES["left"], Motion("left")),), "white"))


def test_motions_and_cameras_start_at_rest_and_go_somewhere() -> None:
    for motion in (*map(Motion, MOTIONS[1:]), Motion(FREE, 1), Motion(FREE, 2)):
        assert motion.pose(0.0) == (0.0, 0.0, 1.0, 0.0)
        assert any(np.abs(np.subtract(motion.pose(time), motion.pose(0.0))).max() > 0.15 for time in (0.5, 1.0))
    for camera in (Camera("left"), Camera("in"), Camera("out"), Camera(FREE, 4)):
        assert camera.view(0.0) == View()
        assert np.abs(np.subtract(camera.view(1.0), View())).max() > 0.1


def test_no_background_looks_unmoved_at_the_end_of_a_pan() -> None:
    for name, background in BACKGROUNDS.items():
        if background.share:
            still = paint_background(name, View(), 64)
            for view in (View(PAN, 0.0), View(0.0, PAN)):
                assert np.abs(paint_background(name, view, 64) - still).mean() > 3, name


def test_edges_are_smooth_and_areas_right() -> None:
    covered = coverage("circle", Appearance(0.5, 0.5, 0.2, 0.0), 64)
    assert covered.sum() == pytest.approx(np.pi * (0.95 * 0.2 * 64) ** 2, rel=0.01)
    assert ((covered > 0) & (covered < 1)).sum() > 40
    turned = coverage("triangle", Appearance(0.5, 0.5, 0.2, np.pi), 64)
    np.testing.assert_allclose(turned[::-1, ::-1], coverage("triangle", Appearance(0.5, 0.5, 0.2, 0.0), 64), atol=1e-3)


def test_pictures_of_another_size_show_the_same() -> None:
    scene = ToySource("t2i").plan(1).target
    small, large = draw(scene, 64)[0].astype(float), draw(scene, 128)[0].astype(float)
    pooled = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.sqrt(((pooled - small) ** 2).mean()) < 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "t3i"}, "t2i"),
        ({"split": "test"}, "heldout"),
        ({"captions": "none"}, "short"),
        ({"size": 60}, "multiple of 16"),
        ({"frames": 8}, "4n \\+ 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_options_are_explained(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ToySource(**{"task": "t2i", **options})
