"""The system comes from what is connected: sizes, settings and prompts are those of the file, mixed files are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_reference import MODEL, TOKENS
from comfy_reference import model as reference_weights
from comfy_reference import text_encoder as reference_text_encoder
from comfy_runs import given_references, learnable_tokens, nodes
from paths import GOLDENS
from safetensors.torch import save_file

from vino_core.checkpoints.files import load_mmdit, made_for, save_tokens, tokens_metadata
from vino_core.systems.vino_tiny import VINO_TINY

AUTO, LAST = {"size": "auto"}, {"size": "last image"}
CUSTOM = {"size": "custom", "width": 96, "height": 64}
TINY = SimpleNamespace(tokenizer=SimpleNamespace(vino_system="vino-tiny"))
"""As much of a text encoder of vino-tiny as says what it is."""


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


def system(name: str = "vino-tiny") -> Any:
    return pack("vino_core.systems").get_system(name)


def picture(width: int = 96, height: int = 64) -> torch.Tensor:
    return torch.full((1, height, width, 3), 0.5)


def references(size: dict[str, Any], length: int = 1, **options: Any) -> tuple[Any, int, int, int]:
    return nodes().VINOReferences.execute(size, length, **options).args


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reference text encoder in a file that says vino-tiny."""
    path = tmp_path_factory.mktemp("tiny") / "text_encoder.safetensors"
    tensors, metadata = reference_text_encoder(GOLDENS)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {**metadata, "system": "vino-tiny"})
    nodes()
    return pack("nodes.comfy.text_encoder").load_text_encoder(str(path))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model in a file that says vino-tiny."""
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    tensors, metadata = reference_weights(GOLDENS)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {**metadata, "system": "vino-tiny"})
    return path


def conditioning(clip: Any, refs: Any, name: str, prompt: str = "x") -> list[Any]:
    """The three branches that the nodes make with the tokens of the system `name`."""
    with torch.inference_mode():
        context = nodes().VINOEncoder.execute(clip, refs, prompt, {"negative": "auto"}, False, 1.0)[0]
        return list(nodes().VINOLearnableTokens.execute(clip, context, learnable_tokens(system=name)).args)


@pytest.mark.parametrize(
    ("size", "length", "images", "expected"),
    [(AUTO, 1, 0, (64, 64, 1)), (AUTO, 9, 2, (64, 64, 9)), (LAST, 9, 1, (80, 48, 9)), (CUSTOM, 1, 0, (96, 64, 1))],
)
def test_the_text_encoder_decides_sizes(size: dict, length: int, images: int, expected: tuple) -> None:
    slots = {f"image_{number + 1}": picture() for number in range(images)}
    prepared, *result = references(size, length, images=slots, clip=TINY)
    assert tuple(result) == expected
    for image in prepared.for_system(system()).images:
        assert tuple(image.pixels.shape) == (48, 80, 3)


def test_the_text_encoder_decides_how_many_frames_there_may_be() -> None:
    assert references(CUSTOM, 17, clip=TINY)[3] == 17
    with pytest.raises(error(), match="17"):
        references(CUSTOM, 21, clip=TINY)


def test_references_are_prepared_for_the_system_that_uses_them(tiny_clip: Any) -> None:
    """Without the wire to VINO References, while the size does not depend on it: as workflows had it before."""
    refs, *_ = references(CUSTOM, 1, images={"image_1": picture()})
    assert tuple(refs.for_system(system("vino")).images[0].pixels.shape) == (528, 784, 3)
    positive, *_ = conditioning(tiny_clip, refs, "vino-tiny")
    assert tuple(refs.for_system(system()).images[0].pixels.shape) == (48, 80, 3)
    (start, end), *_ = positive[0][1]["vino_boundaries"]
    squares = 2 * 2  # 48x80 pixels, resized for the text encoder to 64x64, which it sees in squares of 32
    assert end - start - 1 == squares


def test_a_size_that_another_system_chose_is_refused(tiny_clip: Any) -> None:
    refs, *_ = references(AUTO)
    with pytest.raises(error(), match="640x640, 1 frames, was chosen for vino, .* vino-tiny, which takes 64x64"):
        conditioning(tiny_clip, refs, "vino-tiny")


def test_prompt_and_negative_are_those_of_the_system(tiny_clip: Any) -> None:
    refs, *_ = references(AUTO, clip=TINY)
    with torch.inference_mode():
        context = nodes().VINOEncoder.execute(tiny_clip, refs, "x", {"negative": "auto"}, False, 1.0)[0]
    engine = pack("nodes.comfy.vlm").ComfyVLM(tiny_clip)
    positive, negative = (context.branches[branch].prompt.plan.ids for branch in context.branches)
    start = engine.tokenize("system\n" + VINO_TINY.prompt.system)
    assert list(positive[1 : 1 + len(start)]) == start
    assert len(negative) == len(positive) - 1, "the negative prompt is empty"


def test_a_preset_is_that_of_the_system() -> None:
    assert nodes().VINOPreset.execute("ti2v").args == (81, 50, 7.0, 7.0, 3.0, "")
    tiny = VINO_TINY.presets["ti2v"]
    assert nodes().VINOPreset.execute("ti2v", TINY).args == (
        tiny.frames,
        tiny.steps,
        tiny.shift,
        tiny.text_scale,
        tiny.image_scale,
        tiny.negative,
    )


def test_tokens_of_another_system_are_refused(tiny_clip: Any) -> None:
    with pytest.raises(error(), match="tokens: made for vino, but the text encoder belongs to vino-tiny"):
        conditioning(tiny_clip, references(AUTO, clip=TINY)[0], "vino")


def test_a_context_of_another_text_encoder_is_refused(tiny_clip: Any) -> None:
    refs = references(CUSTOM)[0]
    with torch.inference_mode():
        context = nodes().VINOEncoder.execute(comfy_runs.clip(), refs, "x", {"negative": "none"}, False, 1.0)[0]
        with pytest.raises(error(), match="context: made for vino, but the text encoder belongs to vino-tiny"):
            nodes().VINOLearnableTokens.execute(tiny_clip, context, learnable_tokens(system="vino-tiny"))


def test_tokens_know_their_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes()
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(tmp_path / name))
    save_tokens(tmp_path / "tiny.safetensors", torch.zeros(8, 64), "vino-tiny")
    save_file({"metaquery": torch.zeros(8, 64)}, tmp_path / "later.safetensors", tokens_metadata("vino-9"))
    assert nodes().VINOTokensLoader.execute("tiny.safetensors")[0].system.name == "vino-tiny"
    with pytest.raises(error(), match=r"later\.safetensors: made for the system 'vino-9'.*Known systems: vino,"):
        nodes().VINOTokensLoader.execute("later.safetensors")
    reference = comfy_runs.model_file().parents[1] / TOKENS
    (tmp_path / "reference.safetensors").symlink_to(reference)
    assert nodes().VINOTokensLoader.execute("reference.safetensors")[0].system.name == "vino"


def sampled(model: Any, branches: list[Any]) -> torch.Tensor:
    latent = nodes().VINOEmptyLatent.execute(64, 64, 1, 1)[0]
    with torch.inference_mode():
        return nodes().VINOSampler.execute(model, *branches[:2], latent, 0, 1, 2.0, 2.0, 1.0, 1.0)[0]["samples"]


def test_the_models_file_decides_its_system(tiny_model: Path, tiny_clip: Any, tmp_path: Path) -> None:
    """Also in a file that ComfyUI's own node saved, whose metadata is not ours."""
    nodes()
    import comfy.sd

    model = comfy.sd.load_diffusion_model(str(tiny_model))
    assert model.model.diffusion_model.system.name == "vino-tiny"
    assert model.model.model_sampling.shift == VINO_TINY.presets["t2v"].shift
    comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model, metadata={})
    saved = comfy.sd.load_diffusion_model(str(tmp_path / "saved.safetensors"))
    assert saved.model.diffusion_model.system.name == "vino-tiny"

    branches = conditioning(tiny_clip, references(AUTO, clip=TINY)[0], "vino-tiny")
    assert torch.equal(sampled(model, branches), sampled(saved, branches))
    headless, name = load_mmdit(tmp_path / "saved.safetensors")
    assert name == "vino-tiny" == made_for(tmp_path / "saved.safetensors").name
    assert headless.config.to_json() == model.model.diffusion_model.config.to_json()


def test_a_model_of_another_system_is_refused(tiny_clip: Any) -> None:
    assert MODEL in str(comfy_runs.model_file())
    branches = conditioning(tiny_clip, references(AUTO, clip=TINY)[0], "vino-tiny")
    with pytest.raises(error(), match="conditioning: made for vino-tiny, but the model belongs to vino"):
        sampled(comfy_runs.model(), branches)


def test_branches_of_two_systems_are_refused(tiny_clip: Any) -> None:
    refs = given_references(pack("vino_core.media.references").References(), 96, 64, 1)
    tiny, full = conditioning(tiny_clip, refs, "vino-tiny"), conditioning(comfy_runs.clip(), refs, "vino")
    with pytest.raises(error(), match="negative: made for vino, but positive belongs to vino-tiny"):
        nodes().VINOReferenceLatents.execute(tiny[0], full[1], tiny[2], None, refs)
    with pytest.raises(error(), match="positive: it does not come from VINO Learnable Tokens"):
        nodes().VINOReferenceLatents.execute([[torch.zeros(1, 2, 64), {}]], tiny[1], tiny[2], None, refs)
