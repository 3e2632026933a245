"""What tangents cost, in plain forwards of the same machine.

k tangents beside the state cost at least 1 + k forwards. Forward and tangents are timed in turn, in the
same process, so that both meet the same disturbances; the ratios are worth more than the times. Two block
applications stand for a segment: the ratio is that of all, and a full-size model is timed in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.dynamics.tangents import Function, orthonormal_start, orthonormalise, push, push_by_jvp
from loopscope.errors import UserError
from loopscope.evaluation.bench import random_batch
from loopscope.latent import flatten
from loopscope.models import RecursiveModel
from loopscope.models.tangents import stacked_updates, stacks_tangents
from loopscope.training.bench import seconds_of


def bench_lyapunov(
    model: RecursiveModel,
    *,
    exponents: Sequence[int] = (4, 8),
    batch_size: int = 2,
    rounds: int = 7,
    jvp: bool = True,
) -> dict[str, Any]:
    """Time tangents and plain forwards in turn.

    Args:
        model: one of ours, computing in float32 or float64.
        exponents: numbers of tangents, k.
        batch_size: puzzles; boards are random.
        rounds: pairs that count, after one that does not.
        jvp: also time `vmap(jvp)`, which other systems use.
    Returns:
        Plain values: `seconds` of a plain block application (median), and for every k in `rows`: `ideal`
        = 1 + k, and the medians over the rounds of `stacked` and `jvp` in plain forwards, and of `rest`:
        the QR of a segment as a fraction of the segment's stacked tangents.
    Raises:
        UserError: a model that does not offer stacked tangents.
    """
    if not stacks_tangents(model):
        raise UserError(
            f"{type(model).__name__}: no stacked tangents, for it has an update or layer of its own."
        )
    z, Q_by_k, functions = _at_work(model, exponents, batch_size)
    plain: list[float] = []
    ratios: dict[tuple[int, str], list[float]] = {}
    with exact_arithmetic(model.device):
        for counts in range(rounds + 1):
            timed = seconds_of(lambda: [f(z) for f in functions], model.device)
            spent = {k: _times(functions, z, Q, model, jvp) for k, Q in Q_by_k.items()}
            if not counts:
                continue
            plain.append(timed)
            for k, times in spent.items():
                share = times["qr"] * len(functions) / model.applications_per_segment / times["stacked"]
                found = {"rest": share} | {way: t / timed for way, t in times.items() if way != "qr"}
                for way, ratio in found.items():
                    ratios.setdefault((k, way), []).append(ratio)
    rows = [_row(k, ratios) for k in Q_by_k]
    return {
        "model": str(model.facts.get("name", model.settings.arch)),
        "seconds": float(np.median(plain)) / len(functions),
        "rows": rows,
        "batch_size": batch_size,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def _at_work(
    model: RecursiveModel, exponents: Sequence[int], batch_size: int
) -> tuple[Any, dict[int, Tensor], list[Function]]:
    """A latent on its way, tangents there, and the last update of either kind in a segment."""
    with exact_arithmetic(model.device):
        ctx = model.encode(random_batch(model, batch_size))
        z = model.segment(own_memory(model.initial_state(ctx)), ctx)
        Q_by_k = {k: orthonormal_start(z, k, seed=0) for k in exponents}
        updates = stacked_updates(model, ctx)
    assert flatten(z).isfinite().all()
    return z, Q_by_k, list(updates[-2:])


def _times(
    functions: list[Function], z: Any, Q: Float[Tensor, "B N k"], model: RecursiveModel, jvp: bool
) -> dict[str, float]:
    """Seconds of the tangents of some updates, and of one QR."""
    device = model.device
    times = {"stacked": seconds_of(lambda: [push(f, z, Q) for f in functions], device)}
    if jvp:
        times["jvp"] = seconds_of(lambda: [push_by_jvp(f, z, Q) for f in functions], device)
    return times | {"qr": seconds_of(lambda: orthonormalise(Q), device)}


def _row(k: int, ratios: dict[tuple[int, str], list[float]]) -> dict[str, int | float]:
    medians = {way: float(np.median(values)) for (tangents, way), values in ratios.items() if tangents == k}
    return {"k": k, "ideal": 1 + k} | medians
