"""Noise by key, damped and noisy updates, perturbed starts and kicked carries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from loopscope.config import TrainSettings, validated
from loopscope.dynamics.system import check_system, require
from loopscope.errors import UserError
from loopscope.latent import flatten, rows, tree_map
from loopscope.models import HL, build_model
from loopscope.models.noise import CHOICE, GOLDEN, KICK, UPDATE, draw_keys, mix, normal, uniform
from loopscope.models.official import save_official
from loopscope.tasks.base import Batch
from loopscope.training.halting import Carry
from loopscope.training.perturb import check_parts, perturb, start_sigma
from tiny import tiny_model, tiny_puzzles

ARCHS = ("trm", "trm-singlez", "hrm", "transformer")


def keys(size: int, seed: int = 0) -> torch.Tensor:
    return draw_keys(size, torch.Generator().manual_seed(seed))


# -- numbers by key


def test_words_are_those_of_splitmix64() -> None:
    """The published outputs for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    words = mix(1234567 + GOLDEN * torch.arange(1, 5))
    assert [word % 2**64 for word in words.tolist()] == published


def test_numbers_are_normal_and_even() -> None:
    x = normal(keys(200), (KICK, 0), (501,)).double().numpy()
    assert x.shape == (200, 501)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(x[:, 0], "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(x.ravel())) < 4 * np.sqrt(24 / x.size)
    assert stats.kstest(uniform(keys(5000), (CHOICE,)).numpy(), "uniform").pvalue > 1e-3


def test_rows_and_streams_are_independent() -> None:
    """Correlations of 10,000 numbers stay within five standard errors, neighbouring keys among them."""
    near = torch.tensor([5, 6, 7, 5 + GOLDEN])
    lines = [normal(near, stream, (10_000,)) for stream in ((KICK, 0), (KICK, 1), (UPDATE, 0, 0), (UPDATE,))]
    correlation = np.corrcoef(torch.cat(lines).numpy())
    assert np.abs(correlation - np.eye(16)).max() < 5e-2
    halves = lines[0].view(4, -1, 2)  # the two numbers of a word
    assert abs(np.corrcoef(halves[..., 0].ravel(), halves[..., 1].ravel())[0, 1]) < 5 / np.sqrt(20_000)


def test_a_row_depends_on_its_key_alone() -> None:
    k = keys(6)
    whole = normal(k, (KICK, 1), (3, 5))
    assert normal(k[2:4], (KICK, 1), (3, 5)).equal(whole[2:4])
    assert normal(k, (KICK, 1), (2, 5)).equal(whole[:, :2])  # more numbers leave the first as they are
    assert uniform(k[4:], (CHOICE,)).equal(uniform(k, (CHOICE,))[4:])


# -- inside updates


def setup(arch: str, **settings: Any) -> tuple[Any, Any, Any]:
    """A float64 model, its context and a state off the start."""
    model = tiny_model(arch, forward_dtype="float64", **settings)
    ctx = model.encode(tiny_puzzles().batch())
    with torch.no_grad():
        z = model.segment(model.initial_state(ctx), ctx)
    return model, ctx, tree_map(lambda t: t.contiguous(), z)


@pytest.mark.parametrize("arch", ARCHS)
def test_damping_mixes_old_and_new(arch: str) -> None:
    """Against the undamped updates of a twin, mixed by hand, in every use of the map."""
    model, ctx, z = setup(arch, damping=0.7)
    twin = setup(arch)[0]
    twin.load_state_dict(model.state_dict())
    by_hand = z
    for update in twin.updates(ctx):
        by_hand = tree_map(lambda old, new: 0.3 * old + 0.7 * new, by_hand, update(by_hand))
    for image in (model.segment(z, ctx), model.training_segment(z, ctx)):
        torch.testing.assert_close(flatten(image), flatten(by_hand), rtol=0, atol=1e-12)
    in_updates = z
    for update in model.updates(ctx):
        in_updates = update(in_updates)
    assert flatten(in_updates).equal(flatten(model.segment(z, ctx)))
    assert model.content_hash != twin.content_hash


def test_a_damped_model_can_be_measured() -> None:
    model = tiny_model(damping=0.5, update_noise=0.1)
    require(check_system(model, tiny_puzzles(3).batch()))


def test_the_hash_of_a_model_without_damping_is_what_it_was() -> None:
    """Files measured before there was damping name it; zeros, because erfinv differs between machines."""
    model, noisy = tiny_model(), tiny_model(update_noise=0.1)
    for value in [*model.state_dict().values(), *noisy.state_dict().values()]:
        value.zero_()
    assert (
        model.content_hash
        == noisy.content_hash
        == ("004cc303687f3f990fc6927bff37f3f0bc52e95c1b7f140f277bad7d398b686a")
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_update_noise_is_what_is_drawn(arch: str) -> None:
    """A block that gives zeros leaves the noise alone: N(0, sigma^2), another draw for every update."""
    sigma, model, ctx, z = 0.3, *setup(arch, update_noise=0.3)
    for block in {getattr(model, name) for name in ("L_level", "H_level") if hasattr(model, name)}:
        block.forward = lambda h, *_: torch.zeros_like(h)
    model.grad_tail, k = 0, keys(len(ctx.x))
    seen = []
    for place in range(len(model.schedule)):
        swapped = tree_map(lambda t: t.transpose(0, 1), z)
        after = model._advance(place, swapped, ctx.x.transpose(0, 1), k)
        seen += [b for a, b in zip(_parts(swapped), _parts(after), strict=True) if a is not b]
    assert len(seen) == len(model.schedule)
    for noise in seen:
        assert stats.kstest(noise.ravel().numpy() / sigma, "norm").pvalue > 1e-4
    for a, b in pairwise(seen):
        assert abs(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1]) < 0.1


def _parts(z: Any) -> list[torch.Tensor]:
    return [z] if isinstance(z, torch.Tensor) else list(z)


@pytest.mark.parametrize("arch", ARCHS)
def test_update_noise_is_for_training_alone_and_row_by_row(arch: str) -> None:
    model, ctx, z = setup(arch, update_noise=0.1)
    k = keys(len(ctx.x))
    assert flatten(model.training_segment(z, ctx)).equal(flatten(model.segment(z, ctx)))
    noisy = model.training_segment(z, ctx, noise_keys=k)
    assert (flatten(noisy) - flatten(model.segment(z, ctx))).abs().max() > 0.05
    part = slice(3, 6)
    alone = model.training_segment(rows(z, part), rows(ctx, part), noise_keys=k[part])
    torch.testing.assert_close(flatten(alone), flatten(rows(noisy, part)), rtol=0, atol=1e-12)
    silent = setup(arch)[0]
    silent.load_state_dict(model.state_dict())
    assert flatten(silent.training_segment(z, ctx, noise_keys=k)).equal(flatten(silent.segment(z, ctx)))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_recomputed_activations_give_the_same_gradients(arch: str, noise: float) -> None:
    """Byte for byte, noise included; and less is kept for the backward pass."""
    found, kept = [], []
    for recompute in (False, True):
        model, ctx, z = setup(arch, update_noise=noise, H_layers=3, L_layers=3, pos_encodings="rope")
        ctx = model.encode(tiny_puzzles().batch())
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(_count(sizes), lambda t: t):
            image = model.training_segment(z, ctx, noise_keys=keys(len(ctx.x)), recompute=recompute)
        flatten(image).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
        kept.append(sum(sizes))
    assert len(found[0]) == len(found[1]) > 3
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
    assert kept[1] < 0.2 * kept[0]


def _count(sizes: list[int]) -> Any:
    def pack(t: torch.Tensor) -> torch.Tensor:
        sizes.append(t.numel())
        return t

    return pack


def test_what_the_official_format_lacks_is_not_written(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"damping=0\.9: the official format has no such setting"):
        save_official(tiny_model(damping=0.9), tmp_path)


# -- starts and carries


def carry(size: int = 400) -> Carry:
    """Zeros everywhere; the second half of the slots has been under way for two segments."""
    z = HL(torch.zeros(size, 3, 4), torch.zeros(size, 3, 4))
    steps = torch.tensor([0] * (size // 2) + [2] * (size - size // 2), dtype=torch.int32)
    return Carry(z, steps, torch.zeros(size, dtype=torch.bool), Batch(steps, steps, steps))


def moved(step: int = 0, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Noise that was added to H and L, (slots, 12) each."""
    given = carry()
    after = perturb(given, keys(400), validated(TrainSettings, settings), step, ("H", "L"))
    assert after.steps is given.steps
    assert after.data is given.data
    return after.z.z_H.flatten(1).numpy(), after.z.z_L.flatten(1).numpy()


def test_noise_on_starts_leaves_the_others_alone() -> None:
    for part in moved(start_noise=0.5):
        assert not part[200:].any()
        assert stats.kstest(part[:200].ravel() / 0.5, "norm").pvalue > 1e-3
    H, L = moved(start_noise=0.5)
    assert abs(np.corrcoef(H[:200].ravel(), L[:200].ravel())[0, 1]) < 0.1


def test_a_share_of_the_starts_stays_clean() -> None:
    H, L = moved(start_noise=0.5, start_noise_share=0.3)
    perturbed = H[:200].any(1)
    assert (perturbed == L[:200].any(1)).all()
    assert stats.binomtest(int(perturbed.sum()), 200, 0.3).pvalue > 1e-3
    assert stats.kstest(H[:200][perturbed].ravel() / 0.5, "norm").pvalue > 1e-3


def test_carries_are_kicked_now_and_then() -> None:
    H, _ = moved(carry_noise=2.0, carry_noise_prob=0.25)
    assert not H[:200].any()
    kicked = H[200:].any(1)
    assert stats.binomtest(int(kicked.sum()), 200, 0.25).pvalue > 1e-3
    assert stats.kstest(H[200:][kicked].ravel() / 2, "norm").pvalue > 1e-3


def test_only_late_orbits_are_kicked() -> None:
    def kicked(first: int) -> int:
        return int(moved(carry_noise=2.0, carry_noise_prob=1.0, carry_noise_from=first)[0].any(1).sum())

    assert [kicked(first) for first in (1, 2, 3)] == [200, 200, 0]


def test_starts_draw_their_own_log_uniform_deviation() -> None:
    """With ten thousand numbers to a slot its deviation is known to 1 %."""
    size = 400
    z = torch.zeros(size, 100, 100)
    given = carry(size)._replace(z=HL(z, z), steps=torch.zeros(size, dtype=torch.int32))
    t = validated(TrainSettings, {"start_noise": 0.5, "start_noise_least": 0.01})
    after = perturb(given, keys(size), t, 0, ("H", "L")).z
    H, L = (part.flatten(1).std(1).numpy() for part in after)
    assert np.allclose(H, L, rtol=0.06)  # one deviation for all parts of a slot
    decades = np.log10(H / 0.5)
    assert stats.kstest(decades, stats.uniform(-2, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(decades[1:], decades[:-1])[0, 1]) < 0.15


@pytest.mark.parametrize("part", ["H", "L"])
def test_noise_on_one_part(part: str) -> None:
    parts = dict(zip("HL", moved(start_noise=0.5, carry_noise=0.5, noise_on=part), strict=True))
    assert parts.pop(part).any()
    assert not next(iter(parts.values())).any()


def test_schedules_of_the_start_noise() -> None:
    def at(schedule: str) -> list[float]:
        steps = 0 if schedule == "constant" else 10
        values = {"start_noise": 0.4, "start_noise_schedule": schedule, "start_noise_steps": steps}
        return [start_sigma(validated(TrainSettings, values), step) for step in (0, 5, 10, 50)]

    assert at("constant") == [0.4, 0.4, 0.4, 0.4]
    assert at("fall") == pytest.approx([0.4, 0.2, 0, 0])
    assert at("rise") == pytest.approx([0, 0.2, 0.4, 0.4])


def test_single_states_and_models_without_the_part() -> None:
    given = carry()._replace(z=torch.zeros(400, 3, 4))
    t = validated(TrainSettings, {"start_noise": 0.5, "noise_on": "L"})
    after = perturb(given, keys(400), t, 0, ("L",))
    assert after.z[:200].abs().min() >= 0
    assert after.z[:200].any()
    check_parts(t, ("H", "L"))
    with pytest.raises(UserError, match="noise_on=L, but this model's latent is H"):
        check_parts(t, build_model(tiny_model("transformer").settings).state_names)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"start_noise_schedule": "fall"}, "start_noise_steps"),
        ({"start_noise_steps": 5}, "start_noise_schedule=constant"),
    ],
)
def test_schedules_that_contradict_themselves(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validated(TrainSettings, values)
