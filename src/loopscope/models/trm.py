"""The Tiny Recursive Model: one shared block that updates two states, or a single one.

Source: "Less is More: Recursive Reasoning with Tiny Networks" (2510.04871).
"""

from __future__ import annotations

from torch import Tensor

from loopscope.models.recursion import ARCHITECTURES, HL, RecursiveModel


def cycles(L_cycles: int, H_cycles: int) -> tuple[str, ...]:
    """The schedule of a segment: `L_cycles` updates of z_L, one of z_H, `H_cycles` times."""
    return (("L",) * L_cycles + ("H",)) * H_cycles


@ARCHITECTURES.register("trm")
class TRM(RecursiveModel):
    """z_L <- f(z_L, z_H + x); z_H <- f(z_H, z_L); the last H-cycle carries the gradient."""

    def build(self) -> None:
        s = self.settings
        self.schedule = cycles(s.L_cycles, s.H_cycles)
        self.grad_tail = s.L_cycles + 1
        self.L_level = self.reasoning_module(s.L_layers)

    def update(self, which: str, z: HL, x: Tensor) -> HL:
        if which == "L":
            return HL(z.z_H, self.L_level(z.z_L, z.z_H + x, self.rope))
        return HL(self.L_level(z.z_H, z.z_L, self.rope), z.z_L)

    def read(self, z: HL) -> Tensor:
        return z.z_H


@ARCHITECTURES.register("trm-singlez")
class SingleZTRM(TRM):
    """TRM on a single state: z <- f(z + x) in an L-update, z <- f(z) in an H-update."""

    state_names = ("L",)

    def update(self, which: str, z: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        # x is added out here: compiled with and without it, the block would pass Dynamo's limit of 8 graphs.
        return self.L_level(z + x if which == "L" else z, None, self.rope)

    def read(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return z
