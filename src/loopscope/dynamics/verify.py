"""The estimators against exact values, and a model's tangents against other ways to get them.

`verify_estimators` runs maps whose exponents and escape rates are known in closed form through the
very functions that measure the networks. `verify_model` asks whether the tangents of a model are its
derivative: central differences and, for a small latent, the whole Jacobian.

Closed forms: Newman, Commun. Math. Phys. 103 (1986) 121 (Gaussian products); Wolf et al., Physica D 16
(1985) 285 (Henon); Keller and Liverani, J. Stat. Phys. 135 (2009) 519, and Lai and Tel, Transient
Chaos (2011) (holes).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from scipy.special import digamma

from loopscope.dynamics import lyapunov, toys
from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.dynamics.system import Check, check_system, compare, exact_arithmetic, in_float64
from loopscope.latent import flatten, rows, unflatten

GOLDEN = (1 + math.sqrt(5)) / 2
SMALL = 1536  # numbers in a latent up to which its whole Jacobian is formed


def verify_estimators(seed: int = 0) -> list[Check]:
    """Run every analytic system; about 4 s on one core.

    Args:
        seed: of the random matrices and starts.
    Returns:
        One check per number, with the tolerance it must keep.
    """
    rng = np.random.default_rng(seed)
    checks = [*_linear(), *_triangular(rng), *_gaussian(rng), *_logistic(rng), *_planar(rng), *_tanh_net(rng)]
    return [*checks, *_dull(), *_open_maps(rng), *_flagged(rng)]


def verify_model(model: Any, batch: Any, *, seed: int = 0) -> list[Check]:
    """Whether the tangents that the exponents rest on are the derivative of the model's segment.

    `check_system`, and for a latent of at most `SMALL` numbers the batched tangents against the full
    Jacobian of the first puzzle, in float64 where the model can be cast.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol.
        batch: a few puzzles, handed to `encode`.
        seed: of the random directions.
    """
    checks = check_system(model, batch, seed=seed)
    wide = in_float64(model, batch)
    with torch.no_grad():
        ctx = wide.encode(batch)
        z = wide.initial_state(ctx)
    small = flatten(z).shape[1] <= SMALL
    return [*checks, _against_jacobian(wide, z, ctx, seed)] if small else checks


def _against_jacobian(model: Any, z: Any, ctx: Any, seed: int) -> Check:
    """J Q of the first puzzle, pushed with the others, against its Jacobian, formed alone."""
    z1 = rows(z, slice(0, 1))
    ctx1 = rows(ctx, slice(0, 1))
    Q = lyapunov.orthonormal_start(z, min(2, flatten(z).shape[1]), seed=seed)
    with exact_arithmetic(Q.device):
        _, V = lyapunov.push(lambda state: model.segment(state, ctx), z, Q)
        alone = lambda flat: flatten(model.segment(unflatten(flat[None], z1), ctx1))[0]  # noqa: E731
        jacobian = torch.func.jacfwd(alone)(flatten(z1)[0])
    error = float((jacobian @ Q[0] - V[0]).norm() / V[0].norm().clamp_min(1e-12))
    name = f"{type(model).__name__}.segment: tangents against the Jacobian, relative error"
    return compare(name, 0.0, error, 1e-10 if Q.dtype == torch.float64 else 1e-4)


# -- exponents


def _linear() -> list[Check]:
    diagonal = toys.LinearMap(torch.diag(torch.tensor([1.1, 0.8], dtype=torch.float64)))
    c, s = 0.9 * math.cos(1.0), 0.9 * math.sin(1.0)
    rotation = toys.LinearMap(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    stretched = lyapunov.lyapunov_spectrum(diagonal, segments=200, exponents=2, transient=120).ftle.values[0]
    turned = lyapunov.lyapunov_spectrum(rotation, segments=50, exponents=2).ftle.values[0]
    return [
        compare("diag(1.1, .8), first", math.log(1.1), stretched[0], 1e-12),
        compare("diag(1.1, .8), second", math.log(0.8), stretched[1], 1e-12),
        compare("rotation times .9, first", math.log(0.9), turned[0], 1e-10),
        compare("rotation times .9, second", math.log(0.9), turned[1], 1e-10),
    ]


def _triangular(rng: np.random.Generator) -> list[Check]:
    """Upper-triangular products: with the unit vectors as start, R is the product of the diagonals."""
    matrices = torch.from_numpy(np.triu(rng.standard_normal((2, 60, 4, 4))))
    exact = np.log(np.abs(matrices.diagonal(dim1=2, dim2=3).numpy())).sum(axis=1)
    start = torch.eye(4, dtype=torch.float64).expand(2, 4, 4).contiguous()
    table = lyapunov.lyapunov_spectrum(
        toys.MatrixProduct(60), matrices, segments=1, exponents=4, reorth="update", tangents=start
    )
    error = float(np.abs(table.ftle.values - exact).max()) / 60
    total = float(np.abs((table.ftle.values - exact).sum(axis=1)).max()) / 60
    return [
        compare("triangular products, error per matrix", 0.0, error, 1e-9),
        compare("triangular products, error of the sum", 0.0, total, 1e-10),
    ]


def _gaussian(rng: np.random.Generator, N: int = 16, k: int = 4, n: int = 100, B: int = 40) -> list[Check]:
    """Gaussian N x N matrices of variance 1 / N: 2 l_i = ln 2 - ln N + psi((N - i + 1) / 2)."""
    matrices = torch.from_numpy(rng.standard_normal((B, n, N, N)) / math.sqrt(N))
    table = lyapunov.lyapunov_spectrum(
        toys.MatrixProduct(n),
        matrices,
        segments=1,
        exponents=k,
        reorth="update",
        seed=int(rng.integers(2**31)),
    )
    measured = table.ftle.values / n
    exact = 0.5 * (math.log(2) - math.log(N) + digamma((N - np.arange(k)) / 2))
    errors = measured.std(axis=0, ddof=1) / math.sqrt(B)
    means = measured.mean(axis=0)
    return [
        compare(
            f"Gaussian products, exponent {i + 1}", float(exact[i]), float(means[i]), 4 * float(errors[i])
        )
        for i in range(k)
    ]


def _logistic(rng: np.random.Generator, n: int = 100_000, T: int = 16) -> list[Check]:
    """r = 4: identity along every orbit, and moments over uniform starts; r = 3.2: a stable 2-cycle."""
    x0 = torch.from_numpy(rng.random((n, 1)))
    table = lyapunov.lyapunov_spectrum(toys.Logistic(4.0), x0, segments=T)
    ftle, system, x = table.ftle.values[:, 0], toys.Logistic(4.0), x0
    for _ in range(T):
        x = system.segment(x, None)
    start, end = x0[:, 0].numpy(), x[:, 0].numpy()
    exact = math.log(2) + 0.5 * np.log(end * (1 - end) / (start * (1 - start))) / T
    error = float(np.quantile(np.abs(ftle - exact), 0.99))  # the worst ones pass through x = .5
    cycle = lyapunov.lyapunov_spectrum(toys.Logistic(3.2), segments=400, transient=300).ftle.values[0, 0]
    mean = math.log(2) + (1 - 2 * math.log(2)) / T
    return [
        compare("logistic 4, 99th percentile error of the identity", 0.0, error, 1e-5),
        compare(f"logistic 4, mean of {T} segments", mean, float(ftle.mean()), 1e-3),
        compare(f"logistic 4, spread of {T} segments", 1 / T, float(ftle.std()), 1e-3),
        compare("logistic 3.2", 0.5 * math.log(abs(4 + 2 * 3.2 - 3.2**2)), float(cycle), 1e-10),
    ]


def _planar(rng: np.random.Generator) -> list[Check]:
    starts = torch.from_numpy(rng.uniform(-0.1, 0.1, (1000, 2)))
    henon = lyapunov.lyapunov_spectrum(toys.Henon(), starts, segments=300, exponents=2, transient=100)
    pair = henon.ftle.values.mean(axis=0)
    cat = lyapunov.lyapunov_spectrum(toys.CatMap(), segments=60, exponents=2, transient=30).ftle.values[0]
    expected = math.log((3 + math.sqrt(5)) / 2)
    return [
        compare("Henon, first", 0.41922, float(pair[0]), 4e-3),
        compare("Henon, second", -1.62319, float(pair[1]), 4e-3),
        compare("Henon, sum", math.log(0.3), float(pair.sum()), 1e-10),
        compare("Henon, Kaplan-Yorke dimension", 1.2583, lyapunov.kaplan_yorke_dimension(pair), 4e-3),
        compare("cat map, first", expected, float(cat[0]), 1e-6),
        compare("cat map, second", -expected, float(cat[1]), 1e-6),
    ]


def _tanh_net(rng: np.random.Generator, N: int = 400, g: float = 3.0) -> list[Check]:
    """x' = W tanh x, variance g^2 / N; .31025 for N -> infinity, about .004 less at N = 400."""
    weights = torch.from_numpy(rng.standard_normal((N, N)) * g / math.sqrt(N))
    starts = torch.from_numpy(rng.standard_normal((4, N)))
    table = lyapunov.lyapunov_spectrum(toys.TanhNet(weights), starts, segments=300, transient=50)
    return [compare(f"random tanh net, N = {N}, g = 3", 0.31025, float(table.ftle.mean()), 0.02)]


