"""Changing an orbit on purpose: each intervention makes a system of a system, so they compose.

    measure(frozen(model, "z_L"), puzzles, exponents=4)         # z_L keeps its start
    measure(noisy(damped(model, 0.5), 0.1, seed=0), puzzles)
    measure(kicked_at(model, 8, sigma=0.3, seed=0), puzzles)    # segment 1 is the ninth of the plain orbit

The wrapped system is as pure as the one inside. There is no clock: an intervention at segment m is the
system that starts at z(m), changed. What was held or swapped is computed once and travels in the context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopscope.dynamics.system import exact_arithmetic
from loopscope.errors import UserError
from loopscope.evaluation.starts import kicked, row_keys
from loopscope.files import sha256
from loopscope.latent import batch_size, leaves, repeat, tree_map
from loopscope.models.noise import GOLDEN, mix


class Changed:
    """A system with one thing changed; what it does not change it takes from the system inside.

    Attributes:
        hidden: what it does not take from there: the single updates, where the map is a changed one.
    """

    hidden: tuple[str, ...] = ("updates", "schedule")

    def __init__(self, system: Any, what: str) -> None:
        self.inside, self.what = system, what

    @property
    def applications_per_segment(self) -> int:
        return int(self.inside.applications_per_segment)

    @property
    def content_hash(self) -> str:
        """Of the system inside and the change: a measurement of the one is not continued with the other."""
        from loopscope.evaluation.subject import identity

        return sha256(str(identity(self.inside)["model_hash"]).encode(), self.what.encode())

    def encode(self, batch: Any) -> Any:
        return self.inside.encode(batch)

    def initial_state(self, ctx: Any) -> Any:
        return self.inside.initial_state(ctx)

    def segment(self, z: Any, ctx: Any) -> Any:
        return self.inside.segment(z, ctx)

    def readout(self, z: Any, ctx: Any) -> Any:
        return self.inside.readout(z, ctx)

    def __getattr__(self, name: str) -> Any:
        """Device, settings, dtype and the like."""
        if name == "compute_in":
            compute_in = self.inside.compute_in
            return lambda dtype: (compute_in(dtype), self)[1]
        if name.startswith("__") or name in ("inside", *self.hidden):
            raise AttributeError(name)
        return getattr(self.inside, name)


class With(NamedTuple):
    """A context and what goes with it, such as a latent."""

    ctx: Any
    more: Any


class Carrying(Changed):
    """The context carries something more (`With`); the map is that of the system inside."""

    hidden: tuple[str, ...] = ()

    def initial_state(self, ctx: With) -> Any:
        return self.inside.initial_state(ctx.ctx)

    def segment(self, z: Any, ctx: With) -> Any:
        return self.inside.segment(z, ctx.ctx)

    def readout(self, z: Any, ctx: With) -> Any:
        return self.inside.readout(z, ctx.ctx)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return (lambda ctx: found(ctx.ctx)) if name == "updates" else found


# -- other starts


class _Started(Changed):
    hidden = ()  # the map is the one inside

    def __init__(self, system: Any, what: str, start: Callable[[Any], Any]) -> None:
        super().__init__(system, what)
        self.start = start

    def initial_state(self, ctx: Any) -> Any:
        return self.start(ctx)


def started_at(system: Any, segment: int) -> Any:
    """The system that starts where the orbit is after `segment` segments."""
    if segment < 0:
        raise UserError(f"segment={segment}: expected 0 or more.")
    return _Started(system, f"started at {segment}", lambda ctx: _run(system, ctx, segment))


def kicked_at(system: Any, segment: int, *, sigma: float, seed: int) -> Any:
    """The system that starts after `segment` segments and a kick.

    Args:
        system: its orbit runs undisturbed until then.
        segment: 0 kicks the start.
        sigma: in the units of `evaluation.starts.perturbed_start`.
        seed: a puzzle's kick depends on it and on the puzzle, not on the batch.
    """
    start = started_at(system, segment)

    def move(ctx: Any) -> Any:
        keys = _keys(system.initial_state(ctx), ctx, seed)  # of the start: later bits depend on the batch
        return kicked(start.initial_state(ctx), sigma, row_keys(keys, torch.full_like(keys, segment)))

    return _Started(system, f"kicked at {segment}, sigma {sigma}, seed {seed}", move)


class _Swapped(Carrying):
    """The donors' state is made on encoding, where the number of puzzles is known."""

    def __init__(self, system: Any, donors: Any, segment: int) -> None:
        self.donors, self.after = donors, segment
        content = b"".join(t.detach().cpu().numpy().tobytes() for t in leaves(donors))
        super().__init__(system, f"swapped at {segment}, {sha256(content)}")

    def encode(self, batch: Any) -> With:
        ctx = self.inside.encode(batch)
        donor_ctx = self.inside.encode(self.donors)
        z = _run(self.inside, donor_ctx, self.after)
        size, given = batch_size(self.inside.initial_state(ctx)), batch_size(z)
        if given not in (1, size):
            raise UserError(
                f"swapped: {given} donors for {size} puzzles. Give one donor; a donor for each puzzle goes "
                "with a batch of as many, as in lyapunov_spectrum, not with measure."
            )
        return With(ctx, z if given == size else repeat(z, size))

    def initial_state(self, ctx: With) -> Any:
        return ctx.more


