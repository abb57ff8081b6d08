"""Packing, rotary positions, attention and batches of the MMDiT, beyond what the reference numbers cover."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vino_core.config import ConnectorConfig, MMDiTConfig
from vino_core.errors import InputError
from vino_core.mmdit import attention
from vino_core.mmdit.attention import bfloat16_rows, bfloat16_scores, rotate, sdpa
from vino_core.mmdit.batch import mixed_velocity, stack
from vino_core.mmdit.blocks import timestep_embedding
from vino_core.mmdit.connectors import connect
from vino_core.mmdit.model import Conditioning, MMDiT
from vino_core.mmdit.packing import Layout, Segment, bounded_layout, pack, positions, rotary_table, small_tables
from vino_core.systems import get_system

CONFIG = MMDiTConfig(
    hidden_size=64,
    num_heads=2,
    depth=1,
    depth_single=1,
    depth_refiner=1,
    text_dim=48,
    rope_axes=(8, 12, 12),
    connectors=(ConnectorConfig("connector", 40, 48), ConnectorConfig("connector_vae_branch", 40, 64)),
)


@pytest.fixture(scope="module")
def model() -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(CONFIG).eval().requires_grad_(False)


def random_conditioning(text: int, *references: tuple[int, int, int], seed: int = 0) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        text=torch.randn(1, text, 48, generator=generator),
        boundaries=torch.randn(1, 2 * len(references), 64, generator=generator) if references else None,
        references=tuple(torch.randn(1, 16, *size, generator=generator) for size in references),
    )


def test_timestep_frequencies_are_the_same_bits_on_every_machine() -> None:
    """Python's own exp, correctly rounded, but for the one entry that the reference numbers have one bit higher."""
    exponents = [float(torch.tensor(-i / 128) * torch.tensor(math.log(10000.0))) for i in range(128)]
    expected = torch.tensor([math.exp(exponent) for exponent in exponents])
    expected[12] = torch.nextafter(expected[12], torch.tensor(1.0))
    sines = timestep_embedding(torch.tensor([2.0**-30]))[0, 128:]  # so small that an angle is its own sine
    assert torch.equal(sines * 2.0**30, expected)


def test_timeline_runs_through_references_and_ends_with_the_target() -> None:
    layout = bounded_layout([(1, 2, 3), (3, 1, 1)], (2, 2, 2))
    assert [(s.kind, s.start, s.tokens) for s in layout.segments] == [
        ("boundary", 0, 1),
        ("reference", 1, 6),
        ("boundary", 2, 1),
        ("boundary", 3, 1),
        ("reference", 4, 3),
        ("boundary", 7, 1),
        ("target", 8, 8),
    ]
    assert layout.target == slice(13, 21)
    assert positions(layout)[13].tolist() == [8, 0, 0]
    assert positions(layout)[-1].tolist() == [9, 1, 1]


def test_positions_stay_distinct_in_a_long_clip() -> None:
    layout = bounded_layout([(21, 30, 53)] * 3, (21, 30, 53))
    assert len(torch.unique(positions(layout), dim=0)) == layout.tokens