def _dull() -> list[Check]:
    """A map that forgets everything: no NaN, growth -inf. Old estimators failed at fixed points."""
    zero = toys.LinearMap(torch.zeros(3, 3, dtype=torch.float64))
    table = lyapunov.lyapunov_spectrum(zero, segments=5, exponents=3)
    vanished = float(np.isneginf(table.growth.values).mean())
    return [compare("zero map, share of growths at -inf", 1.0, vanished, 0.0)]


# -- escape rates


def _rate_check(name: str, exact: float, measured: EscapeRate) -> Check:
    """Within 4 standard errors, read off the interval."""
    return compare(name, exact, measured.value, 4 * (measured.high - measured.low) / (2 * 1.96))


def _logistic_step(r: float, x: np.ndarray) -> np.ndarray:
    return r * x * (1 - x)


def _outside(x: np.ndarray) -> np.ndarray:
    return (x < 0) | (x > 1)


def _open_maps(rng: np.random.Generator, n: int = 1_000_000) -> list[Check]:
    checks = []
    for slope, stop in ((2.5, 30), (3.0, 20), (4.0, 12)):
        at = toys.first_exit(toys.tent(slope), _outside, rng.random(n), stop)
        rate = escape_rate(at, start=0, stop=stop)
        checks.append(_rate_check(f"open tent map, slope {slope}", math.log(slope / 2), rate))
    for r, exact in ((4.5, 0.361510), (5.0, 0.552765), (6.0, 0.831493)):
        at = toys.first_exit(partial(_logistic_step, r), _outside, rng.random(n), 14)
        checks.append(_rate_check(f"open logistic map, r = {r}", exact, escape_rate(at, start=4, stop=14)))
    for low, high, exact in ((0, 2, math.log(2 / GOLDEN)), (0, 1, 0.083769), (2, 3, 0.130748)):
        at = _doubling(rng, n, low, high, 40)
        name = f"doubling map, hole [{low}/8, {high}/8)"
        checks.append(_rate_check(name, exact, escape_rate(at, start=10, stop=40)))
    return checks


def _flagged(rng: np.random.Generator) -> list[Check]:
    """The hole [1/4, 1/2) leaves S(n) ~ n 2^-n: not exponential, and the trend test must say so."""
    rate = escape_rate(_doubling(rng, 200_000, 2, 4, 20), start=2, stop=14)
    hint = "The test of a constant hazard misses one that rises."
    return [compare("doubling map, hole [1/4, 1/2): flagged", 0.0, float(rate.exponential), 0.0, hint)]


def _doubling(rng: np.random.Generator, n: int, low: int, high: int, segments: int) -> Int[np.ndarray, " B"]:
    """First entries of the doubling map into [low/8, high/8)."""
    starts = rng.integers(2**64, size=n, dtype=np.uint64)

    def hole(x: np.ndarray) -> np.ndarray:
        octant = x >> np.uint64(61)
        return (octant >= low) & (octant < high)

    return toys.first_exit(toys.double, hole, starts, segments)
