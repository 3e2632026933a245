"""The transient-chaos toy: a search that wanders until it is captured, with its exact values.

It copies what a recursive reasoner seems to do: a chaotic search that goes on until it falls into a
small hole around the solution, then settles there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.dynamics.escape import escape_rate
from loopscope.dynamics.lyapunov import advance, growth_dataset
from loopscope.dynamics.statistics import auc
from loopscope.dynamics.system import Check, compare
from loopscope.dynamics.toys.maps import ToyReadout

CAPTURE, ACCEPT = 0.04, 0.05  # radius of the hole; distance at which an answer counts as right
LOW, HIGH = 0.15, 0.85  # solutions are uniform in between
CELLS = 4096  # of the transfer operator
AUC_16 = 0.96261  # of -FTLE for solved after 16 segments: 8 simulations of 4e6 orbits, standard error 2e-5


class ToyPuzzle(NamedTuple):
    """Puzzles of the transient-chaos toy: where the search starts and where the solution is, (B,)."""

    start: Float[Tensor, " B"]
    target: Float[Tensor, " B"]


class Search(NamedTuple):
    """Latent of the toy, each (B, 1). `captured` is 0 or 1 and carries no tangent."""

    x: Float[Tensor, "B 1"]
    captured: Float[Tensor, "B 1"]


class TransientChaos:
    """Logistic search at r = 4 until |x - s| < eps, then x' = s + (x - s) / 2.

    Capture is tested after the map, so a start inside the hole still searches. Growth is
    ln |4 (1 - 2x)| while searching and ln .5 when captured.
    """

    applications_per_segment = 1

    def __init__(self, eps: float = CAPTURE) -> None:
        self.eps = eps

    def encode(self, batch: ToyPuzzle) -> ToyPuzzle:
        return batch

    def initial_state(self, ctx: ToyPuzzle) -> Search:
        return Search(ctx.start[:, None], torch.zeros_like(ctx.start)[:, None])

    def segment(self, z: Search, ctx: ToyPuzzle) -> Search:
        s = ctx.target[:, None]
        was_captured = z.captured > 0.5
        x = torch.where(was_captured, s + 0.5 * (z.x - s), 4 * z.x * (1 - z.x))
        captured = was_captured | ((x - s).abs() < self.eps)
        return Search(x, captured.to(x.dtype))

    def readout(self, z: Search, ctx: ToyPuzzle) -> ToyReadout:
        """One cell: is the answer right? The halt logit knows capture."""
        right = (z.captured > 0.5) & ((z.x - ctx.target[:, None]).abs() < ACCEPT)
        sign = torch.where(right, 1.0, -1.0)
        return ToyReadout(torch.stack((-sign, sign), dim=-1), 2 * z.captured[:, 0] - 1)


def toy_puzzles(n: int, seed: int) -> ToyPuzzle:
    """Starts uniform on (0, 1), solutions uniform on (.15, .85), float64."""
    rng = np.random.default_rng(seed)
    return ToyPuzzle(torch.from_numpy(rng.random(n)), torch.from_numpy(rng.uniform(LOW, HIGH, n)))


def run_toy(n: int = 4096, segments: int = 16, seed: int = 0) -> xr.Dataset:
    """Measure the transient-chaos toy.

    Returns:
        The variables of a measurement: `solved(puzzle, segment)`, `first_solved`, `halt_logit`,
        `drift`, `growth`, `ftle`; and `position(puzzle, segment)`, the starts and the solutions.
    """
    system, puzzles = TransientChaos(), toy_puzzles(n, seed)
    z = system.initial_state(puzzles)
    Q = torch.zeros(n, 2, 1, dtype=torch.float64)
    Q[:, 0] = 1  # along x: the flag has no tangent, a random start would only mix in a constant
    steps: dict[str, list[Tensor]] = {name: [] for name in ("growth", "position", "solved", "halt_logit")}
    for _ in range(segments):
        z, Q, growth = advance([lambda state: system.segment(state, puzzles)], z, Q)
        answer = system.readout(z, puzzles)
        row = (growth, z.x[:, 0], answer.logits[:, 0].argmax(1) == 1, answer.halt_logit)
        for name, value in zip(steps, row, strict=True):
            steps[name].append(value)
    stacked = {name: torch.stack(values, dim=1).numpy() for name, values in steps.items()}
    attrs = {
        "system": "TransientChaos",
        "applications_per_segment": 1,
        "seed": seed,
        "traj_dtype": "float64",
    }
    return _label(growth_dataset(stacked.pop("growth"), attrs=attrs), stacked, puzzles)


def first_solved(solved: Bool[np.ndarray, "B T"]) -> Int[np.ndarray, " B"]:
    """First segment with a right answer, 1-based; -1 for none."""
    return np.where(solved.any(axis=1), solved.argmax(axis=1) + 1, -1)


def _label(table: xr.Dataset, steps: dict[str, np.ndarray], puzzles: ToyPuzzle) -> xr.Dataset:
    """Add what `run_toy` recorded, with units and names."""
    start, target = puzzles.start.numpy(), puzzles.target.numpy()
    path = np.concatenate([start[:, None], steps["position"]], axis=1)
    by_segment, by_puzzle = ("puzzle", "segment"), ("puzzle",)
    return table.assign(
        solved=(by_segment, steps["solved"], {"units": "1", "long_name": "captured and within .05 of s"}),
        halt_logit=(by_segment, steps["halt_logit"], {"units": "1", "long_name": "1 when captured, else -1"}),
        position=(by_segment, steps["position"], {"units": "1", "long_name": "x after the segment"}),
        drift=(
            by_segment,
            np.abs(np.diff(path, axis=1)),
            {"units": "1", "long_name": "change of x in the segment"},
        ),
        first_solved=(
            by_puzzle,
            first_solved(steps["solved"]),
            {"units": "segments", "long_name": "first solved segment, -1 never"},
        ),
        start=(by_puzzle, start, {"units": "1", "long_name": "start of the search"}),
        target=(by_puzzle, target, {"units": "1", "long_name": "solution s"}),
    )


# -- exact values


def capture_probability(target: Float[np.ndarray, " S"], eps: float = CAPTURE) -> Float[np.ndarray, " S"]:
    """Invariant measure of the hole: (2/pi) [asin sqrt(s + eps) - asin sqrt(s - eps)]."""
    return _angle(target + eps) - _angle(target - eps)


def mean_capture_probability(eps: float = CAPTURE) -> float:
    """`capture_probability` averaged over s ~ U(.15, .85), in closed form."""
    integral = lambda u: ((u - 0.5) * np.arcsin(np.sqrt(u)) + 0.5 * np.sqrt(u * (1 - u))) * 2 / np.pi  # noqa: E731
    above, below = (integral(HIGH + d) - integral(LOW + d) for d in (eps, -eps))
    return float((above - below) / (HIGH - LOW))


def search_mass(
    target: Float[np.ndarray, " S"], eps: float = CAPTURE, cells: int = CELLS
) -> Iterator[Float[np.ndarray, "S cells"]]:
    """Probability of still searching and being in each cell, after 0, 1, 2, ... segments; x0 uniform.

    In the angle (2/pi) asin sqrt x the logistic map is the tent map, which takes each of `cells` equal
    cells onto two of them: its transfer operator on cell masses is exact for piecewise constant
    densities. The remaining error comes from the cells that the edges of the hole cut.
    """
    edges = np.linspace(0, 1, cells + 1)
    left, right = _angle(target - eps)[:, None], _angle(target + eps)[:, None]
    keep = 1 - np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None) * cells
    mass = np.broadcast_to(np.diff(np.sin(np.pi * edges / 2) ** 2), keep.shape)
    while True:
        yield mass
        folded = 0.5 * (mass[:, : cells // 2] + mass[:, ::-1][:, : cells // 2])
        mass = np.repeat(folded, 2, axis=1) * keep


def exact_toy(segments: int, solutions: int = 1000, cells: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Exact means over x0 ~ U(0, 1) and, by the midpoint rule, s ~ U(.15, .85).

    Returns:
        Fraction still searching after 0..segments segments, and mean growth (nats) of segments
        1..segments over all puzzles. With the default grids they are right to about 1e-5 and 1e-4.
    """
    target = LOW + (HIGH - LOW) * (np.arange(solutions) + 0.5) / solutions
    middle = (np.arange(cells) + 0.5) / cells
    searching = np.log(4 * np.abs(np.cos(np.pi * middle)))
    survival, growth = [], []
    for mass in islice(search_mass(target, cells=cells), segments + 1):
        survival.append(float(mass.sum(axis=1).mean()))
        growth.append(float((mass @ searching).mean()) - math.log(2) * (1 - survival[-1]))
    return np.array(survival), np.array(growth[:-1])