def test_rotary_table_leaves_text_alone_and_keeps_lengths() -> None:
    table = rotary_table(bounded_layout([], (1, 2, 2)), 3, (8, 12, 12), 256.0, torch.device("cpu"))
    assert torch.equal(table[:3], torch.ones(3, 16, dtype=torch.complex64))
    x = torch.randn(1, 2, 7, 32)
    assert torch.allclose(rotate(x, table).norm(dim=-1), x.norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("boundaries, references", [(1, 1), (2, 0), (3, 1)])
def test_pack_refuses_tokens_that_do_not_fill_the_layout(boundaries: int, references: int) -> None:
    layout = bounded_layout([(1, 1, 2)], (1, 1, 1))
    parts = [torch.zeros(1, 2, 4)] * references
    with pytest.raises(ValueError, match="packing"):
        pack(layout, torch.zeros(1, 1, 4), parts, torch.zeros(1, boundaries, 4))


def test_pack_accepts_any_order_of_segments() -> None:
    layout = Layout((Segment("target", 0, (1, 1, 1)), Segment("reference", 1, (1, 1, 2))))
    packed = pack(layout, torch.zeros(1, 1, 4), [torch.ones(1, 2, 4)])
    assert packed[0, :, 0].tolist() == [0, 1, 1]
    assert layout.target == slice(0, 1)


def test_batch_of_different_layouts_equals_single_samples(model: MMDiT) -> None:
    samples = [
        random_conditioning(9, (1, 4, 6), seed=1),
        random_conditioning(9, (1, 6, 4), (2, 4, 4), seed=2),
        random_conditioning(5, seed=3),
        random_conditioning(9, (1, 4, 6), seed=4),
    ]
    latents, timestep = torch.randn(4, 16, 2, 4, 4), torch.tensor([900.0, 500.0, 100.0, 10.0])
    guidance = torch.tensor([1000.0])
    together = mixed_velocity(model, latents, timestep, samples, guidance)
    for index, sample in enumerate(samples):
        alone = model(latents[index : index + 1], timestep[index : index + 1], sample, guidance)
        assert torch.allclose(together[index : index + 1], alone, atol=2e-6)


def test_equal_layouts_run_as_one_batch(model: MMDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = MMDiT.forward
    monkeypatch.setattr(MMDiT, "forward", lambda self, x, *rest: calls.append(len(x)) or forward(self, x, *rest))
    samples = [random_conditioning(9, (1, 4, 6), seed=seed) for seed in (1, 2)] + [random_conditioning(4)]
    mixed_velocity(model, torch.randn(3, 16, 1, 4, 4), torch.full((3,), 500.0), samples)
    assert calls == [2, 1]


def test_no_mask_reaches_attention_when_nothing_is_padded(model: MMDiT) -> None:
    masks = []

    def spy(q, k, v, mask=None):
        masks.append(mask)
        return fused(q, k, v, mask)

    model(torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0]), random_conditioning(5), attention=spy)
    assert len(masks) == 3 and masks == [None] * 3


def test_padding_touches_the_refiner_only(model: MMDiT) -> None:
    sample = random_conditioning(6, (1, 4, 4))
    padded = Conditioning(sample.text, sample.boundaries, sample.references, torch.tensor([[1, 1, 1, 1, 0, 0]]))
    masks = []

    def spy(q, k, v, mask=None):
        masks.append(mask is not None)
        return fused(q, k, v, mask)

    model(torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0]), padded, attention=spy)
    assert masks == [True, False, False]


def test_rotary_table_is_computed_once_per_layout(model: MMDiT) -> None:
    """Whatever the length of the text."""
    small_tables.cache_clear()
    for step in range(5):
        sample = random_conditioning(6 + step, (1, 4, 4))
        model(torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0 - step]), sample)
    assert small_tables.cache_info().misses == 1


def fused(q, k, v, mask=None):
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def test_bfloat16_rows_are_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 700, 64, generator=generator).bfloat16() for _ in range(3))
    q, k = q * 2, k + 1  # larger scores, and a common offset, as trained models have
    exact = fused(q.double(), k.double(), v.double())
    error = (bfloat16_rows(q, k, v, scores=700 * 300) - exact).pow(2).mean().sqrt()
    assert error < 0.01 * exact.std()


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_bfloat16_attention_is_fused_where_that_is_fast(
    amx: bool, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused: list[int] = []
    monkeypatch.setattr(attention, "_has_amx", lambda: amx)
    monkeypatch.setattr(
        attention,
        "scaled_dot_product_attention",
        lambda *given, **options: fused.append(1) or scaled_dot_product_attention(*given, **options),
    )
    q, k, v = torch.randn(3, 1, 2, 9, 8, dtype=torch.bfloat16)
    with torch.set_grad_enabled(learns):
        found = sdpa(q, k, v)
    expected = scaled_dot_product_attention(q.float(), k.float(), v.float()).transpose(1, 2).flatten(2)
    assert bool(fused) == (amx and not learns) and (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("padded", [False, True])
def test_bfloat16_scores_are_attention_and_its_gradients(padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(2, 3, 90, 32, generator=generator).bfloat16() for _ in range(4))
    mask = torch.arange(90) < torch.tensor([90, 60])[:, None]
    mask = mask[:, None, None] if padded else None
    found = []
    for attend, dtype in ((fused, torch.float64), (bfloat16_scores, torch.bfloat16)):
        parts = [x.to(dtype).requires_grad_() for x in (q * 2, k + 1, v)]
        out = attend(*parts, mask)
        (out.unflatten(-1, (3, 32)).transpose(1, 2) * weight.to(dtype)).sum().backward()
        found.append([x.detach().double() for x in (out, *(part.grad for part in parts))])
    for wanted, result in zip(*found, strict=True):
        assert (result - wanted).pow(2).mean().sqrt() < 0.015 * wanted.std()


@torch.no_grad()
def test_bfloat16_rows_do_not_change_the_error_of_a_bfloat16_model(model: MMDiT) -> None:
    sample = random_conditioning(40, (1, 16, 16), seed=5)
    half = Conditioning(sample.text.bfloat16(), sample.boundaries.bfloat16(), (sample.references[0].bfloat16(),))
    latents, timestep = torch.randn(1, 16, 2, 16, 16), torch.tensor([500.0])
    exact = model(latents, timestep, sample)
    small = copy.deepcopy(model).bfloat16()
    errors = [
        (small(latents.bfloat16(), timestep, half, attention=attention).float() - exact).pow(2).mean().sqrt()
        for attention in (fused, sdpa)
    ]
    assert errors[1] < 1.2 * errors[0]


def test_rows_that_nothing_reads_change_nothing(model: MMDiT) -> None:
    sample, latents, timestep = random_conditioning(6, (1, 4, 4)), torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0])
    lengths = []

    def every_row(kind, index, block, *arguments, **needed):
        return block(*arguments)

    def count(_, __, out):
        lengths.append(out.shape[1])

    hook = model.single_blocks[-1].register_forward_hook(count)
    everything = model(latents, timestep, sample, runner=every_row)
    needed = model(latents, timestep, sample)
    hook.remove()
    assert lengths == [6 + 6 + 8, 8]
    assert torch.allclose(needed, everything, atol=1e-6)


