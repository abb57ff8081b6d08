"""VOGUE in the training loop: what its tasks give to the networks, and the shipped stages at miniature size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paths import ROOT
from training_runs import (  # noqa: F401
    FRESH,
    Numbers,
    Stopped,
    config,
    exact,
    frozen,
    one_thread,
    parts,
    sources,
    stop_at,
    tasks,
    train,
)

from vino_core.checkpoints.files import check_variant, load_mmdit, load_tokens, save_tokens
from vino_core.errors import InputError
from vino_core.media.references import References
from vino_core.pipeline import Pipeline
from vino_core.request import Request
from vino_core.sampling.guidance import Branch
from vino_core.systems.vino_tiny import VINO_TINY
from vino_core.systems.vogue import VOGUE
from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.batches import generate_batch
from vino_core.training.conditioning import encode_samples
from vino_core.training.config import Files, Fresh, Parallel, Save, Watch, load_config
from vino_core.training.data.latents import cache_folder, cache_settings
from vino_core.training.dropout import Dropped
from vino_core.training.encoded import encode_examples
from vino_core.training.example import PreparedLatents
from vino_core.training.fitting import fitted
from vino_core.training.loop import Trainer, build_network
from vino_core.training.metrics import read_record
from vino_core.training.prepare import prepare
from vino_core.training.stages import check_stage, check_tasks
from vino_core.training.team import Team

TASKS = ("t2i", "t2v", "i2v", "ti2i", "ti2i_baseimg", "ti2v", "tv2v", "tiv2v")
VARIANTS = {"hidden": 0, "queries": 4}
QUERIES = {"train": ("connectors", "tokens"), "tokens": 4}


def run_of(out: Path, *names: str, **changes):
    trained = ["connectors", "mmdit", *(["tokens"] if changes.get("tokens") else [])]
    return config(out, system="vogue", **{"tokens": 0, "train": trained, "data": {"tasks": tasks(*names)}, **changes})


@pytest.mark.parametrize(
    ("task", "before", "target", "after", "named"),
    [
        ("t2i", 0, 1, 0, "t2i"),
        ("t2v", 0, 2, 0, "t2v"),
        ("i2v", 1, 1, 0, "i2v"),
        ("ti2i", 0, 1, 1, "i2i_edit"),
        ("ti2i_baseimg", 1, 1, 1, "i+i2i_edit"),
        ("ti2v", 2, 2, 0, "multiid"),
        ("tv2v", 0, 2, 1, "v2v_edit"),
        ("tiv2v", 1, 2, 1, "i+v2v_edit"),
    ],
)
def test_each_task_has_its_places(tmp_path: Path, task: str, before: int, target: int, after: int, named: str) -> None:
    run = run_of(tmp_path, task)
    made = parts(run)
    example = Numbers(task).example(3)
    sample = prepare(example, Dropped(), run.data, made.system)
    (group,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
    assert (len(group.references), group.target.shape[2], len(group.conditions)) == (before, target, after)
    assert sample.text == VOGUE.presets[named].instruction + example.prompt
    assert {latents.shape[3:] for latents in (*group.references, *group.conditions)} <= {group.target.shape[3:]}
    without = prepare(example, Dropped(text=True, images=True, videos=True), run.data, made.system)
    (bare,) = encode_samples(made.engine, made.vae, made.system, [without], "cpu")
    assert without.text == "" and not bare.references and not bare.conditions
    assert torch.equal(bare.target, group.target), "what is learned does not depend on what is seen"


def test_what_is_learned_of_a_first_frame_is_what_follows_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, "i2v")
    made = parts(run)
    sample = prepare(Numbers("i2v").example(0), Dropped(), run.data, made.system)
    (group,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
    assert torch.equal(group.target, made.vae.encode(sample.target)[:, :, 1:])
    assert torch.equal(group.references[0], made.vae.encode(sample.references.packed[0]))


def test_references_lie_on_a_canvas_and_conditions_are_cut_like_the_target(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ti2i_baseimg")
    example = Numbers("ti2i_baseimg", size=64).example(1)
    wide = torch.randint(0, 256, (20, 60, 3), dtype=torch.uint8)
    example = replace(example, images=(wide, example.target[0]))
    sample = prepare(example, Dropped(), run.data, parts(run).system)
    reference, condition = sample.references.images
    assert tuple(reference.pixels.shape) == (60, 60, 3), "the VLM sees the square at its own size"
    assert tuple(reference.packed.shape) == tuple(sample.target.shape[1:]) == (32, 32, 3)
    assert (reference.packed[0] == 255).all()
    assert torch.equal(condition.pixels, sample.target[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", TASKS)
def test_training_and_inference_give_the_same_to_the_model(tmp_path: Path, task: str, variant: str) -> None:
    run = run_of(tmp_path, task, tokens=VARIANTS[variant])
    made = parts(run)
    network = build_network(run, made)
    pipeline = Pipeline(made.system, made.engine, made.tokens, made.mmdit, made.vae)
    example = Numbers(task).example(2)
    sample = prepare(example, Dropped(), run.data, made.system)
    frames, height, width, _ = sample.target.shape
    name = made.system.trained_as(task, len(example.images))
    request = Request(
        example.prompt, width, height, frames, "", 2.0, 3.0, 1, sample.references, 2.0,
        base_image=example.base_image, task=name,
    )  # fmt: skip
    request.validate(made.system)
    with torch.no_grad():
        asked = pipeline.encode(request)
        for branch, dropped in ((Branch.POSITIVE, Dropped()), (Branch.NEGATIVE_IMAGE, Dropped(True, True, True))):
            if branch not in asked:
                continue
            seen = prepare(example, dropped, run.data, made.system)
            (group,) = encode_samples(made.engine, made.vae, made.system, [seen], "cpu")
            ours, theirs = network.conditioning(group), asked[branch]
            assert ours.boundaries is theirs.boundaries is None
            for one, other in (
                ((ours.text,), (theirs.text,)),
                (ours.references, theirs.references),
                (ours.conditions, theirs.conditions),
            ):
                assert len(one) == len(other)
                assert all((a - b).abs().max() < 1e-4 for a, b in zip(one, other, strict=True))


def test_texts_of_several_lengths_run_as_one_batch(tmp_path: Path) -> None:
    for variant, tokens in VARIANTS.items():
        run = run_of(tmp_path / variant, "ti2i", tokens=tokens)
        made = parts(run)
        network = build_network(run, made)
        examples = [replace(Numbers("ti2i").example(0), prompt=text) for text in ("red", "a red fox in the snow")]
        samples = [prepare(example, Dropped(), run.data, made.system) for example in examples]
        (both,) = encode_samples(made.engine, made.vae, made.system, samples, "cpu")
        noise, level = torch.randn(both.target.shape), torch.tensor([0.3, 0.8])
        with torch.no_grad():
            together = network([both], [noise], [level])[0]
            for number, sample in enumerate(samples):
                (alone,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
                here = slice(number, number + 1)
                single = network([alone], [noise[here]], [level[here]])[0]
                assert (single - together[here]).abs().max() < 1e-4


def test_the_scalars_of_the_model_are_those_of_the_system(tmp_path: Path) -> None:
    run = run_of(tmp_path, "t2i")
    network = build_network(run, parts(run))
    level = torch.tensor([0.30078125])
    assert network.timestep(level).item() == 300.78125
    with torch.autocast("cpu", torch.bfloat16):
        assert network.timestep(level).item() == 300.0, "as the published model was trained"
    assert network.system.guidance_input == 6000


def shipped(stage: int, out: Path, **changes):
    """A shipped stage on the miniature: everything of it but sizes, files and where the data is."""
    run = load_config(ROOT / "configs" / f"vogue_stage{stage}.yaml")
    check_tasks(run, VOGUE)
    check_stage(run, {} if stage == 1 else {"stage": str(stage - 1)})
    mixture = {name: replace(task, source="toy", path=None, validation=None) for name, task in run.data.tasks.items()}
    fresh = Fresh(**{**FRESH, "rope_axes": tuple(FRESH["rope_axes"])})
    base = replace(
        run, out=str(out), steps=14, any_order=True, files=Files("-", "-"), fresh=fresh,
        optimizer=replace(run.optimizer, warmup=4),
        data=replace(
            run.data, tasks=mixture, area=1024, smallest_area=512, frames=min(5, run.data.frames), workers=0,
            max_tokens=None,
        ),
        parallel=Parallel(dtype="float32", checkpointing=True, device="cpu", timeout=60),
        save=Save(every=5, keep=2), watch=Watch(tensorboard=False, progress=False, peak_tflops=1.0),
    )  # fmt: skip
    return replace(base, **changes)


STAGES = [(1, {}), (1, QUERIES), (2, {}), (3, {}), (3, {"train": ("connectors", "tokens", "mmdit"), "tokens": 4})]


@pytest.mark.parametrize(("stage", "changes"), STAGES)
def test_a_shipped_stage_trains_goes_on_exactly_and_exports(tmp_path: Path, stage: int, changes: dict) -> None:
    run = shipped(stage, tmp_path / "whole", **changes)
    with Team(run.parallel) as team:
        trainer = Trainer(run, parts(run), sources(run), team)
        before = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
        vlm = {name: tensor.clone() for name, tensor in frozen("vogue")[0].model.named_parameters()}
        trainer.train()
    rows = read_record(tmp_path / "whole")
    assert len(rows) == run.steps and all(0 < row["loss"] < 1e3 for row in rows)
    assert len({row["task"] for row in rows}) > 1
    changed: dict[str, set[bool]] = {}
    for name, tensor in trainer.network.named_parameters():
        changed.setdefault(trainer.module_parts[name], set()).add(not torch.equal(tensor, before[name]))
    assert {part for part, moved in changed.items() if moved == {True}} == set(run.train)
    assert all(moved == {False} for part, moved in changed.items() if part not in run.train)
    assert all(torch.equal(tensor, vlm[name]) for name, tensor in frozen("vogue")[0].model.named_parameters())

    stopped = replace(run, out=str(tmp_path / "stopped"))
    with pytest.raises(Stopped):
        train(stopped, stop_at(7))
    assert exact(train(stopped)) == exact(rows)
    _sample(tmp_path / "whole" / "export", run)


def _sample(folder: Path, run) -> None:
    """What the run exported makes pictures in the pipeline, and no other variant's files do."""
    model, system = load_mmdit(folder / "model.safetensors")
    assert system == "vogue"
    tokens = load_tokens(folder / "tokens.safetensors") if run.tokens else None
    check_variant(folder / "model.safetensors", tokens)
    with pytest.raises(InputError, match="variant"):
        check_variant(folder / "model.safetensors", None if run.tokens else torch.zeros(6, 32))
    pipeline = Pipeline(VOGUE, frozen("vogue")[0], tokens, model.float(), frozen("vogue")[1])
    request = Request("a fox", 32, 32, 1, "", 2.0, 3.0, 2, References())
    assert tuple(pipeline.generate(request).shape) == (1, 32, 32, 3)