def exact_escape_rate(target: Float[np.ndarray, " S"], eps: float = CAPTURE) -> Float[np.ndarray, " S"]:
    """Asymptotic rate kappa(s) per segment, -ln of the leading eigenvalue of the open map, to 0.1 %."""
    searching = [mass.sum(axis=1) for mass in islice(search_mass(target, eps, cells=16384), 101)]
    return np.log(searching[80] / searching[100]) / 20


def _angle(x: Float[np.ndarray, "*dims"]) -> Float[np.ndarray, "*dims"]:
    return 2 / np.pi * np.arcsin(np.sqrt(x))


def toy_checks(run: xr.Dataset) -> list[Check]:
    """Exact values beside the measured ones; each tolerance is 4 standard errors of this run."""
    n, T = run.sizes["puzzle"], run.sizes["segment"]
    survival, growth = exact_toy(T)
    checks = []
    for t in sorted({max(T // 4, 1), max(T // 2, 1), T}):
        share, measured = 1 - survival[t], float(run.solved.values[:, t - 1].mean())
        error = math.sqrt(share * (1 - share) / n)
        checks.append(compare(f"solved by segment {t}", share, measured, 4 * error))
    ftle = run.ftle.values[:, 0]
    error = float(ftle.std()) / math.sqrt(n)
    checks.append(compare("FTLE, mean of all puzzles", growth.mean(), float(ftle.mean()), 4 * error))
    checks.append(compare("sum of growth, error of identity, 99 %", 0.0, _identity_error(run), 1e-6))
    return checks + _rate_check(run, survival) + _auc_check(run)


def _rate_check(run: xr.Dataset, survival: np.ndarray) -> list[Check]:
    """The mixed escape rate of the later segments against the exact survival function."""
    T = run.sizes["segment"]
    start, solved_at = T // 4, run.first_solved.values
    if start == 0 or not ((solved_at == -1) | (solved_at > start)).any():
        return []
    exact = -math.log1p(-(survival[start] - survival[T]) / survival[start:T].sum())
    measured = escape_rate(solved_at, start=start, stop=T)
    error = (measured.high - measured.low) / (2 * 1.96)
    return [compare(f"escape rate, segments {start + 1} to {T}", exact, measured.value, 4 * error)]


def _auc_check(run: xr.Dataset) -> list[Check]:
    """AUC of -FTLE at 16 segments, against simulations of 3.2e7 orbits (no closed form is known)."""
    solved = run.solved.values[:, -1]
    if run.sizes["segment"] != 16 or solved.all() or not solved.any():
        return []
    measured = auc(-run.ftle.values[:, 0], solved, resamples=2000, seed=0)
    error = (measured.high - measured.low) / (2 * 1.96)
    return [compare("AUC of -FTLE for solved", AUC_16, measured.value, 4 * error)]


def _identity_error(run: xr.Dataset) -> float:
    """99 % quantile of the error of an identity. The largest has no bound: orbits near x = .5 lose digits.

    Sum of growth = m ln 2 + .5 ln[x_m (1 - x_m) / x_0 (1 - x_0)] - (T - m) ln 2, where m is the number of
    searching segments: the capture time, or all T.
    """
    T, rows = run.sizes["segment"], np.arange(run.sizes["puzzle"])
    searching = np.where(run.first_solved.values > 0, run.first_solved.values, T)
    x0, xm = run.start.values, run.position.values[rows, searching - 1]
    ends = 0.5 * np.log(xm * (1 - xm) / (x0 * (1 - x0)))
    exact = (2 * searching - T) * math.log(2) + ends
    return float(np.quantile(np.abs(run.growth.values[:, :, 0].sum(axis=1) - exact), 0.99))
