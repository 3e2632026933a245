"""Models: official sizes and costs, and the properties that training and measurement rely on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope.config import ModelSettings
from loopscope.latent import flatten, leaves, rows, tree_map, unflatten
from loopscope.models import ARCHITECTURES, RecursiveModel, build_model
from loopscope.models.layers import rms_norm
from loopscope.models.trm import cycles
from loopscope.tasks.base import Batch

CELLS = {"sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}
TRM = {"arch": "trm", "H_cycles": 3, "L_cycles": 6, "L_layers": 2, "puzzle_emb_len": 16}
OFFICIAL: dict[str, dict[str, Any]] = {
    "trm-mlp": {**TRM, "mlp_t": True, "pos_encodings": "none"},
    "trm-att": TRM,
    "trm-singlez": {**TRM, "arch": "trm-singlez"},
    "hrm": {"arch": "hrm", "H_cycles": 2, "L_cycles": 2, "H_layers": 4, "L_layers": 4},
    "transformer": {"arch": "transformer", "H_layers": 8, "num_heads": 12},
}
PARAMETERS = {  # published counts, trained numbers without the puzzle table
    "trm-mlp": {"sudoku": 5_028_866, "maze": 18_795_522, "arc": 18_801_666},
    "trm-att": {"sudoku": 6_828_034, "maze": 6_822_914, "arc": 6_829_058},
    "trm-singlez": {"sudoku": 6_828_034, "maze": 6_822_914, "arc": 6_829_058},
    "hrm": {"sudoku": 27_275_266, "maze": 27_270_146, "arc": 27_276_290},
    "transformer": {"sudoku": 27_144_194, "maze": 27_139_074, "arc": 27_145_218},
}
SMALL: dict[str, dict[str, Any]] = {
    "trm-mlp": {"arch": "trm", "H_cycles": 2, "L_cycles": 2, "mlp_t": True, "pos_encodings": "none"},
    "trm-att": {"arch": "trm", "H_cycles": 2, "L_cycles": 2},
    "trm-singlez": {"arch": "trm-singlez", "H_cycles": 2, "L_cycles": 2, "pos_encodings": "learned"},
    "hrm": {"arch": "hrm", "H_cycles": 2, "L_cycles": 2, "H_layers": 1},
    "transformer": {"arch": "transformer", "H_layers": 2},
}


def official(name: str, task: str) -> RecursiveModel:
    """The official model without memory for its weights."""
    cells, vocab = CELLS[task]
    sizes = {"seq_len": cells, "vocab_size": vocab, "hidden_size": 512, "puzzle_emb_ndim": 512}
    with torch.device("meta"):
        return build_model(ModelSettings(**sizes, **OFFICIAL[name]))


def small(name: str, **change: Any) -> RecursiveModel:
    """A model of a few thousand weights with 9 cells and one prefix slot."""
    sizes = {"seq_len": 9, "vocab_size": 5, "hidden_size": 12, "num_heads": 2, "L_layers": 1}
    table = {"puzzle_emb_ndim": 8, "num_puzzle_identifiers": 4}
    settings = ModelSettings(**{**sizes, **table, "forward_dtype": "float32", **SMALL[name], **change})
    model = build_model(settings, seed=0)
    generator = torch.Generator().manual_seed(7)
    model.puzzle_emb.weights.normal_(generator=generator)
    return model


def puzzles(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(1, 5, (count, 9), generator=generator)
    return Batch(inputs, torch.arange(count) % 4)


def state(model: RecursiveModel, ctx: Any, seed: int = 1) -> Any:
    """A latent away from the start, for every puzzle another."""
    generator = torch.Generator().manual_seed(seed)
    start = model.initial_state(ctx)
    return tree_map(
        lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype), start
    )


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# -- official sizes and costs


@pytest.mark.parametrize("task", CELLS)
@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_parameter_counts(kind: str, task: str) -> None:
    assert official(kind, task).num_parameters == PARAMETERS[kind][task]


@pytest.mark.parametrize(
    ("kind", "task", "change", "application", "segment"),
    [
        ("trm-mlp", "sudoku", {}, 1.221, 25.6),
        ("trm-att", "sudoku", {}, 1.361, 28.6),
        ("trm-att", "maze", {"L_cycles": 4}, 15.92, 239),
        ("hrm", "sudoku", {}, 2.291, 13.7),
        ("hrm", "maze", {}, 31.2, 187),
        ("transformer", "sudoku", {}, 4.56, 4.56),
    ],
)
def test_official_flops(
    monkeypatch: pytest.MonkeyPatch, kind: str, task: str, change: dict, application: float, segment: float
) -> None:
    monkeypatch.setitem(OFFICIAL, kind, OFFICIAL[kind] | change)
    model = official(kind, task)
    assert model.application_flops / 1e9 == pytest.approx(application, rel=2e-3)
    total = model.application_flops * model.applications_per_segment / 1e9
    assert total == pytest.approx(segment, rel=4e-3)


@torch.no_grad()
def test_flops_equal_what_torch_counts(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = small(name)
    ctx = model.encode(puzzles(3))
    z = model.initial_state(ctx)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.segment(z, ctx)
    assert counter.get_total_flops() == 3 * model.applications_per_segment * model.application_flops


def test_unequal_blocks_cost_their_mean() -> None:
    """H blocks of 3 layers and L blocks of 1, called 2 to 4: (2 * 3 + 4 * 1) / 6 of one layer."""
    one = small("hrm").application_flops
    assert small("hrm", H_layers=3).application_flops == pytest.approx(one * 10 / 6)


def test_official_schedules() -> None:
    trm = official("trm-mlp", "sudoku")
    assert (trm.applications_per_segment, trm.grad_tail) == (21, 7)
    assert trm.schedule == ("L", "L", "L", "L", "L", "L", "H") * 3
    hrm = official("hrm", "sudoku")
    assert (hrm.schedule, hrm.grad_tail) == (("L", "L", "H") * 2, 2)
    baseline = official("transformer", "sudoku")
    assert (baseline.schedule, baseline.grad_tail) == (("H",), 1)
    assert cycles(4, 3) == ("L", "L", "L", "L", "H") * 3


def test_baseline_has_twelve_heads_of_42() -> None:
    attention = official("transformer", "sudoku").H_level.layers[0].self_attn
    assert (attention.num_heads, attention.head_dim) == (12, 42)
    assert tuple(attention.qkv_proj.weight.shape) == (1512, 512)
    assert tuple(attention.o_proj.weight.shape) == (512, 504)


# -- the interface


@torch.no_grad()
def test_shapes_and_dtypes_of_the_interface(name: str) -> None:
    model = small(name)
    ctx = model.encode(puzzles())
    z = model.segment(model.initial_state(ctx), ctx)
    out = model.readout(z, ctx)
    assert ctx.x.shape == (4, 10, 12)
    assert [part.shape for part in leaves(z)] == [(4, 10, 12)] * len(model.state_names)
    assert (out.logits.shape, out.halt_logit.shape, out.continue_logit.shape) == ((4, 9, 5), (4,), (4,))
    assert out.halt_logit.dtype == torch.float32
    assert torch.equal(out.halt_logit, torch.full((4,), -5.0))  # a fresh model does not halt


@torch.no_grad()
def test_every_update_leaves_unit_rows(name: str) -> None:
    """Post-norm: after an update the updated state has root mean square 1 in every token."""
    model = small(name)
    ctx = model.encode(puzzles())
    z = model.segment(state(model, ctx), ctx)
    for part in leaves(z):
        torch.testing.assert_close(part.square().mean(-1), torch.ones(4, 10), rtol=1e-3, atol=0)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(name: str) -> None:
    """1e-4: kernels for other batch sizes sum in another order, and the map expands."""
    model = small(name)
    ctx = model.encode(puzzles())
    z = state(model, ctx)
    whole = model.segment(z, ctx)
    alone = model.segment(rows(z, slice(2, 3)), rows(ctx, slice(2, 3)))
    torch.testing.assert_close(flatten(alone), flatten(rows(whole, slice(2, 3))), rtol=0, atol=1e-4)
    other = tree_map(lambda t: torch.cat((t[:1] + 1, t[1:])), z)
    changed = model.segment(other, ctx)
    assert torch.equal(flatten(changed)[1:], flatten(whole)[1:])
    assert not torch.equal(flatten(changed)[0], flatten(whole)[0])


@torch.no_grad()
def test_segment_is_pure(name: str) -> None:
    """Same arguments, same result; neither arguments nor model nor generator are touched."""
    model = small(name)
    ctx = model.encode(puzzles())
    z = state(model, ctx)
    kept = tree_map(torch.clone, (z, ctx))
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, second = model.segment(z, ctx), model.segment(z, ctx)
    assert torch.equal(flatten(first), flatten(second))
    assert torch.equal(flatten(z), flatten(kept[0]))
    assert torch.equal(ctx.x, kept[1].x)
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@torch.no_grad()
def test_updates_composed_are_the_segment(name: str) -> None:
    model = small(name)
    ctx = model.encode(puzzles())
    z = start = state(model, ctx)
    updates = model.updates(ctx)
    assert len(updates) == model.applications_per_segment
    for update in updates:
        z = update(z)
    torch.testing.assert_close(flatten(z), flatten(model.segment(start, ctx)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_input_enters_only_through_l_updates() -> None:
    """An H-update does not depend on x; an L-update does, and leaves z_H alone."""
    model = small("trm-att")
    one, two = model.encode(puzzles()), model.encode(puzzles(seed=5))
    z = state(model, one)
    for (which, f), g in zip(
        zip(model.schedule, model.updates(one), strict=True), model.updates(two), strict=True
    ):
        a, b = f(z), g(z)
        if which == "H":
            assert torch.equal(flatten(a), flatten(b))
            assert torch.equal(a.z_L, z.z_L)
        else:
            assert not torch.equal(a.z_L, b.z_L)
            assert torch.equal(a.z_H, z.z_H)


@torch.no_grad()
def test_single_z_by_hand() -> None:
    """z <- f(z + x) in an L-update, z <- f(z) in an H-update, with one layer written out."""
    model = small("trm-singlez", pos_encodings="none", L_layers=1)
    layer = model.L_level.layers[0]

    def f(h: Tensor) -> Tensor:
        h = h.transpose(0, 1)
        h = rms_norm(h + layer.self_attn(h, None), 1e-5)
        return rms_norm(h + layer.mlp(h), 1e-5).transpose(0, 1)

    ctx = model.encode(puzzles())
    z = start = state(model, ctx)
    for which in ("L", "L", "H", "L", "L", "H"):
        z = f(z + ctx.x) if which == "L" else f(z)
    torch.testing.assert_close(model.segment(start, ctx), z, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_puzzle_row_is_padded_and_put_in_front() -> None:
    model = small("trm-att")
    batch = puzzles()
    x = model.encode(batch).x / 12**0.5
    torch.testing.assert_close(x[:, 0, :8], model.puzzle_emb.weights[batch.puzzle_ids])
    assert (x[:, 0, 8:] == 0).all()
    torch.testing.assert_close(x[:, 1:], model.embed_tokens.embedding_weight[batch.inputs])
    given = torch.ones(4, 8)
    assert (model.encode(batch, given).x[:, 0, :8] == 12**0.5).all()


# -- gradients


def test_training_segment_has_the_value_of_the_segment(name: str) -> None:
    model = small(name)
    ctx = model.encode(puzzles())
    z = state(model, ctx)
    torch.testing.assert_close(
        flatten(model.training_segment(z, ctx)), flatten(model.segment(z, ctx)), rtol=0, atol=0
    )


def test_training_segment_has_the_gradient_of_its_tail(name: str) -> None:
    """Written out by hand: updates, a detach, the last `grad_tail` updates."""
    model = small(name)
    batch = puzzles()

    def gradients(by_hand: bool) -> dict[str, Tensor]:
        model.zero_grad()
        ctx = model.encode(batch)
        z = state(model, ctx)
        if by_hand:
            updates = model.updates(ctx)
            for i, update in enumerate(updates):
                z = tree_map(Tensor.detach, z) if i == len(updates) - model.grad_tail else z
                z = update(z)
        else:
            z = model.training_segment(z, ctx)
        out = model.readout(z, ctx)
        (out.logits.square().sum() + out.halt_logit.sum()).backward()
        return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}

    ours, expected = gradients(False), gradients(True)
    assert set(ours) == set(expected)
    for key, grad in expected.items():
        torch.testing.assert_close(ours[key], grad, rtol=1e-4, atol=1e-4 * grad.abs().max().item() + 1e-12)
    assert ours["q_head.bias"].tolist() == [4.0, 0.0]  # only the halt head was in this loss


def test_no_gradient_reaches_the_start_of_a_training_segment() -> None:
    model = small("trm-att")
    ctx = tree_map(Tensor.detach, model.encode(puzzles()))
    z = tree_map(lambda t: t.requires_grad_(), state(model, ctx))
    model.training_segment(z, ctx).z_H.sum().backward()
    assert z.z_H.grad is None
    assert z.z_L.grad is None
    model.segment(z, ctx).z_H.square().mul(torch.arange(12)).sum().backward()
    assert z.z_H.grad.abs().max() > 0


def test_baseline_gradient_covers_every_block() -> None:
    """One application, all of it in the tail: every layer learns and the start state feels it."""
    model = small("transformer")
    ctx = model.encode(puzzles())
    z = state(model, ctx).requires_grad_()
    out = model.readout(model.training_segment(z, ctx), ctx)
    out.logits.logsumexp(-1).sum().backward()
    silent = {k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert silent == {"q_head.weight", "q_head.bias"}
    assert z.grad.abs().max() > 0


def test_gradient_equals_finite_differences_in_float64(name: str) -> None:
    """The derivative of a loss along a random direction in weight space, to 1e-6."""
    model = small(name).double().compute_in("float64")
    ctx_of = lambda: model.encode(puzzles())  # noqa: E731
    generator = torch.Generator().manual_seed(3)
    directions = {k: torch.randn(p.shape, generator=generator).double() for k, p in model.named_parameters()}

    def loss() -> Tensor:
        ctx = ctx_of()
        out = model.readout(model.segment(state(model, ctx), ctx), ctx)
        return out.logits.logsumexp(-1).sum()

    loss().backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    exact = sum((g * directions[k]).sum() for k, g in grads.items())
    sides = []
    for sign in (1, -1, -1, 1):  # there and back: the last call restores the weights
        with torch.no_grad():
            for k, p in model.named_parameters():
                p += sign * 1e-6 * directions[k]
            sides.append(loss())
    difference = (sides[0] - sides[2]) / 2e-6
    torch.testing.assert_close(difference, exact, rtol=1e-5, atol=1e-6)


def test_jvp_through_a_segment_equals_finite_differences(name: str) -> None:
    """Forward-mode, as the Lyapunov tools use it; float64 so that differences mean something."""
    model = small(name).double().compute_in("float64")
    with torch.no_grad():
        ctx = model.encode(puzzles())
        z = state(model, ctx)
        flat = flatten(z)
        v = torch.randn(flat.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        f = lambda u: flatten(model.segment(unflatten(u, z), ctx))  # noqa: E731
        with sdpa_kernel(SDPBackend.MATH):
            value, tangent = torch.func.jvp(f, (flat,), (v,))
            difference = (f(flat + 1e-6 * v) - f(flat - 1e-6 * v)) / 2e-6
            torch.testing.assert_close(value, f(flat), rtol=0, atol=1e-12)
    torch.testing.assert_close(tangent, difference, rtol=0, atol=1e-6 * tangent.abs().max().item())
    assert tangent.abs().max() > 1e-3


# -- precision and start


@torch.no_grad()
def test_float64_is_one_function_with_float32(name: str) -> None:
    """Everything inside widens: the difference is a float32 rounding and no hidden cast remains."""
    model = small(name, H_cycles=1) if name != "transformer" else small(name)
    narrow_ctx = model.encode(puzzles())
    narrow = model.readout(model.segment(model.initial_state(narrow_ctx), narrow_ctx)).logits
    model.compute_in("float64")
    ctx = model.encode(puzzles())
    z = model.segment(model.initial_state(ctx), ctx)
    assert {t.dtype for t in leaves((z, ctx))} == {torch.float64}
    wide = model.readout(z).logits
    gap = (wide - narrow.double()).abs().max().item()
    assert 0 < gap < 1e-4
    bumped = model.segment(tree_map(lambda t: t + 1e-13, z), ctx)
    moved = (flatten(bumped) - flatten(model.segment(z, ctx))).abs()
    assert 0 < moved.max() < 1e-9  # a float32 cast anywhere would swallow 1e-13 or blow it up to 1e-7


@torch.no_grad()
def test_start_vectors_are_the_same_for_every_token() -> None:
    model = small("trm-att")
    z = model.initial_state(model.encode(puzzles()))
    assert torch.equal(z.z_H, model.H_init.expand(4, 10, 12))
    assert torch.equal(z.z_L, model.L_init.expand(4, 10, 12))
    assert not torch.equal(model.H_init, model.L_init)


def test_start_vectors_carry_the_rounding_of_the_training_dtype() -> None:
    model = build_model(ModelSettings(seq_len=9, vocab_size=5, hidden_size=16, num_heads=2), seed=0)
    assert model.H_init.dtype == torch.float32
    assert torch.equal(model.H_init, model.H_init.bfloat16().float())


@torch.no_grad()
def test_random_start(name: str) -> None:
    """With a generator a draw per puzzle, token and dimension; without one a fixed draw, alike for all."""
    model = small(name, random_init=True)
    ctx = model.encode(puzzles())
    fixed, again = model.initial_state(ctx), model.initial_state(ctx)
    assert torch.equal(flatten(fixed), flatten(again))
    assert torch.equal(flatten(fixed)[0], flatten(fixed)[3])
    assert torch.equal(flatten(model.initial_state(rows(ctx, slice(1, 2))))[0], flatten(fixed)[1])
    drawn = [model.initial_state(ctx, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(flatten(drawn[0]), flatten(drawn[1]))
    assert not torch.equal(flatten(drawn[0]), flatten(drawn[2]))
    for part in leaves(drawn[0]):
        assert part.flatten().unique().numel() > 0.95 * part.numel()
        assert abs(part.std() - 1) < 0.1
    if len(model.state_names) == 2:
        assert not torch.equal(fixed.z_H, fixed.z_L)


def test_seeds_make_models() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        small("trm-mlp") if s == 0 else build_model(small("trm-mlp").settings, seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert one.content_hash == same.content_hash != other.content_hash


def test_registry_lists_the_architectures() -> None:
    assert set(ARCHITECTURES) >= {"trm", "trm-singlez", "hrm", "transformer"}
