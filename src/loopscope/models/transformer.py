"""The plain transformer baseline of the HRM paper: one pass of a deep block per segment."""

from __future__ import annotations

from torch import Tensor

from loopscope.models.recursion import ARCHITECTURES, RecursiveModel


@ARCHITECTURES.register("transformer")
class Transformer(RecursiveModel):
    """z <- f(z, x) with `H_layers` layers; officially 12 heads of 42 at width 512."""

    schedule = ("H",)
    grad_tail = 1
    state_names = ("H",)

    def build(self) -> None:
        self.H_level = self.reasoning_module(self.settings.H_layers)

    def update(self, which: str, z: Tensor, x: Tensor) -> Tensor:
        return self.H_level(z, x, self.rope)

    @property
    def trains_continue(self) -> bool:
        """Never: the official baseline halts by its continue head but does not train it."""
        return False

    def read(self, z: Tensor) -> Tensor:
        return z
