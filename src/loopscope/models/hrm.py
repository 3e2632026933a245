"""The Hierarchical Reasoning Model, version 1: separate blocks for the slow and the fast state.

Source: "Hierarchical Reasoning Model" (2506.21734).
"""

from __future__ import annotations

from torch import Tensor

from loopscope.models.recursion import ARCHITECTURES, HL, RecursiveModel
from loopscope.models.trm import cycles


@ARCHITECTURES.register("hrm")
class HRM(RecursiveModel):
    """z_L <- f_L(z_L, z_H + x); z_H <- f_H(z_H, z_L); gradient through the last L- and H-update."""

    grad_tail = 2

    def build(self) -> None:
        s = self.settings
        self.schedule = cycles(s.L_cycles, s.H_cycles)
        self.H_level = self.reasoning_module(s.H_layers)
        self.L_level = self.reasoning_module(s.L_layers)

    def update(self, which: str, z: HL, x: Tensor) -> HL:
        if which == "L":
            return HL(z.z_H, self.L_level(z.z_L, z.z_H + x, self.rope))
        return HL(self.H_level(z.z_H, z.z_L, self.rope), z.z_L)

    def read(self, z: HL) -> Tensor:
        return z.z_H
