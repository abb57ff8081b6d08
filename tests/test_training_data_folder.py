"""Plain folders with a manifest, and `vino data check`, which lists everything that is wrong with them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import by_name, clip, data_config, picture, pictures_folder, write_manifest
from media_files import moving_bar, write_clip

from vino_core.cli import main
from vino_core.errors import InputError
from vino_core.media import videos
from vino_core.media.videos import read_clip
from vino_core.systems import get_system
from vino_core.training.config import RunConfig
from vino_core.training.data.check import check_config, check_path
from vino_core.training.data.folder import FolderSource
from vino_core.training.data.opening import stored_source
from vino_core.training.dropout import Dropped
from vino_core.training.feed import Feed
from vino_core.training.prepare import prepare
from vino_core.training.sources import training_sources


def edits(folder: Path) -> Path:
    """One row of each way to have references."""
    image, other = picture(folder / "in/a.png", 1), picture(folder / "in/b.png", 2, 80, 48)
    video, target = clip(folder / "clips/v.mp4"), clip(folder / "clips/t.mp4", 11)
    rows = [
        {"index": 1, "task": "ti2i", "caption": "edit", "ref_image_paths": [f"in/{other}", f"in/{image}"],
         "ref_image_have_base": True, "target_path": f"in/{image}"},
        {"index": "x", "task": "tiv2v", "caption": "", "caption_long": "a long one", "caption_short": "short",
         "ref_image_paths": [f"in/{image}"], "ref_video_path": f"clips/{video}", "target_path": f"clips/{target}"},
    ]  # fmt: skip
    write_manifest(folder, rows)
    return folder


def test_rows_become_examples(tmp_path: Path) -> None:
    edits(tmp_path)
    base = FolderSource(tmp_path, "ti2i_baseimg").example(0)
    assert base.base_image and base.id == "1" and base.prompt == "edit"
    assert [tuple(image.shape) for image in base.images] == [(48, 80, 3), (64, 64, 3)]
    assert torch.equal(base.target[0], base.images[1])
    video = FolderSource(tmp_path / "manifest.jsonl", "tiv2v").example(0)
    assert video.target.shape == (9, 48, 64, 3) and video.videos[0].shape == (9, 48, 64, 3)
    assert video.fps == 24
    assert torch.equal(video.target, read_clip(tmp_path / "clips/t.mp4")[0][:9])
    assert len(FolderSource(tmp_path, "t2v")) == 0


def test_captions_are_chosen_once_for_a_row(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png", 1)
    row = {"task": "t2i", "caption_long": "long", "caption_short": "short", "target_path": name}
    write_manifest(tmp_path, [{"index": n, **row} for n in range(20)])
    both = [FolderSource(tmp_path, "t2i").row(n).prompt for n in range(20)]
    assert both == [FolderSource(tmp_path, "t2i").row(n).prompt for n in range(20)]
    assert 4 < both.count("long") < 16
    assert FolderSource(tmp_path, "t2i", captions="short").row(3).prompt == "short"


def test_fewer_frames_are_read_than_a_long_clip_has(tmp_path: Path) -> None:
    write_manifest(tmp_path, [{"index": 1, "task": "t2v", "caption": "a", "target_path": clip(tmp_path / "v.mp4", 17)}])
    assert len(FolderSource(tmp_path, "t2v", frames=5).example(0).target) == 5
    assert len(FolderSource(tmp_path, "t2v").example(0).target) == 17


def long_reference(folder: Path, frames: int) -> RunConfig:
    """A run of 5 frames that edits a short clip like a long reference clip, whose text encoder sees 4 frames of it."""
    write_clip(folder / "long.mp4", moving_bar(frames, 64, 64))
    row = {"index": 1, "task": "tv2v", "caption": "a", "target_path": clip(folder / "v.mp4", 5)}
    write_manifest(folder, [{**row, "ref_video_path": "long.mp4"}])
    return data_config(folder, {"tv2v": {"weight": 1, "path": str(folder)}}, frames=5, vlm_frames=4)


@pytest.mark.parametrize("system", ["vino", "vogue"])
def test_of_a_long_reference_clip_only_the_frames_that_are_looked_at_are_kept(tmp_path: Path, system: str) -> None:
    run = long_reference(tmp_path, 40)
    source = stored_source(run, "tv2v", str(tmp_path))
    example, whole = source.example(0), FolderSource(tmp_path, "tv2v", frames=5).example(0)
    (excerpt,), (video,) = example.videos, whole.videos
    assert isinstance(video, torch.Tensor) and not isinstance(excerpt, torch.Tensor)
    assert len(excerpt.kept) == 8 and excerpt.shape == video.shape == (40, 64, 64, 3)
    assert torch.equal(excerpt[:5], video[:5]) and torch.equal(excerpt[[0, 13, 26, 39]], video[[0, 13, 26, 39]])
    with pytest.raises(IndexError, match="frame 5 of 40 was not kept"):
        excerpt[:6]
    few, all_of_it = (prepare(one, Dropped(), run.data, get_system(system)).references for one in (example, whole))
    for one, other in zip(few.videos, all_of_it.videos, strict=True):
        assert torch.equal(one.frames, other.frames) and torch.equal(one.vlm_frames, other.vlm_frames)


def test_a_reference_clip_that_is_hardly_longer_is_kept_whole(tmp_path: Path) -> None:
    (video,) = stored_source(long_reference(tmp_path, 9), "tv2v", str(tmp_path)).example(0).videos
    assert isinstance(video, torch.Tensor) and len(video) == 9


def test_damage_between_the_frames_that_are_kept_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored_source(long_reference(tmp_path, 40), "tv2v", str(tmp_path))
    usual = videos._check_whole

    def damaged(frame: Any, index: int, path: Any) -> None:
        if index == 20:
            raise InputError(f"{path}: the video is damaged in frame 20.")
        usual(frame, index, path)

    monkeypatch.setattr(videos, "_check_whole", damaged)
    with pytest.raises(InputError, match="long.mp4: the video is damaged in frame 20"):
        source.example(0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a row is an object"),
        ('{"index": 1, "task": "t2i"}', "target_path missing"),
        ('{"index": 1, "task": "t3i", "target_path": "a.png"}', "task 't3i' is unknown"),
        ('{"index": 1, "task": "t2i", "target_path": 3}', "target_path is 3; it must be str"),
        ('{"index": 1, "task": "t2i", "target_path": "a.png", "target": "b"}', "unknown fields target"),
        ('{"index": 1, "task": "ti2i", "target_path": "a.png", "ref_image_paths": [2]}', "a list of paths"),
    ],
)
def test_malformed_rows_are_errors_that_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    folder = pictures_folder(tmp_path, 1)
    with (folder / "manifest.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        FolderSource(folder, "t2i")
    with pytest.raises(InputError, match="line 2"):
        FolderSource(folder, "t2i")


def test_one_damaged_clip_among_many_is_skipped_and_named(tmp_path: Path) -> None:
    good = clip(tmp_path / "good.mp4", 5)
    (tmp_path / "bad.mp4").write_bytes((tmp_path / good).read_bytes()[:300])
    rows = [{"index": n, "task": "t2v", "caption": "a bar", "target_path": good} for n in range(300)]
    rows[137]["target_path"] = "bad.mp4"
    write_manifest(tmp_path, rows)
    run = data_config(tmp_path, {"t2v": {"weight": 1, "path": str(tmp_path)}}, frames=5)
    skipped = tmp_path / "skipped.jsonl"
    feed = Feed(training_sources(run), by_name, seed=0, skipped_file=skipped)
    assert len(feed.take("t2v", 1, range(300))) == 300
    assert set(feed.skipped) == {("t2v", 137)}
    assert skipped.read_text().count("\n") == 1 and "bad.mp4" in skipped.read_text()
    (finding,) = check_config(run)
    assert len(finding.problems) == 1 and "example 137 (137)" in finding.problems[0]
    assert "bad.mp4" in finding.problems[0]
    assert finding.buckets.counts == {(5, 48, 64): 299}


def test_a_task_of_weight_0_is_checked_where_it_is_validated_only(tmp_path: Path) -> None:
    folder = pictures_folder(tmp_path / "here", 2)
    tasks = {
        "t2i": {"weight": 1, "path": str(folder)},
        "t2v": {"weight": 0, "path": "nowhere", "validation": str(tmp_path / "away")},
    }
    (used, missing) = check_config(data_config(tmp_path, tasks))
    assert not used.problems and "validation" in missing.title and missing.problems


def test_check_lists_every_kind_of_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, short = picture(tmp_path / "a.png", 5), clip(tmp_path / "short.mp4", 3)
    picture(tmp_path / "wide.png", 5, 128, 32)
    (tmp_path / "empty.png").write_bytes(b"")
    row = {"task": "t2i", "caption": "a"}
    rows = [
        {"index": 0, **row, "target_path": good},
        {"index": 1, **row, "target_path": "gone.png"},
        {"index": 2, **row, "target_path": "empty.png"},
        {"index": 3, "task": "t2i", "target_path": good},
        {"index": 4, "task": "t2v", "caption": "a", "target_path": short},
        {"index": 5, "task": "ti2i", "caption": "a", "target_path": good},
        {"index": 6, **row, "target_path": short},
        {"index": 7, **row, "target_path": "wide.png"},
        {"index": 0, **row, "target_path": good},
    ]
    manifest = write_manifest(tmp_path, rows)
    with manifest.open("a") as file:
        file.write("{\n")
    assert main(["data", "check", str(tmp_path), "--system", "vino-tiny"]) == 1
    told = capsys.readouterr().out
    for words in (
        "line 10: not JSON",
        "index 0 occurs more than once",
        "gone.png: there is no such picture",
        "empty.png: the picture file is empty",
        "line 4 (index 3): the caption is missing",
        "short.mp4: 3 frames; a clip to learn from has at least 5",
        "0 reference pictures; ti2i takes 1 or more",
        "target short.mp4: t2i makes a picture",
        "64 x 64       1         2",
        "128 x 32       1         1",
    ):
        assert words in told, words


def test_a_repeated_index_is_told_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"index": 0, "task": "t2i", "caption": "a", "target_path": picture(tmp_path / "a.png", 5)}
    write_manifest(tmp_path, [row, row])
    assert len(FolderSource(tmp_path, "t2i")) == 2
    assert main(["data", "check", str(tmp_path), "--system", "vino-tiny"]) == 0
    assert "note: manifest.jsonl, line 2: index 0 occurs more than once" in capsys.readouterr().out


def test_text_may_hold_every_character_that_json_may(tmp_path: Path) -> None:
    """A mark at the beginning of the file, and characters that end lines elsewhere but in JSON."""
    name = picture(tmp_path / "a.png", 5)
    rows = [{"index": n, "task": "t2i", "caption": f"one\u2028two\x85{n}", "target_path": name} for n in range(2)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "manifest.jsonl").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    source = FolderSource(tmp_path, "t2i")
    assert [source.row(n).prompt for n in range(2)] == ["one\u2028two\x850", "one\u2028two\x851"]
    assert not check_path(tmp_path, get_system("vino"), 4096, 5)[0].problems


def test_check_of_good_data_leaves_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(pictures_folder(tmp_path, 3)), "--system", "vino-tiny"]) == 0
    assert "3 examples, nothing wrong" in capsys.readouterr().out


def test_empty_and_missing_data(tmp_path: Path) -> None:
    run = data_config(tmp_path, {"t2i": {"weight": 1, "path": str(tmp_path / "nothing")}})
    with pytest.raises(InputError, match="nothing: there is no such folder. Check the path"):
        training_sources(run)
    assert "nothing: there is no such folder" in check_config(run)[0].problems[0]
    with pytest.raises(InputError, match="other.jsonl: there is no such file"):
        FolderSource(tmp_path / "other.jsonl", "t2i")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "a.heic").write_bytes(b"")
    for say in (lambda: training_sources(run), lambda: check_path(tmp_path / "nothing", get_system("vino"), 4096, 5)):
        with pytest.raises(
            InputError, match="nothing: the folder has neither pictures or clips nor a manifest.jsonl. "
        ):
            say()
    write_manifest(tmp_path / "nothing", [])
    with pytest.raises(InputError, match="data.tasks.t2i: there are no examples"):
        Feed(training_sources(run), by_name, seed=0)
    assert "no examples" in check_path(tmp_path / "nothing", get_system("vino"), 4096, 5)[0].problems[0]


def test_damage_inside_a_clip_is_found_by_a_full_look(tmp_path: Path) -> None:
    name = clip(tmp_path / "v.mp4", 17)
    data = bytearray((tmp_path / name).read_bytes())
    start = data.index(b"mdat") + 1000
    data[start : start + 20] = bytes(20)
    (tmp_path / name).write_bytes(data)
    write_manifest(tmp_path, [{"index": 1, "task": "t2v", "caption": "a", "target_path": name}])
    system = get_system("vino")
    assert not check_path(tmp_path, system, 4096, 17)[0].problems
    (problem,) = check_path(tmp_path, system, 4096, 17, full=True)[0].problems
    assert "v.mp4: 17 of 17 frames can be decoded, 1 are damaged" in problem
    with pytest.raises(InputError, match="v.mp4: the video is damaged in frame 0. Export it again"):
        FolderSource(tmp_path, "t2v", frames=17).example(0)


@pytest.mark.parametrize(("width", "smallest", "narrow"), [(512, None, True), (200, None, False), (200, 2048, True)])
def test_a_reference_clip_too_narrow_for_the_run_is_a_problem(
    tmp_path: Path, width: int, smallest: int | None, narrow: bool
) -> None:
    write_clip(tmp_path / "narrow.mp4", moving_bar(5, width, 16))
    row = {"task": "tv2v", "caption": "edit", "target_path": clip(tmp_path / "t.mp4", 5)}
    write_manifest(tmp_path, [{"index": 1, **row, "ref_video_path": "narrow.mp4"}])
    task = {"tv2v": {"weight": 1, "path": str(tmp_path)}}
    run = data_config(tmp_path, task, frames=5, smallest_area=smallest)
    (finding,) = check_config(run)
    assert [f"Reference video: {width} x 16 pixels is too narrow" in line for line in finding.problems] == [
        True
    ] * narrow
    data = replace(run.data, area=smallest or run.data.area)
    example, system = FolderSource(tmp_path, "tv2v", frames=5).example(0), get_system("vino-tiny")
    if narrow:
        with pytest.raises(InputError, match="is too narrow"):
            prepare(example, Dropped(), data, system)
    else:
        prepare(example, Dropped(), data, system)
    assert not told_of_clips(tmp_path, "vogue-tiny")[0]  # its references have the target's size


def clip_edits(folder: Path, *lengths: int) -> Path:
    """Edits of clips whose targets have 17 frames, and the clip to edit one of these lengths."""
    target = clip(folder / "target.mp4", 17)
    row = {"task": "tv2v", "caption": "edit", "target_path": target}
    write_manifest(
        folder, [{"index": n, **row, "ref_video_path": clip(folder / f"{n}.mp4", n)} for n in lengths]
    )  # fmt: skip
    return folder


def told_of_clips(folder: Path, system: str) -> tuple[list[str], list[str], dict[str, str]]:
    """What the check lists as problems and as adapted, and what the run says of each example, by its id."""
    run = replace(
        data_config(folder, {"tv2v": {"weight": 1, "path": str(folder)}}, frames=17), system=system
    )  # fmt: skip
    (finding,) = check_config(run)
    said = {}
    for index in range(finding.examples):
        example = FolderSource(folder, "tv2v", frames=17).example(index)
        try:
            said[example.id] = prepare(example, Dropped(), run.data, get_system(system)).adapted
        except InputError as error:
            said[example.id] = str(error)
    return finding.problems, finding.adapted, said


def test_a_reference_clip_that_vogue_would_skip_is_a_problem(tmp_path: Path) -> None:
    problems, adapted, said = told_of_clips(clip_edits(tmp_path, 5, 17, 20), "vogue-tiny")
    assert len(problems) == 1 and not adapted and said["17"] == said["20"] == ""
    reason = "its reference clip has 5 frames, the target 17. "
    assert "example 0 (5)" in problems[0] and reason in problems[0] and reason in said["5"]
    (finding,) = check_path(tmp_path, get_system("vogue-tiny"), 4096, 5)
    assert not finding.problems  # five frames are what such a run would take of the target


def test_a_reference_clip_that_vino_takes_less_of_is_listed(tmp_path: Path) -> None:
    problems, adapted, said = told_of_clips(clip_edits(tmp_path, 3, 16, 17, 20), "vino-tiny")
    assert not problems and len(adapted) == 2 and said["17"] == said["20"] == ""
    for line, count, taken in zip(adapted, (3, 16), (1, 13), strict=True):
        note = f"a reference clip of {count} frames, {taken} of which are taken, beside a target of 17"
        assert f"({count})" in line and note in line and note in said[str(count)]


def test_a_config_and_its_folder_are_told_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every malformed line and index that occurs twice, once for each manifest, and every file of every task."""
    good = picture(tmp_path / "data/a.png", 5)
    row = {"task": "t2i", "caption": "a", "target_path": good}
    rows = [{"index": 0, **row}, {"index": 1, **row, "target_path": "gone.png"}, {"index": 0, **row},
            {"index": 3, **row, "task": "ti2i", "ref_image_paths": ["lost.png"]}]  # fmt: skip
    manifest = write_manifest(tmp_path / "data", rows)
    with manifest.open("a") as file:
        file.write('{\n{"index": 6, "task": "t3i", "target_path": "a.png"}\n')
    task = {"weight": 1, "path": str(tmp_path / "data")}
    run = data_config(tmp_path, {"t2i": task, "ti2i": task})
    with pytest.raises(InputError, match="line 5"):
        training_sources(run)
    lines, *tasks = check_config(run)
    assert lines.examples == 6 and [finding.examples for finding in tasks] == [3, 1]
    for problem, words in zip(lines.problems, ("line 5: not JSON", "line 6: task 't3i' is unknown"), strict=True):
        assert words in problem
    (note,) = lines.notes
    assert "note: manifest.jsonl, line 3: index 0 occurs more than once, first in line 1" in note
    assert ["gone.png" in tasks[0].problems[0], "lost.png" in tasks[1].problems[0]] == [True, True]
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(json.loads(json.dumps(asdict(run)))))
    wrong = []
    for path, more in ((config, []), (tmp_path / "data", ["--system", "vino-tiny", "--area", "4096"])):
        assert main(["data", "check", str(path), *more]) == 1
        wrong.append(sorted(line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")))
    assert len(wrong[0]) == 5 + 2 and wrong[0] == wrong[1]


@pytest.mark.parametrize("option", ["--system=vino", "--area=4096", "--frames=5", "--task=t2i"])
def test_options_that_a_config_decides_are_refused(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("{}")
    assert main(["data", "check", str(config), option]) == 1
    told = capsys.readouterr().err
    assert f"{option.partition('=')[0]}: {config} is a config, which says that itself" in told


def test_options_that_do_not_apply_to_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(pictures_folder(tmp_path, 2))
    for options, message in (
        (["--set", "data.area=4096"], "--set data.area=4096: it changes a config (.yaml), and"),
        (["--task", "t2i"], "--task t2i: it is for shards."),
        (["--task", "t3i"], "--task t3i: unknown. Known: t2i"),
        (["--area", "0"], "--area is 0 pixels; at least 256"),
        (["--frames", "0"], "0"),
    ):
        assert main(["data", "check", folder, *options]) == 1
        assert message in capsys.readouterr().err