def test_a_clip_of_one_frame_is_one_where_the_stage_says_so(tmp_path: Path) -> None:
    run = shipped(1, tmp_path)
    sample = prepare(Numbers("t2v").example(0), Dropped(), run.data, VOGUE)
    assert len(sample.target) == 1 and sample.text.startswith("You will be given a video caption")


def test_the_config_says_how_many_frames_the_vlm_sees(tmp_path: Path) -> None:
    for wanted, seen in ((None, 2), (3, 3), (8, 5)):
        run = run_of(tmp_path, "tv2v", data={"tasks": tasks("tv2v"), "vlm_frames": wanted})
        sample = prepare(Numbers("tv2v").example(0), Dropped(), run.data, VOGUE)
        assert len(sample.references.videos[0].vlm_frames) == seen


def test_a_task_that_the_system_lacks_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, "t2i", "select_image", "tiv2v_clone")
    with pytest.raises(InputError, match="vogue has no task select_image, tiv2v_clone. It trains on t2i"):
        check_tasks(run, VOGUE)
    with pytest.raises(InputError, match="example select_image-0: vogue has no task select_image"):
        prepare(Numbers("select_image").example(0), Dropped(), run.data, VOGUE)
    check_tasks(replace(run, system="vino"), VINO_TINY)


def test_a_reference_clip_that_ends_early_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, "tv2v")
    example = Numbers("tv2v").example(0)
    with pytest.raises(InputError, match="reference clip has 3 frames, the target 5"):
        prepare(replace(example, videos=(example.videos[0][:3],)), Dropped(), run.data, VOGUE)


