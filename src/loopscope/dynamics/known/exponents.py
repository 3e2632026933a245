"""Systems whose Lyapunov exponents are known, in closed form or to many digits.

Closed forms: Newman, Commun. Math. Phys. 103 (1986) 121 (Gaussian products). Many digits: Wolf et al.,
Physica D 16 (1985) 285 (Henon); Sprott, Chaos and Time-Series Analysis (2003) (Lorenz).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import digamma

from loopscope.dynamics import toys
from loopscope.dynamics.covariant import covariant_vectors
from loopscope.dynamics.exponents import entropy_bound, kaplan_yorke_dimension
from loopscope.dynamics.local_growth import finite_growth, two_trajectory_exponent
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.system import Check, compare

TANH = {  # gain: exponent of x' = W tanh x for N -> infinity, and at N = 200
    1.5: (0.06522, 0.0547),
    2.0: (0.15472, 0.1493),
    3.0: (0.31025, 0.2972),
    5.0: (0.53243, 0.5098),
    10.0: (0.85644, 0.8102),
}


def linear() -> list[Check]:
    diagonal = toys.LinearMap(torch.diag(torch.tensor([1.1, 0.8], dtype=torch.float64)))
    c, s = 0.9 * math.cos(1.0), 0.9 * math.sin(1.0)
    rotation = toys.LinearMap(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    stretched = lyapunov_spectrum(diagonal, segments=200, exponents=2, transient=120).ftle.values[0]
    turned = lyapunov_spectrum(rotation, segments=50, exponents=2).ftle.values[0]
    return [
        compare("diag(1.1, .8), first", math.log(1.1), stretched[0], 1e-12),
        compare("diag(1.1, .8), second", math.log(0.8), stretched[1], 1e-12),
        compare("rotation times .9, first", math.log(0.9), turned[0], 1e-10),
        compare("rotation times .9, second", math.log(0.9), turned[1], 1e-10),
    ]


def triangular(rng: np.random.Generator) -> list[Check]:
    """Upper-triangular products: with the unit vectors as start, R is the product of the diagonals."""
    matrices = torch.from_numpy(np.triu(rng.standard_normal((2, 60, 4, 4))))
    exact = np.log(np.abs(matrices.diagonal(dim1=2, dim2=3).numpy())).sum(axis=1)
    start = torch.eye(4, dtype=torch.float64).expand(2, 4, 4).contiguous()
    table = lyapunov_spectrum(
        toys.MatrixProduct(60), matrices, segments=1, exponents=4, reorth="update", tangents=start
    )
    error = float(np.abs(table.ftle.values - exact).max()) / 60
    total = float(np.abs((table.ftle.values - exact).sum(axis=1)).max()) / 60
    parts = table.growth_by_update.sum("update") - table.growth
    return [
        compare("triangular products, error per matrix", 0.0, error, 1e-9),
        compare("triangular products, error of the sum", 0.0, total, 1e-10),
        compare("attribution: updates minus segment", 0.0, float(np.abs(parts).max()), 1e-10),
    ]


def gaussian(rng: np.random.Generator, N: int = 64, k: int = 8, n: int = 40, B: int = 24) -> list[Check]:
    """Gaussian N x N matrices of variance 1 / N: 2 l_i = ln 2 - ln N + psi((N - i + 1) / 2)."""
    matrices = torch.from_numpy(rng.standard_normal((B, n, N, N)) / math.sqrt(N))
    system, seed = toys.MatrixProduct(n), int(rng.integers(2**31))
    table = lyapunov_spectrum(system, matrices, segments=1, exponents=k, reorth="update", seed=seed)
    measured = table.ftle.values / n
    exact = 0.5 * (math.log(2) - math.log(N) + digamma((N - np.arange(k)) / 2))
    errors, means = measured.std(axis=0, ddof=1) / math.sqrt(B), measured.mean(axis=0)
    rows = zip(exact.tolist(), means.tolist(), errors.tolist(), strict=True)
    return [compare(f"Gaussian products, exponent {i}", a, b, 4 * e) for i, (a, b, e) in enumerate(rows, 1)]


def logistic(rng: np.random.Generator, n: int = 100_000, T: int = 16) -> list[Check]:
    """r = 4: identity along every orbit, and moments over uniform starts; r = 3.2: a stable 2-cycle."""
    x0 = torch.from_numpy(rng.random((n, 1)))
    table = lyapunov_spectrum(toys.Logistic(4.0), x0, segments=T)
    ftle, system, x = table.ftle.values[:, 0], toys.Logistic(4.0), x0
    for _ in range(T):
        x = system.segment(x, None)
    start, end = x0[:, 0].numpy(), x[:, 0].numpy()
    exact = math.log(2) + 0.5 * np.log(end * (1 - end) / (start * (1 - start))) / T
    error = float(np.quantile(np.abs(ftle - exact), 0.99))  # the worst ones pass through x = .5
    cycle = lyapunov_spectrum(toys.Logistic(3.2), segments=400, transient=300).ftle.values[0, 0]
    mean = math.log(2) + (1 - 2 * math.log(2)) / T
    return [
        compare("logistic 4, error of identity, 99 %", 0.0, error, 1e-5),
        compare(f"logistic 4, mean of {T} segments", mean, float(ftle.mean()), 1e-3),
        compare(f"logistic 4, spread of {T} segments", 1 / T, float(ftle.std()), 1e-3),
        compare("logistic 3.2", 0.5 * math.log(abs(4 + 2 * 3.2 - 3.2**2)), float(cycle), 1e-10),
    ]


def long_logistic(rng: np.random.Generator, n: int = 5000, T: int = 600) -> list[Check]:
    """r = 4 from its invariant density: ln 2 without the bias of a short orbit."""
    x0 = torch.from_numpy(np.sin(0.5 * np.pi * rng.random((n, 1))) ** 2)
    mean = float(lyapunov_spectrum(toys.Logistic(4.0), x0, segments=T).ftle.mean())
    start = x0[:100].expand(100, 6)
    ring = lyapunov_spectrum(toys.LogisticRing(), start, segments=800, exponents=6, transient=100)
    exact = math.log(2) + np.log(np.abs(0.3 + 0.7 * np.cos(2 * np.pi * np.arange(6) / 6)))
    rows = zip(np.sort(exact)[::-1].tolist(), ring.ftle.mean("puzzle").values.tolist(), strict=True)
    checks = [compare(f"logistic ring, exponent {i}", a, b, 1e-3) for i, (a, b) in enumerate(rows, 1)]
    return [compare("logistic 4", math.log(2), mean, 1e-4), *checks]


def planar(rng: np.random.Generator) -> list[Check]:
    """Henon and cat map, with what follows from their exponents."""
    starts = torch.from_numpy(rng.uniform(-0.1, 0.1, (1000, 2)))
    henon = lyapunov_spectrum(toys.Henon(), starts, segments=300, exponents=2, transient=100)
    pair = henon.ftle.values.mean(axis=0)
    cat = lyapunov_spectrum(toys.CatMap(), segments=60, exponents=2, transient=30).ftle.values[0]
    expected = math.log((3 + math.sqrt(5)) / 2)
    return [
        compare("Henon, first", 0.41922, float(pair[0]), 4e-3),
        compare("Henon, second", -1.62319, float(pair[1]), 4e-3),
        compare("Henon, sum", math.log(0.3), float(pair.sum()), 1e-10),
        compare("Henon, Kaplan-Yorke dimension", 1.2583, kaplan_yorke_dimension(pair).value, 4e-3),
        compare("cat map, first", expected, float(cat[0]), 1e-6),
        compare("cat map, second", -expected, float(cat[1]), 1e-6),
        compare("cat map, entropy", expected, entropy_bound(cat).value, 1e-6),
    ]


def other_ways(rng: np.random.Generator) -> list[Check]:
    """Covariant vectors, and growth from two orbits, where the answer is known."""
    matrix = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)  # eigenvectors (1, 0), (2, -3)
    bent = covariant_vectors(
        toys.LinearMap(matrix), segments=5, exponents=2, forward=30, backward=30, z0=torch.ones(1, 2).double()
    )
    angle, decay = float(bent.angle[0, 0, 0, 1]), float(bent.growth[0, 0, 1])
    starts = torch.from_numpy(rng.uniform(-0.1, 0.1, (20, 2)))
    both = [f(toys.Henon(), starts, segments=100) for f in (lyapunov_spectrum, two_trajectory_exponent)]
    apart = float(np.abs(both[0].ftle - both[1].ftle).max())
    far = finite_growth(toys.LinearMap(matrix), segments=30, sizes=[0.1, 10.0])
    return [
        compare("covariant vectors, angle", math.atan(1.5), angle, 1e-10),
        compare("covariant vectors, second growth", math.log(0.5), decay, 1e-10),
        compare("Henon, two orbits minus tangents", 0.0, apart, 1e-5),
        compare("finite growth of a linear map", math.log(2), float(far.growth[..., -1].mean()), 1e-6),
    ]


def lorenz(rng: np.random.Generator, B: int = 500, transient: int = 60, segments: int = 160) -> list[Check]:
    """The Lorenz flow, per unit of time; 5,000 units in the default size."""
    system = toys.Lorenz()
    starts = torch.tensor([1.0, 1.0, 25.0]) + torch.from_numpy(rng.uniform(-5, 5, (B, 3)))
    table = lyapunov_spectrum(system, starts, segments=segments, exponents=3, transient=transient)
    rates = table.ftle.values.mean(axis=0) / system.time
    return [
        compare("Lorenz, first", 0.9056, float(rates[0]), 0.03),
        compare("Lorenz, second", 0.0, float(rates[1]), 0.01),
        compare("Lorenz, third", -14.5723, float(rates[2]), 0.03),
        compare("Lorenz, sum", -41 / 3, float(rates.sum()), 1e-3),
        compare("Lorenz, Kaplan-Yorke dimension", 2.062, kaplan_yorke_dimension(rates).value, 3e-3),
    ]


def tanh_net(rng: np.random.Generator, N: int, gain: float, networks: int, tolerance: float) -> Check:
    """x' = W tanh x, variance gain^2 / N, the mean of some networks.

    Expected is the limit N -> infinity less a shift in 1 / N, read off N = 200: .011 at N = 800, g = 10.
    Near g = 1 networks of one size differ a lot, so the tolerance is at least 4 standard errors.
    """
    found = []
    for _ in range(networks):
        weights = torch.from_numpy(rng.standard_normal((N, N)) * gain / math.sqrt(N))
        starts = torch.from_numpy(rng.standard_normal((4, N)))
        table = lyapunov_spectrum(toys.TanhNet(weights), starts, segments=400, transient=150)
        found.append(float(table.ftle.mean()))
    limit, narrow = TANH[gain]
    expected = limit - (limit - narrow) * 200 / N
    allowed = max(tolerance, 4 * float(np.std(found, ddof=1)) / math.sqrt(networks))
    return compare(f"random tanh nets, N {N}, g {gain:g}", expected, float(np.mean(found)), allowed)


def wide_tanh_nets(rng: np.random.Generator) -> list[Check]:
    """Networks wide enough to be near the limit, over the range of gains."""
    return [tanh_net(rng, 800, gain, networks=8, tolerance=0.006) for gain in TANH]


def dull() -> list[Check]:
    """A map that forgets everything: no NaN, growth -inf. Old estimators failed at fixed points."""
    zero = toys.LinearMap(torch.zeros(3, 3, dtype=torch.float64))
    table = lyapunov_spectrum(zero, segments=5, exponents=3)
    vanished = float(np.isneginf(table.growth.values).mean())
    return [compare("zero map, share of growths at -inf", 1.0, vanished, 0.0)]
