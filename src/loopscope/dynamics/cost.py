"""What a measurement would cost: work, room, and the time estimated from a short probe.

The probe measures the first block of the real puzzles for a few segments, once for each kind of segment
that the plan has: with tangents, plain, restarted. A run of one segment tells apart what a block costs
once, whatever its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import xarray as xr

from loopscope.dynamics.measure import _measure_block, computing_in
from loopscope.dynamics.plan import Plan, plan_for
from loopscope.dynamics.system import exact_arithmetic
from loopscope.evaluation.subject import blocks, check_fits, check_numbers, device_of
from loopscope.latent import leaves
from loopscope.tasks.base import PuzzleSet
from loopscope.training.bench import seconds_of
from loopscope.training.distributed import num_processes

LONG = 1.0  # seconds that a probed run must take
MOST = 64  # or segments


def measure_cost(
    model: Any, puzzles: PuzzleSet, *, batch_size: int = 32, probe: bool = True, **settings: Any
) -> dict[str, Any]:
    """Plan a measurement without making it.

    Args:
        model, puzzles, batch_size, settings: as for `measure`.
        probe: measure some segments to tell the time, about ten of each kind on a slow machine.
    Returns:
        Plain values: `plan` (the settings that have an effect), counts of `puzzles`, `chunks` and
        `block applications` of orbits and restarts, `FLOPs` (matrix products, a tangent as one more
        forward; NaN where a model does not tell), `bytes of tangents` of a block. With the probe also
        `bytes on disk`, before Zarr makes them fewer, and `seconds` of a block and of the whole, which
        all processes share; writing is not in it.
    Raises:
        UserError: as `measure`.
    """
    check_numbers(batch_size, settings.get("seed", 0))
    check_fits(model, puzzles, labels=True)
    plan, parts = plan_for(model, **settings), blocks(len(puzzles), batch_size)
    cost = {"plan": plan.in_force(), **_work(model, puzzles, parts[0], plan), "chunks": len(parts)}
    if not probe:
        return cost
    with computing_in(model, plan.dtype):
        runs, seconds = _probe(model, puzzles, parts[0], plan)
    mine = len(puzzles) / parts[0].stop if num_processes() == 1 else math.ceil(len(parts) / num_processes())
    timed = {"seconds per block": seconds, "seconds": mine * seconds}
    return cost | {"bytes on disk": len(puzzles) * _bytes_per_puzzle(runs, plan)} | timed


def _work(model: Any, puzzles: PuzzleSet, block: slice, plan: Plan) -> dict[str, Any]:
    """Counts that need no run."""
    applications = len(puzzles) * int(model.applications_per_segment)
    with exact_arithmetic(device_of(model)):
        z = model.initial_state(model.encode(puzzles[:1].batch(device_of(model))))
    wide = "float64" in (plan.tangent_dtype or plan.dtype, str(leaves(z)[0].dtype).removeprefix("torch."))
    tangents = block.stop * plan.exponents * plan.tangent_seeds
    return {
        "puzzles": len(puzzles),
        "block applications": applications * plan.map_segments,
        "FLOPs": applications * plan.work * float(getattr(model, "application_flops", math.nan)),
        "bytes of tangents": tangents * sum(t.numel() for t in leaves(z)) * (8 if wide else 4),
    }


def _probe(model: Any, puzzles: PuzzleSet, block: slice, plan: Plan) -> tuple[xr.Dataset, float]:
    """The block measured for one segment, and the seconds that the whole plan takes for it."""

    def run(short: Plan) -> xr.Dataset:
        return _measure_block(model, puzzles, block, short)

    plain = replace(plan, segments=1, exponents=0, sigmas=())
    followed = plan.exponent_segments if plan.exponents else 0
    kinds: list[tuple[int, Callable[[int], Plan]]] = [  # segments of a kind, and a plan of n such
        (followed, lambda n: replace(plan, sigmas=(), segments=n, exponent_segments=n)),
        (plan.segments - followed, lambda n: replace(plain, segments=n)),
        (plan.restarted, lambda n: replace(plain, sigmas=plan.sigmas[:1], restarts=1, restart_segments=n)),
    ]
    first = run(replace(plan, segments=1, exponent_segments=1, restarts=1, restart_segments=1))
    once = total = 0.0
    for segments, shape in kinds:
        if segments:
            fixed, rate = _per_segment(
                lambda n, of=shape: seconds_of(lambda: run(of(n)), device_of(model))  # type: ignore[misc]
            )
            once, total = max(once, fixed), total + segments * rate
    return first, once + total


def _per_segment(seconds: Callable[[int], float]) -> tuple[float, float]:
    """Seconds that do not depend on the number of segments, and those of a segment."""
    n, many = 2, seconds(3)
    while many < LONG and n < MOST:
        n *= 2
        many = seconds(1 + n)
    one = median(seconds(1) for _ in range(3))
    rate = max(many - one, 0.0) / n
    return max(one - rate, 0.0), rate


def _bytes_per_puzzle(runs: xr.Dataset, plan: Plan) -> int:
    """Room of one puzzle in a whole measurement, from the variables of a short one."""
    sizes = {str(dim): size for dim, size in runs.sizes.items()}
    sizes |= {"puzzle": 1, "segment": plan.segments, "restart": plan.restarts}
    variables = [v for v in runs.variables.values() if "puzzle" in v.dims]
    return sum(v.dtype.itemsize * math.prod(sizes[str(d)] for d in v.dims) for v in variables)
