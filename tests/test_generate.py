"""`vino generate` end to end on the command line's own functions, with miniature random weights."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from media_files import moving_bar, write_clip
from paths import GOLDENS
from PIL import Image
from tiny_files import write_tiny_files

from vino_core.cli import main
from vino_core.encoder.transformers_engine import TransformersEngine
from vino_core.mmdit.model import MMDiT
from vino_core.vae import VAE

SMALL = ["--area", "3072", "--steps", "2", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    written = write_tiny_files(tmp_path_factory.mktemp("weights"))
    return [str(word) for option, path in written.items() for word in (option, path)]


def generate(files: list[str], out: Path, *words: object) -> int:
    return main(["generate", *files, "--out", str(out), *SMALL, *(str(word) for word in words)])


def only(out: Path, pattern: str) -> Path:
    (found,) = out.glob(pattern)
    return found


def test_text_to_image(files: list[str], tmp_path: Path) -> None:
    assert generate(files, tmp_path, "--prompt", "a fox", "--width", 48, "--height", 32, "--seed", 3) == 0
    with Image.open(only(tmp_path, "*_t2i.png")) as image:
        assert image.size == (48, 32)
        assert len(set(image.tobytes())) > 10
    record = json.loads(only(tmp_path, "*_t2i.json").read_text())
    settings = record["settings"]
    assert (settings["seed"], settings["text_scale"], settings["shift"], settings["steps"]) == (3, 5.0, 5.0, 2)
    assert settings["negative"].startswith("low quality, blurry, low resolution")
    assert not list(tmp_path.glob(".*"))


def test_video_edit_with_an_image_takes_the_size_of_the_video(files: list[str], tmp_path: Path) -> None:
    media = GOLDENS / "media"
    words = ["--prompt", "Image 1 into Video 1", "--image", media / "img_a.png", "--video", media / "clip_a.mp4"]
    assert generate(files, tmp_path, *words, "--frames", 9, "--seed", 1) == 0
    with av.open(str(only(tmp_path, "*_tiv2v.mp4"))) as clip:
        stream = clip.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(stream)]
        assert (len(frames), frames[0].shape, stream.average_rate) == (9, (32, 64, 3), 24)
    assert frames[0].std() > 1
    record = json.loads(only(tmp_path, "*_tiv2v.json").read_text())
    assert record["settings"]["image_scale"] == 3.0


def test_each_of_several_videos_counts(files: list[str], tmp_path: Path) -> None:
    clip = GOLDENS / "media" / "clip_a.mp4"
    other = write_clip(tmp_path / "other.mp4", moving_bar(5))
    words = ["--prompt", "Video 1 like Video 2", "--frames", 5, "--seed", 1, "--text-scale", 1]
    results = []
    for name, second in (("same", clip), ("other", other), ("none", None)):
        videos = ["--video", clip, *(["--video", second] if second else [])]
        assert generate(files, tmp_path / name, *words, *videos) == 0
        record = json.loads(only(tmp_path / name, "*.json").read_text())
        assert record["settings"]["videos"] == len(videos) // 2
        with av.open(str(only(tmp_path / name, "*_tv2v.mp4"))) as result:
            results.append(b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in result.decode(video=0)))
    assert len(set(results)) == 3


def rows(*indices: str, **fields: object) -> list[dict]:
    return [{"index": index, "task": "t2i", "caption": f"a {index}", **fields} for index in indices]


@pytest.fixture
def task_list(tmp_path: Path):
    def write(content: list[dict]) -> Path:
        path = tmp_path / "list.json"
        path.write_text(json.dumps(content))
        return path

    return write


SIZE = ("--width", 32, "--height", 32)


def test_resume_makes_only_what_is_missing(files, tmp_path, task_list, capsys) -> None:
    out, tasks = tmp_path / "out", task_list(rows("one", "two"))
    assert generate(files, out, "--tasks", tasks, *SIZE) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {"one.png", "one.json", "two.png", "two.json"}
    assert generate(files, out, "--tasks", tasks, *SIZE) == 0
    assert "2 of 2 done already" in capsys.readouterr().out
    (out / "two.json").unlink()  # as after a kill between the picture and its sidecar
    assert generate(files, out, "--tasks", tasks, *SIZE) == 0
    assert "1 of 2 done already" in capsys.readouterr().out
    assert (out / "one.png").read_bytes() == first["one.png"]
    assert (out / "two.json").is_file()


def test_results_with_other_settings_are_not_lost(files, tmp_path, task_list, capsys) -> None:
    out, tasks = tmp_path / "out", task_list(rows("one"))
    assert generate(files, out, "--tasks", tasks, *SIZE, "--seed", 1) == 0
    before = (out / "one.png").read_bytes()
    assert generate(files, out, "--tasks", tasks, *SIZE, "--seed", 2) == 1
    assert "other settings (seed)" in capsys.readouterr().err
    assert (out / "one.png").read_bytes() == before
    assert generate(files, out, "--tasks", tasks, *SIZE, "--seed", 2, "--overwrite") == 0
    assert (out / "one.png").read_bytes() != before


def test_seed_fixes_everything(files, tmp_path, task_list) -> None:
    tasks = task_list(
        [{**row, "seed": 5} for row in rows("one", ref_image_paths=[str(GOLDENS / "media" / "img_a.png")])]
        + rows("two", seed=6)
    )
    outs = [tmp_path / name for name in "ab"]
    for out in outs:
        assert generate(files, out, "--tasks", tasks, "--posterior", "sample", *SIZE) == 0
    for name in ("one.png", "two.png"):
        first, second = (Image.open(out / name).tobytes() for out in outs)
        assert first == second
    assert json.loads((outs[0] / "two.json").read_text())["settings"]["seed"] == 6


def test_one_bad_item_does_not_stop_the_others(files, tmp_path, task_list, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    content = rows("bad", ref_image_paths=[str(broken)]) + rows("good")
    assert generate(files, tmp_path / "out", "--tasks", task_list(content), *SIZE) == 1
    error = capsys.readouterr().err
    assert "broken.png" in error and "1 of 2 failed: bad" in error
    assert (tmp_path / "out" / "good.png").is_file()
    assert not (tmp_path / "out" / "bad.json").exists()


def test_a_missing_file_is_named_before_anything_runs(files, tmp_path, task_list, capsys) -> None:
    content = rows("bad", ref_image_paths=["nowhere.png"]) + rows("good")
    assert generate(files, tmp_path / "out", "--tasks", task_list(content), *SIZE) == 1
    error = capsys.readouterr().err
    assert "bad will fail: there is no file 'nowhere.png'" in error and "1 of 2 failed: bad" in error
    assert (tmp_path / "out" / "good.png").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (("--prompt", "x", "--device", "nonsense", *SIZE), "--device nonsense"),
        (("--prompt", "x", "--width", 33, "--height", 32), "33"),
        (("--prompt", "x", "--frames", 6, *SIZE), "6"),
        (("--prompt", "x", "--frames", 93, *SIZE), "93"),
        (("--prompt", "x", "--base-image", *SIZE), "base image"),
        (("--prompt", "x", "--preset", "nonsense", *SIZE), "nonsense"),
        ((), "either --prompt or --tasks"),
    ],
)
def test_bad_input_says_what_and_leaves_nothing(files, tmp_path, capsys, words, message) -> None:
    assert generate(files, tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_each_part_runs_once_per_reference(files, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"vision": 0, "vae": 0, "mmdit": 0}

    def count(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def counted(self, *arguments, **options):
            calls[name] += 1
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, method, counted)

    count(TransformersEngine, "vision", "vision")
    count(VAE, "encode", "vae")
    count(MMDiT, "forward", "mmdit")
    media = GOLDENS / "media"
    words = [word for name in ("img_a", "img_b", "img_c") for word in ("--image", media / f"{name}.png")]
    assert generate(files, tmp_path, "--prompt", "all", *words, "--image-scale", 3, "--seed", 0) == 0
    assert calls == {"vision": 3, "vae": 3, "mmdit": 2 * 3}
    monkeypatch.undo()


def test_switched_off_branches_are_not_computed(files, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, forwards = [], []
    forward = MMDiT.forward
    decode = TransformersEngine.decode
    monkeypatch.setattr(MMDiT, "forward", lambda self, *a, **o: forwards.append(1) or forward(self, *a, **o))
    monkeypatch.setattr(TransformersEngine, "decode", lambda self, *a, **o: encoded.append(1) or decode(self, *a, **o))
    scales = ("--text-scale", 1, "--image-scale", 1)
    assert generate(files, tmp_path, "--prompt", "x", *SIZE, *scales, "--seed", 0) == 0
    assert (len(encoded), len(forwards)) == (2, 2)  # prompt, then learnable tokens; two steps


def test_image_guidance_without_text_guidance_works(files, tmp_path) -> None:
    words = ["--image", GOLDENS / "media" / "img_a.png", "--text-scale", 1, "--image-scale", 2]
    assert generate(files, tmp_path, "--prompt", "x", *words, "--seed", 0) == 0
    with Image.open(only(tmp_path, "*.png")) as image:
        assert torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float().std() > 1


def test_a_base_image_alone_is_no_image_in_the_third_branch(files, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = []
    forward = MMDiT.forward

    def count(self, latents, timestep, conditioning, *rest, **options):
        references.append(len(conditioning.references))
        return forward(self, latents, timestep, conditioning, *rest, **options)

    monkeypatch.setattr(MMDiT, "forward", count)
    words = ["--prompt", "x", "--image", GOLDENS / "media" / "img_a.png", "--base-image", "--image-scale", 3]
    assert generate(files, tmp_path, *words, "--seed", 0) == 0
    assert references == [1, 1, 0] * 2


def test_a_label_without_a_reference_is_a_warning(files, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--prompt", "the hat of Image 4", "--image", GOLDENS / "media" / "img_a.png"]
    assert generate(files, tmp_path, *words, "--seed", 0, "--text-scale", 1) == 0
    assert "names Image 4, but only 1 is connected" in caplog.text


def test_prompts_of_any_kind(files, tmp_path, task_list) -> None:
    prompts = ["", "狐が川を渡る 🦊", "word " * 4000, "<|im_end|> <|image_pad|> <|vision_start|>"]
    content = [{**row, "caption": text} for row, text in zip(rows("a", "b", "c", "d"), prompts, strict=True)]
    assert generate(files, tmp_path / "out", "--tasks", task_list(content), *SIZE) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_a_question_needs_neither_tokens_nor_vae(files, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransformersEngine, "generate", lambda *_: "a fox")
    given = [word for option, path in zip(files[::2], files[1::2], strict=True)
             if option in ("--model", "--text-encoder") for word in (option, path)]  # fmt: skip
    words = ["--preset", "understanding", "--prompt", "What is it?", "--device", "cpu"]
    assert main(["generate", *given, *words, "--out", str(tmp_path)]) == 0
    assert only(tmp_path, "*_understanding.txt").read_text() == "a fox\n"
