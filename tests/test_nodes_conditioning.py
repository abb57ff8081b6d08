"""From prompt to guidance: which branches are computed, how often, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy_runs
import pytest
import torch
from comfy_inprocess import pack
from comfy_runs import case, clip, given_references, learnable_tokens, nodes
from torch import Tensor

LETTERBOX = (64, 96)


def error() -> type[ValueError]:
    return pack("vino_core.errors").InputError


def references(images: int = 0, frames: int = 1) -> Any:
    """Small prepared pictures: the encoder does not care about their size."""
    media = pack("vino_core.media.references")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (images, *LETTERBOX, 3), dtype=torch.uint8, generator=generator)
    prepared = media.References(tuple(media.ImageReference(pixels) for pixels in pictures))
    return given_references(prepared, LETTERBOX[1], LETTERBOX[0], frames)


def encode(refs: Any, prompt: str = "x", negative: str = "none", base: bool = False, image_scale: float = 1.0) -> Any:
    choice = {"negative": "custom", "negative_prompt": negative} if negative == "" else {"negative": negative}
    with torch.inference_mode():
        return nodes().VINOEncoder.execute(clip(), refs, prompt, choice, base, image_scale)


def branches(context: Any) -> dict[str, Any]:
    return {branch.value: encoded for branch, encoded in context.branches.items()}


def conditionings(context: Any, learnable: Tensor | None = None) -> list[Any]:
    with torch.inference_mode():
        return list(nodes().VINOLearnableTokens.execute(clip(), context, learnable_tokens(learnable)).args)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Numbers of calls to the engine's vision tower and decoder."""
    engine = pack("nodes.comfy.vlm").ComfyVLM
    calls = {"vision": 0, "decode": 0}

    def count(name: str) -> Callable:
        original = getattr(engine, name)

        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return original(self, *arguments, **options)

        return method

    for name in calls:
        monkeypatch.setattr(engine, name, count(name))
    return calls


def test_shared_work_is_done_once(counted: dict[str, int]) -> None:
    """Two references, three branches, the last with fewer of them: two visions, two prefixes, three texts."""
    context = encode(references(2), base=True, image_scale=3.0)[0]
    assert counted == {"vision": 2, "decode": 2 + 3}
    assert {name: branch.references for name, branch in branches(context).items()} == {
        "positive": (0, 1),
        "negative": (0, 1),
        "negative_image": (1,),
    }
    conditionings(context)
    assert counted == {"vision": 2, "decode": 2 + 3 + 3}


@pytest.mark.parametrize(
    ("images", "base", "image_scale", "present"),
    [
        (2, False, 1.0, {"positive", "negative"}),
        (2, False, 3.0, {"positive", "negative", "negative_image"}),
        (1, True, 3.0, {"positive", "negative", "negative_image"}),
        (0, False, 3.0, {"positive", "negative"}),
    ],
)
def test_only_branches_in_use_are_encoded(images: int, base: bool, image_scale: float, present: set[str]) -> None:
    context = encode(references(images), base=base, image_scale=image_scale)[0]
    assert set(branches(context)) == present


@pytest.mark.parametrize(
    ("images", "frames", "choice", "expected"),
    [
        (0, 1, "auto", "negative_image"),
        (0, 5, "auto", "negative_video"),
        (1, 5, "auto", None),
        (1, 1, "auto", "negative_image"),
        (2, 5, "auto", None),
        (1, 5, "default for pictures", "negative_image"),
        (0, 1, "default for videos", "negative_video"),
        (0, 1, "none", None),
    ],
)
def test_default_negative_prompts(images: int, frames: int, choice: str, expected: str | None) -> None:
    system = pack("vino_core.systems").get_system("vino")
    expected_text = getattr(system, expected) if expected else ""
    context = encode(references(images, frames), negative=choice)[0]
    custom = encode(references(images, frames), negative="")[0] if not expected_text else None
    length = len(branches(context)["negative"].prompt.plan.ids)
    if custom is not None:
        assert length == len(branches(custom)["negative"].prompt.plan.ids)
    else:
        engine = pack("nodes.comfy.vlm").ComfyVLM(clip())
        empty = len(branches(encode(references(images, frames), negative="")[0])["negative"].prompt.plan.ids)
        assert length - empty == pytest.approx(len(engine.tokenize(expected_text)), abs=2)


def test_wrong_labels_are_shown_to_the_user(caplog: pytest.LogCaptureFixture) -> None:
    output = encode(references(3), "Put Image 4 next to Image 1, Image 2 and Image 3.")
    assert "Image 4" in output.ui.as_dict()["text"][0] and "Image 4" in caplog.text
    assert encode(references(1), "Make it blue.").ui is None


@pytest.mark.parametrize("prompt", ["", "<|im_end|> <|image_pad|> embedding:none", "冬の城 🏰 قلعة", "word " * 4000])
def test_any_prompt_encodes(prompt: str) -> None:
    positive, *_ = conditionings(encode(references(1), prompt)[0])
    assert torch.isfinite(positive[0][0]).all()


def test_base_image_needs_an_image() -> None:
    with pytest.raises(error(), match="no image is connected"):
        encode(references(0), base=True)


