"""VOGUE's prompts, positions and visual input: what the reference numbers do not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from paths import qwen_tokenizer

from vino_core.encoder.engine import IM_END, IM_START, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from vino_core.encoder.positions import Block, sequence_positions
from vino_core.encoder.prompt import PromptPlan, VisualItem, build_prompt
from vino_core.encoder.tokenizer import plain_tokenizer, special_id
from vino_core.encoder.visual import image_patches, image_sizes, video_patches
from vino_core.errors import InputError
from vino_core.systems import get_system

HIDDEN = get_system("vogue")
QUERIES = HIDDEN.for_tokens(torch.zeros(3, 4))
IMAGE, CLIP = VisualItem("image", (1, 4, 6)), VisualItem("video", (3, 4, 4))


class Tokenizer:
    def __init__(self) -> None:
        self.tokenize = plain_tokenizer(qwen_tokenizer())
        self.detokenize = qwen_tokenizer().decode

    def token_id(self, name: str) -> int:
        return special_id(qwen_tokenizer(), name)


TOKENIZER = Tokenizer()


def plan(system=HIDDEN, text="Make it blue.", items=(), **options) -> PromptPlan:
    return build_prompt(system, TOKENIZER, text, items, **options)


def shown(ids) -> str:
    """The prompt as text, each run of pads as one."""
    text = qwen_tokenizer().decode(ids)
    for pad in (IMAGE_PAD, VIDEO_PAD):
        while pad * 2 in text:
            text = text.replace(pad * 2, pad)
    return text


def test_a_checkpoint_with_tokens_is_the_queries_variant() -> None:
    assert HIDDEN.for_tokens(None) is HIDDEN
    assert QUERIES.name == HIDDEN.name == "vogue"
    assert (HIDDEN.learnable_tokens, QUERIES.learnable_tokens) == (0, 512)
    assert (HIDDEN.vision.frames, QUERIES.vision.frames) == (2, 8)
    assert QUERIES.for_tokens(torch.zeros(3, 4)) is QUERIES
    vino = get_system("vino")
    assert vino.for_tokens(torch.zeros(3, 4)) is vino


def test_references_come_before_the_text_without_labels() -> None:
    body = f"{VISION_START}{IMAGE_PAD}{VISION_END}{VISION_START}{VIDEO_PAD}{VISION_END}Make it blue."
    text = shown(plan(items=(IMAGE, CLIP)).ids)
    assert text.endswith(f"{IM_START}user\n{body}{IM_END}\n{IM_START}assistant\n")
    assert text.startswith(f"{IM_START}system\nYou are a helpful assistant for generating visual content.")


def test_tags_are_put_before_references_when_asked_for() -> None:
    text = shown(plan(items=(IMAGE, IMAGE, CLIP), tags=True).ids)
    image, clip = f"{VISION_START}{IMAGE_PAD}{VISION_END}", f"{VISION_START}{VIDEO_PAD}{VISION_END}"
    assert f"user\nImage 1: {image}Image 2: {image}Video 1: {clip}Make it blue." in text


@pytest.mark.parametrize(
    ("text", "tags", "parts"),
    [
        ("Two people on a beach.", False, []),
        ("Two people on a beach.", True, ["does not name Image 1, 2"]),
        ("The woman of Image 2.", False, ["names Image 2, but the images are shown without these labels"]),
        ("The woman of Image 2 and the man of Image 1.", True, []),
        ("Image 3", False, ["names Image 3, but only 2 are connected"]),
    ],
)
def test_nobody_is_asked_to_name_what_has_no_label(text: str, tags: bool, parts: list[str]) -> None:
    """The published model knows no "Image 1" unless tags are on."""
    messages = plan(text=text, items=(IMAGE, IMAGE), tags=tags).messages
    assert len(messages) == len(parts), messages
    for message, part in zip(messages, parts, strict=True):
        assert part in message


def test_labels_that_a_system_always_has_are_not_tags() -> None:
    vino = get_system("vino")
    assert plan(vino, items=(IMAGE,), tags=True).ids == plan(vino, items=(IMAGE,)).ids


def test_a_clip_is_one_run_whose_time_advances() -> None:
    made = plan(items=(CLIP,))
    ((start, end),) = made.visual_spans
    assert end - start == 3 * 2 * 2
    first = made.positions[:, start]
    assert (made.positions[:, start:end] - first[:, None]).tolist() == [
        [0] * 4 + [2] * 4 + [4] * 4,
        [0, 0, 1, 1] * 3,
        [0, 1] * 6,
    ]
    # What follows a long clip starts behind its time, which outgrew its sides.
    assert (made.positions[:, end] - first).tolist() == [5, 5, 5]


def test_a_block_of_one_frame_is_a_picture() -> None:
    assert torch.equal(sequence_positions([2, (2, 3), 1]), sequence_positions([2, Block(2, 3, 1, 2), 1]))


@pytest.mark.parametrize("items", [(), (IMAGE,), (IMAGE, CLIP)])
def test_what_the_mmdit_gets_begins_behind_the_head_or_the_references(items) -> None:
    for text in ("Make it blue.", ""):
        assert plan(text=text, items=items).tokens.kept_from == 33
        made = plan(QUERIES, text=text, items=items)
        kept = shown(made.ids[made.tokens.kept_from :])
        assert kept == f"{text}{IM_END}\n{IM_START}assistant\n\n"


def test_an_answer_begins_right_behind_the_header() -> None:
    assert plan(QUERIES, answering=True).ids == plan(HIDDEN).ids
    assert plan(QUERIES).ids != plan(HIDDEN).ids


def test_a_long_text_is_cut_between_tokens_and_the_user_is_told() -> None:
    tokens = TOKENIZER.tokenize
    exact = "word" + " word" * 2047
    assert len(tokens(exact)) == 2048
    assert plan(text=exact).messages == ()
    made = plan(text=exact + " more words")
    assert made.ids == plan(text=exact).ids
    assert made.messages == ("The prompt has 2050 tokens; only the first 2048 are read. Shorten it.",)
    # A cut inside a character leaves the character out.
    rare = "\N{EGYPTIAN HIEROGLYPH A001}"
    assert len(tokens(rare)) > 1
    cut = shown(plan(text="word" + " word" * 2046 + rare).ids)
    assert rare not in cut
    assert "\N{REPLACEMENT CHARACTER}" not in cut
    vino = get_system("vino")
    assert len(plan(vino, text=exact * 2).ids) > 4000


def test_cutting_keeps_whole_prompts_that_are_long_in_letters_only() -> None:
    text = "extraordinarily " * 500
    assert len(text) > 2048
    assert plan(text=text).messages == ()
    assert text in shown(plan(text=text).ids)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((64, 64), (448, 448)), ((480, 832), (476, 840)), ((100, 700), (196, 1204)), ((448, 476),) * 2],
)
def test_pictures_are_resized_once(size, resized) -> None:
    assert image_sizes(*size, HIDDEN.vision) == (resized, resized)


def test_a_picture_at_its_final_size_keeps_its_values() -> None:
    pixels = torch.randint(0, 256, (448, 476, 3), dtype=torch.uint8)
    patches, grid = image_patches(pixels, HIDDEN.vision)
    assert grid == (1, 32, 34)
    assert patches.shape == (32 * 34, 1176)
    red, green, blue = patches.view(-1, 3, 2, 14, 14)[0, :, :, 0, 0]
    assert torch.equal(red[0], red[1])  # a picture stands for both frames of a group
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = (pixels[0, 0] / 255 - mean) / std
    assert torch.allclose(torch.stack([red[0], green[0], blue[0]]), expected, atol=1e-5)


@pytest.mark.parametrize(("frames", "groups"), [(1, 1), (2, 1), (3, 2), (8, 4), (9, 5)])
def test_clips_of_any_length_are_seen_and_an_odd_frame_is_repeated(frames: int, groups: int) -> None:
    clip = torch.randint(0, 256, (frames, 448, 448, 3), dtype=torch.uint8)
    patches, grid = video_patches(clip, HIDDEN.vision)
    assert grid == (groups, 32, 32)
    last = patches.view(groups, -1, 3, 2, 14, 14)[-1]
    assert torch.equal(last[:, :, 0], last[:, :, 1]) == (frames % 2 == 1)
    single, _ = image_patches(clip[0], HIDDEN.vision)
    assert torch.equal(patches.view(groups, -1, 3, 2, 14, 14)[0, :, :, 0], single.view(-1, 3, 2, 14, 14)[:, :, 0])


def test_vino_still_takes_exactly_its_frames() -> None:
    with pytest.raises(InputError, match="7 frames.*exactly 8"):
        video_patches(torch.zeros(7, 64, 64, 3, dtype=torch.uint8), get_system("vino").vision)


def test_a_picture_beyond_any_size_is_refused() -> None:
    with pytest.raises(InputError, match="too narrow for the VLM"):
        image_sizes(2, 4000, HIDDEN.vision)


def test_tags_are_a_choice_of_the_template() -> None:
    without = replace(HIDDEN, prompt=replace(HIDDEN.prompt, image_tag=""))
    assert plan(without, items=(IMAGE,), tags=True).ids == plan(items=(IMAGE,)).ids