def test_inference_in_place_equals_training_out_of_place(model: MMDiT) -> None:
    sample, latents, timestep = (
        random_conditioning(6, (1, 4, 4)),
        torch.randn(2, 16, 2, 4, 4),
        torch.tensor([500.0, 9.0]),
    )
    sample = stack([sample, sample])
    with torch.enable_grad():
        training = model(latents, timestep, sample)
    with torch.no_grad():
        inference = model(latents, timestep, sample)
    assert torch.allclose(inference, training, atol=1e-6)


def test_sizes_that_do_not_divide_into_patches_are_named(model: MMDiT) -> None:
    with pytest.raises(InputError, match=r"\(1, 5, 4\).*multiples of 16"):
        model(torch.randn(1, 16, 1, 5, 4), torch.tensor([500.0]), random_conditioning(5))


def test_connectors_name_a_wrong_text_encoder(model: MMDiT) -> None:
    with pytest.raises(InputError, match="48 wide.*takes 40"):
        connect(model, get_system("vino"), torch.randn(1, 5, 48), [])


def test_boundary_connector_runs_on_boundary_rows_only(model: MMDiT) -> None:
    states, seen = torch.randn(1, 9, 40), []
    hook = model.connector_vae_branch.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].shape))
    connected = connect(model, get_system("vino"), states, [(1, 3), (4, 8)])
    hook.remove()
    assert seen == [(1, 4, 40)]
    assert torch.allclose(connected.boundaries, model.connector_vae_branch(states)[:, [1, 3, 4, 8]], atol=1e-6)


def test_stack_keeps_missing_parts_missing() -> None:
    both = stack([random_conditioning(3), random_conditioning(3, seed=1)])
    assert both.text.shape == (2, 3, 48) and both.boundaries is None and both.mask is None


def test_config_survives_json_and_refuses_nonsense() -> None:
    assert MMDiTConfig.from_json(CONFIG.to_json()) == CONFIG
    with pytest.raises(InputError, match="unknown fields.*colour"):
        MMDiTConfig.from_json('{"colour": 1}')
    with pytest.raises(InputError, match="rope_axes"):
        MMDiTConfig(hidden_size=64, num_heads=2, rope_axes=(8, 12, 10))
    with pytest.raises(InputError, match="not a multiple"):
        MMDiTConfig(hidden_size=65, num_heads=2)


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        full = MMDiT(get_system("vino").mmdit)
    count = sum(p.numel() for p in full.parameters())
    connectors = 109_074_944 + 69_223_936
    unused = 11_802_624  # the official file's embedder of a pooled text, never computed
    assert count - connectors == 12_821_012_544 - unused