def test_the_longest_sequence_counts_what_is_packed(tmp_path: Path) -> None:
    def frames(task: str, images: int, videos: int, budget: int) -> int:
        data = {"tasks": tasks(task), "max_tokens": budget, "frames": 17}
        run = run_of(tmp_path, task, data=data)
        return fitted((17, 32, 32), [(32, 32)] * images, [17] * videos, False, task, run.data, VOGUE).frames

    # A frame of 32 x 32 pixels is 4 tokens, and nothing stands between references.
    assert (frames("t2v", 0, 0, 20), frames("t2v", 0, 0, 19)) == (17, 13)
    assert (frames("i2v", 1, 0, 20), frames("i2v", 1, 0, 19)) == (17, 13)
    assert (frames("tiv2v", 1, 1, 44), frames("tiv2v", 1, 1, 43)) == (17, 13)
    with pytest.raises(InputError, match="2 pictures"):  # they cannot be smaller than the target
        frames("ti2v", 2, 0, 11)


def test_a_clip_whose_first_frame_is_given_has_more_than_that(tmp_path: Path) -> None:
    def fit(length: int, **data: int) -> int:
        run = run_of(tmp_path, "i2v", data={"tasks": tasks("i2v"), **data})
        return fitted((length, 32, 32), [(32, 32)], [], False, "i2v", run.data, VOGUE).frames

    assert fit(17, frames=17, max_tokens=8) == 5  # 4 tokens each: what is given, and one more latent frame
    with pytest.raises(InputError, match="even for 5 frames"):
        fit(17, frames=17, max_tokens=7)
    for length, limit in ((1, 5), (17, 1)):
        with pytest.raises(InputError, match=r"1 frames leave nothing to learn.*data.tasks.i2v.frames 5 or more"):
            fit(length, frames=limit)