def swapped(system: Any, donors: Any, segment: int) -> Any:
    """Every puzzle starts from the state that another one has after `segment` segments.

    Args:
        system: the one that runs both.
        donors: a batch of one puzzle that gives its state to all; or of one for each puzzle, where all of
            them run as one batch (`lyapunov_spectrum`, not `measure`).
        segment: when the donors' states are taken.
    """
    return _Swapped(system, donors, segment)


# -- parts held


class _Held(Carrying):
    """Named parts of the latent keep one value, through every update where the system offers updates."""

    hidden = Changed.hidden

    def __init__(self, system: Any, parts: tuple[str, ...], keep: float, what: str) -> None:
        super().__init__(system, f"{what} {' '.join(parts)}")
        self.parts, self.keep = parts, keep

    def encode(self, batch: Any) -> With:
        ctx = self.inside.encode(batch)
        z = self.inside.initial_state(ctx)
        names = getattr(z, "_fields", ())
        for part in self.parts:
            if part not in names:
                raise UserError(f"part {part}: the latent has {', '.join(names) or 'no named parts'}.")
        return With(ctx, tree_map(lambda t: self.keep * t, z))

    def initial_state(self, ctx: With) -> Any:
        return self._hold(self.inside.initial_state(ctx.ctx), ctx)

    def segment(self, z: Any, ctx: With) -> Any:
        z = self._hold(z, ctx)
        plain = [lambda z: self.inside.segment(z, ctx.ctx)]
        for f in self.inside.updates(ctx.ctx) if hasattr(self.inside, "updates") else plain:
            z = self._hold(f(z), ctx)
        return z

    def _hold(self, z: Any, ctx: With) -> Any:
        return z._replace(**{part: getattr(ctx.more, part) for part in self.parts})


def frozen(system: Any, *parts: str) -> Any:
    """Named parts of the latent keep the value they start with, such as "z_L".

    They are constants then, with exponents of -inf. To freeze from segment m on, wrap
    `started_at(system, m)`.
    """
    return _Held(system, parts, 1.0, "frozen")


def ablated(system: Any, *parts: str) -> Any:
    """Named parts of the latent are zero all the time."""
    return _Held(system, parts, 0.0, "ablated")


# -- a changed map


class _Damped(Changed):
    def __init__(self, system: Any, share: float) -> None:
        super().__init__(system, f"damped {share}")
        self.share = share

    def segment(self, z: Any, ctx: Any) -> Any:
        return tree_map(lambda a, b: a + self.share * (b - a), z, self.inside.segment(z, ctx))


def damped(system: Any, share: float) -> Any:
    """z' = z + share (F(z) - z): the same fixed points, approached in smaller or larger steps."""
    return _Damped(system, share)


class _Noisy(Changed):
    def __init__(self, system: Any, sigma: float, seed: int) -> None:
        super().__init__(system, f"noisy {sigma}, seed {seed}")
        self.sigma, self.seed = sigma, seed

    def segment(self, z: Any, ctx: Any) -> Any:
        noise = tree_map(torch.zeros_like, tree_map(torch.Tensor.detach, z))
        noise = kicked(noise, self.sigma, _keys(z, ctx, self.seed))  # of constant parts the unit is 1
        return tree_map(torch.add, self.inside.segment(z, ctx), noise)


def noisy(system: Any, sigma: float, *, seed: int) -> Any:
    """Normal noise of size sigma is added after every segment.

    It is a function of the seed and of the bits of the state and the input, so the map stays pure, and
    its tangents are those of the map inside. States that differ in one bit get independent noise: another
    batch size, which changes the rounding, gives another draw of it; and tangents must be compared with
    differences (`check_system`) on the system inside.
    """
    return _Noisy(system, sigma, seed)


def _run(system: Any, ctx: Any, segments: int) -> Any:
    z = system.initial_state(ctx)
    with exact_arithmetic(leaves(z)[0].device):
        for _ in range(segments):
            z = system.segment(z, ctx)
    return z


def _keys(z: Any, ctx: Any, seed: int) -> Tensor:
    """A key for the noise of every row, from the bits of its state and input."""
    size = batch_size(z)
    parts = [t for t in [*leaves(z), *leaves(ctx)] if t.shape[0] == size]
    keys = torch.full((size,), seed, dtype=torch.int64, device=parts[0].device)
    for part in parts:
        words = part.detach().flatten(1).double().contiguous().view(torch.int64)
        places = torch.arange(words.shape[1], device=words.device)
        keys = mix(keys + GOLDEN + mix(words + GOLDEN * places).sum(1))
    return keys


__all__ = ["ablated", "damped", "frozen", "kicked_at", "noisy", "started_at", "swapped"]
