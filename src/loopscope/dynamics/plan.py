"""What a measurement is to do, and how much work and room that takes; no model runs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loopscope.errors import UserError
from loopscope.evaluation.subject import budget_of

FLOATS = ("float32", "bfloat16", "float64")
LEAST = {
    "segments": 1,
    "exponents": 0,
    "exponent_segments": 1,
    "tangent_seeds": 1,
    "restarts": 1,
    "restart_segments": 1,
}


@dataclass(frozen=True)
class Plan:
    """What is measured; two results with equal plans, models and data are equal.

    Attributes:
        segments: length of the orbits.
        exponents: leading Lyapunov exponents per puzzle; 0 measures none.
        exponent_segments: how many segments, from the first, the exponents cover.
        tangent_seeds: independent sets of tangents along the same orbit.
        sigmas: sizes of the perturbation of restarts; empty runs none.
        restarts: restarts per sigma.
        restart_segments: length of a restarted orbit.
        reorth: re-orthonormalise the tangents after every "segment" or every "update".
        dtype: in which a model of ours computes its orbit.
        tangent_dtype: in which the tangents travel; empty for the dtype of the orbit.
        seed: of tangents and perturbations.
    """

    segments: int
    exponents: int
    exponent_segments: int
    tangent_seeds: int
    sigmas: tuple[float, ...]
    restarts: int
    restart_segments: int
    reorth: str
    dtype: str
    tangent_dtype: str
    seed: int

    def __post_init__(self) -> None:
        for name, low in LEAST.items():
            if getattr(self, name) < low:
                raise UserError(f"{name}={getattr(self, name)}: expected at least {low}.")
        if any(not 0 <= sigma < float("inf") for sigma in self.sigmas):
            raise UserError(f"sigmas={list(self.sigmas)}: expected numbers from 0 up.")
        if self.reorth not in ("segment", "update"):
            raise UserError(f"reorth={self.reorth}: expected segment or update.")
        if self.dtype not in FLOATS:
            raise UserError(f"dtype={self.dtype}: expected one of {', '.join(FLOATS)}.")
        if self.tangent_dtype not in ("", "float32", "float64"):
            raise UserError(f"tangent_dtype={self.tangent_dtype}: expected float32 or float64.")

    def in_force(self) -> dict[str, Any]:
        """The settings that have an effect; those of exponents or restarts only where there are any."""
        idle = set() if self.exponents else {"exponent_segments", "reorth"}
        idle |= set() if self.sigmas else {"restarts", "restart_segments"}
        idle |= set() if self.exponents or self.sigmas else {"seed"}
        idle |= {"tangent_seeds"} if not self.exponents or self.tangent_seeds == 1 else set()
        idle |= {"tangent_dtype"} if not (self.exponents and self.tangent_dtype) else set()
        idle |= {"dtype"} if self.dtype == "float32" else set()
        return {name: value for name, value in asdict(self).items() if name not in idle}

    @property
    def restarted(self) -> int:
        """Segments that the restarts of one puzzle take; one more tells where the unkicked orbit goes."""
        kicks = len(self.sigmas) * self.restarts
        return kicks * self.restart_segments + 1 if kicks else 0

    @property
    def map_segments(self) -> int:
        """Segments that one puzzle takes, restarts included."""
        return self.segments + self.restarted

    @property
    def work(self) -> int:
        """The same in plain segments of equal work: each tangent costs another one, and so does the value
        beside tangents of another dtype."""
        tangents = self.tangent_seeds * self.exponents + (self.exponents > 0 and self.tangent_dtype != "")
        return self.map_segments + (tangents * self.exponent_segments if self.exponents else 0)


def plan_for(
    model: Any,
    *,
    segments: int | None = None,
    exponents: int = 0,
    exponent_segments: int | None = None,
    tangent_seeds: int = 1,
    sigmas: Sequence[float] = (),
    restarts: int = 8,
    restart_segments: int | None = None,
    reorth: str = "segment",
    dtype: str = "float32",
    tangent_dtype: str | None = None,
    seed: int = 0,
) -> Plan:
    """The plan of a measurement, what was left open filled in from the model; arguments as in `measure`.

    Raises:
        UserError: a plan that cannot be.
    """
    if (budget := budget_of(model) or segments) is None:
        raise UserError(f"segments: {type(model).__name__} tells no training budget. Say how many to run.")
    if dtype != "float32" and not hasattr(model, "compute_in"):
        raise UserError(
            f"dtype={dtype}: {type(model).__name__} offers no compute_in. Cast it, and leave dtype out."
        )
    if tangent_dtype is None:
        tangent_dtype = "float32" if dtype == "bfloat16" else ""
    length = budget if segments is None else segments
    return Plan(
        segments=length,
        exponents=exponents,
        exponent_segments=min(length, budget if exponent_segments is None else exponent_segments),
        tangent_seeds=tangent_seeds,
        sigmas=tuple(float(sigma) for sigma in sigmas),
        restarts=restarts,
        restart_segments=budget if restart_segments is None else restart_segments,
        reorth=reorth,
        dtype=dtype,
        tangent_dtype="" if tangent_dtype == dtype and hasattr(model, "compute_in") else tangent_dtype,
        seed=seed,
    )