@pytest.mark.parametrize("task", ["i2v", "ti2i_baseimg", "tiv2v"])
def test_latents_made_beforehand_change_nothing(tmp_path: Path, task: str) -> None:
    run = run_of(tmp_path, task)
    made = parts(run)
    example = Numbers(task).example(4)
    whole = prepare(example, Dropped(), run.data, made.system)
    ready = PreparedLatents(
        made.vae.encode(whole.target)[0], tuple(made.vae.encode(pixels)[0] for pixels in whole.pixels)
    )
    again = replace(example, target=torch.empty(example.target.shape, dtype=torch.uint8, device="meta"), latents=ready)
    for dropped in (Dropped(), Dropped(images=True), Dropped(videos=True)):
        pair = [prepare(each, dropped, run.data, made.system) for each in (example, again)]
        groups = [encode_samples(made.engine, made.vae, made.system, [sample], "cpu")[0] for sample in pair]
        one, other = groups
        for a, b in zip(
            (one.prompt.states, one.target, *one.references, *one.conditions),
            (other.prompt.states, other.target, *other.references, *other.conditions),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_systems_have_caches_of_their_own(tmp_path: Path) -> None:
    vae = tmp_path / "vae.safetensors"
    vae.write_bytes(b"a")
    run = run_of(tmp_path, "ti2i", files={"vae": str(vae)})
    folders = {
        cache_folder(tmp_path, cache_settings(replace(run, system=system.name), "ti2i"))
        for system in (VOGUE, VOGUE_TINY, VINO_TINY)
    }
    assert len(folders) == 3


def test_examples_are_encoded_beforehand_with_their_places(tmp_path: Path) -> None:
    run = run_of(tmp_path, "i2v", "tiv2v", stage=None, train=[], lora={"rank": 2, "targets": ["linear1"]})
    made = parts(run)

    def text(sample):
        (group,) = encode_samples(made.engine, made.vae, made.system, [sample], "cpu")
        return group.prompt.plan, group.prompt.states

    found = encode_examples(run.data, sources(run, length=2), made.system, text, made.vae.encode, torch.float32)
    shapes = {
        (key[0], key[3]): (sample.target.shape[2], len(sample.references), len(sample.conditions))
        for key, sample in found.samples.items()
    }
    assert shapes == {
        ("i2v", (0,)): (1, 1, 0), ("i2v", ()): (1, 0, 0), ("tiv2v", (0, 1)): (2, 1, 1), ("tiv2v", (0,)): (2, 1, 0),
        ("tiv2v", (1,)): (2, 0, 1), ("tiv2v", ()): (2, 0, 0),
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["t2i", "i2v", "ti2i", "tiv2v"])
def test_many_requests_at_once_give_what_single_ones_give(tmp_path: Path, task: str, variant: str) -> None:
    run = run_of(tmp_path, task, tokens=VARIANTS[variant])
    made = parts(run)
    pipeline = Pipeline(made.system, made.engine, made.tokens, made.mmdit, made.vae)
    requests = []
    for number, prompt in enumerate(("red", "a green fox in the snow")):
        example = Numbers(task).example(number)
        sample = prepare(example, Dropped(), run.data, made.system)
        frames, height, width, _ = sample.target.shape
        name = made.system.trained_as(task, len(example.images))
        requests.append(
            Request(prompt, width, height, frames, "", 2.0, 3.0, 2, sample.references, 2.0, number, task=name)
        )
    for request, frames in zip(requests, generate_batch(pipeline, requests), strict=True):
        alone = pipeline.generate(request)
        assert frames.shape == alone.shape and (frames.int() - alone.int()).abs().max() <= 1


def test_a_stage_begins_from_another_systems_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vino_core.training import parts as module

    base = config(
        tmp_path / "base", stage=0, train=["mmdit", "plain_text"], tokens=None, steps=1, data={"tasks": tasks("t2i")}
    )
    train(base)
    engine, vae = frozen("vogue")
    monkeypatch.setattr(module, "load_engine", lambda *given: engine)
    monkeypatch.setattr(module.VAE, "load", lambda *given: vae)
    files = {"text_encoder": "-", "vae": "-", "base": str(tmp_path / "base/export/model.safetensors")}
    changes = {"stage": 1, "any_order": False, "train": ["connectors"], "fresh": None, "files": files}
    made = module.load_parts(run_of(tmp_path / "next", "t2i", **changes), "cpu")
    old, _ = load_mmdit(files["base"])
    state = made.mmdit.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in old.state_dict().items() if "connector" not in name)
    (connector,) = made.mmdit.config.connectors
    assert (connector.name, connector.in_features, connector.inner_features) == ("qwen_project_in", 32, 128)

    later = config(tmp_path / "later", steps=1, data={"tasks": tasks("t2i")})
    train(later)
    files["base"] = str(tmp_path / "later/export/model.safetensors")
    with pytest.raises(InputError, match="the result of stage 2, not a text-to-video base"):
        module.load_parts(run_of(tmp_path / "next", "t2i", **changes), "cpu")


