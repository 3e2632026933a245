"""What can be turned at inference with the weights as they are, and when an orbit may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import UserError
from loopscope.evaluation.selection import RULES

STARTS = ("perturbed", "random")
STOPS = ("budget", "halt", "settled", "unchanged", "halt+unchanged")
SETTLED = (
    0.02  # relative change over a segment below which an orbit counts as settled; bfloat16 rests at 0.008
)
TWICE = 2  # segments without a change of the answer after which "unchanged" stops


@dataclass(frozen=True)
class Levers:
    """How puzzles are answered; the fields are the arguments of `solve`.

    A puzzle has `restarts` times `views` rollouts with each model.

    Raises:
        UserError: an unknown name or a number out of range.
    """

    segments: int = 16
    restarts: int = 1
    noise: float = 0.3
    start: str = "perturbed"
    segment_noise: float = 0.0
    views: int = 1
    stop: str = "budget"
    select: str = "halt"
    seed: int = 0

    def __post_init__(self) -> None:
        known = {"select": ("rule", RULES), "start": ("start", STARTS), "stop": ("rule", STOPS)}
        for key, (kind, names) in known.items():
            if (value := getattr(self, key)) not in names:
                raise UserError(f"{key}={value}: unknown {kind}. Choose one of {', '.join(names)}.")
        for key, what in {"segments": "", "restarts": ", the plain start", "views": ", the puzzle"}.items():
            if (value := getattr(self, key)) < 1:
                raise UserError(f"{key}={value}: expected at least 1{what}.")
        for key in ("noise", "segment_noise"):
            if not 0 <= (value := getattr(self, key)) < float("inf"):
                raise UserError(f"{key}={value}: expected a finite number from 0 up.")

    @property
    def is_plain(self) -> bool:
        """Whether this is one orbit of full length from the model's own start."""
        return self.restarts == self.views == 1 and self.segment_noise == 0 and self.stop == "budget"

    def to_dict(self) -> dict[str, Any]:
        """All of them but the number of segments, which tables have in a column."""
        return {key: value for key, value in asdict(self).items() if key != "segments"}


def in_words(levers: Mapping[str, Any], models: int = 1) -> str:
    """The levers of `Levers.to_dict` that were turned, for a person."""
    restarts, views, noise = levers["restarts"], levers["views"], levers["segment_noise"]
    kick = f"noise {levers['noise']:g}" if levers["start"] == "perturbed" else "random starts"
    found = [f"{models} models"] if models > 1 else []
    found += [f"{views} views of each puzzle"] if views > 1 else []
    found += [f"{restarts} rollouts, {kick}"] if restarts > 1 else []
    found += [f"noise {noise:g} before every segment"] if noise else []
    found += [f"stopped by {levers['stop']}"] if levers["stop"] != "budget" else []
    return ", ".join(found + [f"chosen by {levers['select']}"] * (restarts * views * models > 1))


def may_stop(
    rule: str, halt: Float[Tensor, " B"], residual: Float[Tensor, " B"], unchanged: Int[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """Which orbits a stop rule ends after a segment.

    Args:
        rule: "halt": the model calls its answer right (logit at least 0). "settled": relative change below
            `SETTLED`. "unchanged": the answer is that of the two segments before. "halt+unchanged": the
            model calls its answer right, and it is that of the segment before. "budget": none.
        halt: logits.
        residual: relative change of the latent over the segment.
        unchanged: segments since the answer last changed.
    """
    says_right = halt >= 0
    return {
        "budget": torch.zeros_like(says_right),
        "halt": says_right,
        "settled": residual < SETTLED,
        "unchanged": unchanged >= TWICE,
        "halt+unchanged": says_right & (unchanged >= 1),
    }[rule]
