"""Official module objects as systems: blocks driven as their `inner.forward` drives them, nothing detached.

For a model that somebody holds as an object, perhaps with blocks changed by hand. A checkpoint is better
read with `loopscope.load`, which is faster and tells more. The official forward runs all but the last
cycle without gradient and detaches the carry; here the same calls make one differentiable map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.errors import UserError
from loopscope.files import sha256
from loopscope.models.recursion import DTYPES, HL, Context, Readout
from loopscope.models.trm import cycles
from loopscope.tasks.base import Batch

NEEDED = ("config", "L_level", "H_init", "L_init", "lm_head", "q_head", "_input_embeddings")
CASTING = ("embed_tokens", "embed_pos", "puzzle_emb")  # embeddings that keep the dtype they cast to


class OfficialSystem:
    """A TRM or HRM of the official code; made by `adapt`."""

    def __init__(self, inner: Any, dtype: torch.dtype) -> None:
        self.inner, self.dtype = inner, dtype
        self.settings = inner.config  # tells halt_max_steps, seq_len and vocab_size
        self.schedule = cycles(inner.config.L_cycles, inner.config.H_cycles)
        self._H_level = getattr(inner, "H_level", inner.L_level)  # TRM has one block for both

    @property
    def applications_per_segment(self) -> int:
        """Block applications in one segment."""
        return len(self.schedule)

    @property
    def device(self) -> torch.device:
        return torch.device(self.inner.H_init.device)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.inner.parameters())

    @property
    def content_hash(self) -> str:
        """sha256 over names and values of all tensors, and the cycles."""
        parts = [repr((self.schedule, str(self.dtype))).encode()]
        for name, tensor in self.inner.state_dict().items():
            parts += [name.encode(), tensor.detach().cpu().double().numpy().tobytes()]
        return sha256(*parts)

    def encode(self, batch: Batch) -> Context:
        return Context(self.inner._input_embeddings(batch.inputs, batch.puzzle_ids))

    def initial_state(self, ctx: Context) -> HL:
        starts = (self.inner.H_init, self.inner.L_init)
        return HL(*(start.to(self.dtype).expand_as(ctx.x).clone() for start in starts))

    def segment(self, z: HL, ctx: Context) -> HL:
        for update in self.updates(ctx):
            z = update(z)
        return z

    def updates(self, ctx: Context) -> list[Callable[[HL], HL]]:
        """The calls of one segment, in order."""
        rope = {"cos_sin": self.inner.rotary_emb() if hasattr(self.inner, "rotary_emb") else None}
        single = {
            "L": lambda z: HL(z.z_H, self.inner.L_level(z.z_L, z.z_H + ctx.x, **rope)),
            "H": lambda z: HL(self._H_level(z.z_H, z.z_L, **rope), z.z_L),
        }
        return [single[which] for which in self.schedule]

    def readout(self, z: HL, ctx: Context | None = None) -> Readout:
        logits = self.inner.lm_head(z.z_H)
        prefix = logits.shape[1] - self.settings.seq_len
        q: Tensor = self.inner.q_head(z.z_H[:, 0]).float()
        return Readout(logits[:, prefix:], q[:, 0], q[:, 1])


def adapt(official: nn.Module, *, dtype: str = "float32") -> OfficialSystem:
    """A system from an object of the official code, ready for `measure`.

    Args:
        official: `TinyRecursiveReasoningModel_ACTV1`, `HierarchicalReasoningModel_ACTV1`, a loss head around
            one, or its `inner`. It is copied and left as it is.
        dtype: what the copy computes in: float32 or bfloat16. Only float32 can be measured.
    Raises:
        UserError: it has not the parts of the official code.

    Attention kernels without a forward derivative (flash) give an error on measuring; `check_system` tells.
    """
    inner: Any = official
    for name in ("_orig_mod", "model", "_orig_mod", "inner"):
        inner = getattr(inner, name, inner)
    missing = [name for name in NEEDED if not hasattr(inner, name)]
    if missing:
        raise UserError(
            f"adapt: {type(official).__name__} has no {', '.join(missing)}. "
            "Expected an official TRM or HRM object."
        )
    if dtype not in ("float32", "bfloat16"):
        raise UserError(
            f"adapt: dtype={dtype}: expected float32 or bfloat16; official norms compute in float32."
        )
    inner = copy.deepcopy(inner).eval()
    inner.forward_dtype = DTYPES[dtype]
    for name in CASTING:
        if hasattr(inner, name):
            getattr(inner, name).cast_to = DTYPES[dtype]
    return OfficialSystem(inner, DTYPES[dtype])