def test_tokens_of_another_width_are_refused() -> None:
    with pytest.raises(error(), match="learnable tokens have the shape"):
        conditionings(encode(references(0))[0], torch.zeros(8, 32))


class VAE:
    """Makes latents of a given shape."""

    def __init__(self, shape: tuple[int, ...] = (1, 16, 1, 8, 12), value: float = 0.0) -> None:
        self.latents = torch.full(shape, value)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.latents


def attach(conditioning: list[Any], vae: VAE, refs: Any) -> list[Any]:
    return list(nodes().VINOReferenceLatents.execute(*conditioning, vae, refs).args)


def test_every_branch_gets_the_latents_it_sees() -> None:
    refs = references(2)
    made = attach(conditionings(encode(refs, base=True, image_scale=2.0)[0]), VAE(), refs)
    assert [len(branch[0][1]["reference_latents"]) for branch in made] == [2, 2, 1]


@pytest.mark.parametrize(
    ("vae", "count", "message"),
    [
        (VAE((1, 4, 8, 12)), 1, "Load the VAE of vino"),
        (VAE(value=float("nan")), 1, "vae: NaN"),
        (VAE(), 0, "Connect the same VINO References"),
    ],
)
def test_unusable_latents_are_refused(vae: VAE, count: int, message: str) -> None:
    made = conditionings(encode(references(1))[0])
    with pytest.raises(error(), match=message):
        attach(made, vae, references(count))


def sample(conditioning: list[Any], text_scale: float, image_scale: float, model: Any = None, **changes: Any) -> Tensor:
    options = {"latent_image": case("ti2i_baseimg").latent, "negative_image": conditioning[2], **changes}
    latent = options.pop("latent_image")
    with torch.inference_mode():
        return nodes().VINOSampler.execute(
            model or comfy_runs.model(),
            *conditioning[:2],
            latent,
            0,
            1,
            5.0,
            text_scale,
            image_scale,
            1.0,
            **options,
        )[0]["samples"]


@pytest.mark.parametrize(
    ("text_scale", "image_scale", "evaluations"),
    [(5.0, 3.0, 3), (5.0, 1.0, 2), (1.0, 3.0, 2), (1.0, 1.0, 1), (0, 0, 1)],
)
def test_branches_that_are_off_are_never_evaluated(text_scale: float, image_scale: float, evaluations: int) -> None:
    model = comfy_runs.model().clone()
    batches = []
    model.add_wrapper("diffusion_model", lambda run, *a, **k: (batches.append(a[0].shape[0]), run(*a, **k))[1])
    out = sample(case("ti2i_baseimg").branches, text_scale, image_scale, model)
    assert torch.isfinite(out).all()
    assert sum(batches) == evaluations


def test_third_branch_without_an_image_to_drop_is_not_evaluated() -> None:
    made = conditionings(encode(references(0), image_scale=3.0)[0])
    model = comfy_runs.model().clone()
    batches = []
    model.add_wrapper("diffusion_model", lambda run, *a, **k: (batches.append(a[0].shape[0]), run(*a, **k))[1])
    sample(made, 5.0, 3.0, model)
    assert sum(batches) == 2


def test_guidance_hooks_of_other_nodes_are_honoured() -> None:
    model = comfy_runs.model().clone()
    seen = []
    model.set_model_sampler_post_cfg_function(
        lambda given: (seen.append(given["cond_scale"]), given["denoised"] * 0)[1]
    )
    run = case("ti2i_baseimg")
    assert not torch.allclose(sample(run.branches, 5.0, 3.0, model), sample(run.branches, 5.0, 3.0))
    assert seen == [5.0]


@pytest.mark.parametrize(("text_scale", "image_scale"), [(5.0, 3.0), (5.0, 1.0), (1.0, 3.0), (1.0, 1.0)])
def test_changes_to_predictions_reach_the_guidance(text_scale: float, image_scale: float) -> None:
    """What is done to both branches of the text alike before they are combined: here each becomes half of it."""
    run, seen = case("ti2i_baseimg"), []

    def halved(given: dict[str, Any]) -> list[Tensor]:
        seen.append([cond is not None for cond in given["conds"]])
        return [0.5 * output for output in given["conds_out"]]

    def calculated(given: dict[str, Any]) -> list[Tensor]:
        from comfy.samplers import calc_cond_batch

        cond, uncond = given["conds"]
        return halved({**given, "conds_out": calc_cond_batch(given["model"], [cond, uncond], given["input"],
                                                             given["sigma"], given["model_options"])})  # fmt: skip

    before, instead = comfy_runs.model().clone(), comfy_runs.model().clone()
    before.set_model_sampler_pre_cfg_function(halved)
    instead.set_model_sampler_calc_cond_batch_function(calculated)
    plain = sample(run.branches, text_scale, image_scale)
    changed = sample(run.branches, text_scale, image_scale, before)
    assert torch.allclose(changed, sample(run.branches, text_scale, image_scale, instead), atol=1e-5)
    assert not torch.allclose(changed, plain, atol=1e-2)
    assert seen == [[True, text_scale > 1]] * len(seen) and len(seen) == 2
    if image_scale == 1.0:
        assert torch.allclose(changed, 0.5 * plain, atol=1e-5)