@pytest.mark.parametrize("stage", [2, None])
def test_a_later_stage_takes_the_tokens_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int | None
) -> None:
    from vino_core.training import parts as module

    engine, vae = frozen("vogue")
    monkeypatch.setattr(module, "load_engine", lambda *given: engine)
    monkeypatch.setattr(module.VAE, "load", lambda *given: vae)
    for name, count in VARIANTS.items():
        trained = ["connectors", *(["tokens"] if count else [])]
        train(run_of(tmp_path / name, "t2i", stage=1, train=trained, tokens=count, steps=1))
    queries = str(tmp_path / "queries/export/tokens.safetensors")

    def load(variant: str, tokens: int | None, file: str | None = None):
        files = {"text_encoder": "-", "vae": "-", "model": str(tmp_path / variant / "export/model.safetensors")}
        changes = {"files": {**files, "tokens": file}, "fresh": None, "tokens": tokens, "any_order": False}
        if stage is None:
            changes |= {"train": [], "lora": {"rank": 2}}
        elif file or tokens:
            changes["train"] = ["connectors", "mmdit", "tokens"]
        return module.load_parts(run_of(tmp_path / "next", "t2i", stage=stage, **changes), "cpu")

    assert load("hidden", 0).tokens is None
    assert torch.equal(load("queries", None, queries).tokens, load_tokens(queries))
    with pytest.raises(InputError, match="no learnable tokens were given, and this model is the variant with 4"):
        load("queries", 0)
    with pytest.raises(InputError, match="files.tokens is not given: 6 fresh learnable tokens would replace"):
        load("queries", 4)
    with pytest.raises(InputError, match="4 learnable tokens were given, and this model is the variant without"):
        load("hidden", 4)
    with pytest.raises(InputError, match="4 learnable tokens were given, and this model is the variant without"):
        load("hidden", None, queries)


def test_queries_are_kept_with_their_marks(tmp_path: Path) -> None:
    made = parts(run_of(tmp_path, "t2i", tokens=4))
    assert made.system.learnable_tokens == 512 and len(made.tokens) == 6
    save_tokens(tmp_path / "tokens.safetensors", made.tokens, "vogue")
    assert torch.equal(load_tokens(tmp_path / "tokens.safetensors"), made.tokens)