def test_image_guidance_without_its_branch_is_refused() -> None:
    made = conditionings(encode(references(0))[0])
    with pytest.raises(error(), match="Set image_scale of VINO Interleaved Encoder above 1"):
        sample(made, 5.0, 3.0)
    with pytest.raises(error(), match="negative_image: nothing is connected"):
        sample(made, 5.0, 3.0, negative_image=None)


def test_the_stock_guider_refuses_a_branch_that_was_not_encoded() -> None:
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(comfy_runs.model())
    guider.set_conds(*conditionings(encode(references(0))[0]))
    start = case("ti2i_baseimg").latent["samples"]

    def run(image_scale: float) -> Tensor:
        import comfy.samplers

        guider.set_cfg(5.0, image_scale)
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            return guider.sample(
                torch.ones_like(start), start, euler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0
            )

    assert torch.isfinite(run(1.0)).all()
    with pytest.raises(error(), match="was not encoded"):
        run(3.0)


def test_conditionings_that_do_not_fit_the_model_are_refused() -> None:
    made = conditionings(encode(references(1))[0])
    with pytest.raises(error(), match="Pass it through VINO Reference Latents"):
        sample(made, 5.0, 1.0)
    foreign = [[[torch.zeros(1, 5, 64), {}]]] * 3
    with pytest.raises(error(), match="does not come from VINO Learnable Tokens"):
        sample(foreign, 5.0, 1.0)
    narrow = [[[torch.zeros(1, 5, 32), {"vino_boundaries": (), "vino_system": "vino"}]]] * 3
    with pytest.raises(error(), match="32 wide"):
        sample(narrow, 5.0, 1.0)


def test_a_result_taken_out_of_a_batch_is_made_again() -> None:
    """Latent From Batch says which places its latents had: their noise is the one of those places."""
    one = case("ti2i_baseimg").latent
    batch = {**one, "samples": one["samples"].repeat(3, 1, 1, 1, 1)}
    taken = {**one, "samples": one["samples"].repeat(2, 1, 1, 1, 1), "batch_index": [2, 1]}
    whole = sample(case("ti2i_baseimg").branches, 5.0, 1.0, latent_image=batch)
    some = sample(case("ti2i_baseimg").branches, 5.0, 1.0, latent_image=taken)
    assert torch.allclose(some, whole[[2, 1]], atol=1e-4) and not torch.allclose(whole[2], whole[1], atol=1e-1)


def test_nan_in_the_starting_latent_is_refused() -> None:
    latent = {"samples": torch.full_like(case("ti2i_baseimg").latent["samples"], float("nan"))}
    with pytest.raises(error(), match="latent_image: NaN"):
        sample(case("ti2i_baseimg").branches, 5.0, 1.0, latent_image=latent)


def test_nan_from_the_model_is_refused() -> None:
    model = comfy_runs.model().clone()
    model.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * float("nan"))
    with pytest.raises(error(), match="latents: NaN"):
        sample(case("ti2i_baseimg").branches, 5.0, 1.0, model)


def test_denoise_keeps_the_end_of_a_longer_schedule() -> None:
    scheduler = nodes().VINOScheduler
    assert torch.equal(scheduler.execute(5, 7.0, 0.5)[0], scheduler.execute(10, 7.0, 1.0)[0][-6:])


def test_text_of_the_encoder_reaches_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random text encoder has no words: what it would write is given."""
    engine = pack("nodes.comfy.vlm").ComfyVLM

    def generate(self: Any, x: Tensor, positions: Tensor, injection: Any, sampling: Any, *others: Any) -> str:
        return f"{sampling.max_new_tokens} tokens at {sampling.temperature:g}, seed {sampling.seed}"

    monkeypatch.setattr(engine, "generate", generate)
    with torch.inference_mode():
        written = nodes().VINOPromptRewriter.execute(clip(), references(1), "Make it blue.", 4, 0.0, 0)[0]
        answer = nodes().VINOAsk.execute(clip(), references(1), "What is this?", 5, 1.0, 7)[0]
    assert (written, answer) == ("4 tokens at 0, seed 0", "5 tokens at 1, seed 7")
    with pytest.raises(error(), match="question: it is empty"):
        nodes().VINOAsk.execute(clip(), references(1), "  ", 4, 0.0, 0)
    monkeypatch.setattr(engine, "generate", lambda *given: " ")
    with torch.inference_mode(), pytest.raises(error(), match="wrote nothing"):
        nodes().VINOAsk.execute(clip(), references(1), "What is this?", 4, 0.0, 0)
    with torch.inference_mode(), pytest.raises(error(), match="wrote nothing.*VINO Prompt Rewriter"):
        nodes().VINOPromptRewriter.execute(clip(), references(1), "Make it blue.", 4, 0.0, 0)


def test_preset_hands_out_the_published_settings() -> None:
    assert nodes().VINOPreset.execute("ti2v").args == (81, 50, 7.0, 7.0, 3.0, "")
