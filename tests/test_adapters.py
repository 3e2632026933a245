"""An object of the official code, driven without detaching, equals our model with the same weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.measure import measure
from loopscope.dynamics.system import check_system, exact_arithmetic, require
from loopscope.dynamics.tangents import push
from loopscope.errors import UserError
from loopscope.models import build_model
from loopscope.models.adapters import adapt
from loopscope.models.official import settings_from_arch, strip_prefix
from loopscope.tasks.base import Batch
from shared import shared_path
from tiny import tiny_model, tiny_puzzles

RECORDED = ("z_H", "z_L", "logits", "q_halt_logits", "q_continue_logits")


class Level(nn.Module):
    """A reasoning module under its official signature: f(hidden, injection, cos_sin=...)."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, hidden, injection, cos_sin=None):
        return self.module(hidden.transpose(0, 1), injection.transpose(0, 1), cos_sin).transpose(0, 1)


class Inner(nn.Module):
    """The attributes and the forward structure of the official inner module."""

    def __init__(self, ours):
        super().__init__()
        self.config, self.forward_dtype = ours.settings, torch.float32
        self.embed_tokens, self.lm_head, self.q_head = ours.embed_tokens, ours.lm_head, ours.q_head
        self.L_level = Level(ours.L_level)
        if hasattr(ours, "H_level"):
            self.H_level = Level(ours.H_level)
        self.register_buffer("H_init", ours.H_init)
        self.register_buffer("L_init", ours.L_init)
        if ours.rope is not None:
            self.rotary_emb = lambda: ours.rope
        self.ours = [ours]

    def _input_embeddings(self, inputs, puzzle_identifiers):
        return self.ours[0].encode(Batch(inputs, puzzle_identifiers)).x

    def forward(self, carry, batch):
        """As officially: all cycles but the last without gradient, the new carry detached."""
        x, (z_H, z_L) = self._input_embeddings(batch.inputs, batch.puzzle_ids), carry
        rope = {"cos_sin": self.rotary_emb() if hasattr(self, "rotary_emb") else None}
        high, c = getattr(self, "H_level", self.L_level), self.config
        with torch.no_grad():
            for _ in range(c.H_cycles - 1):
                for _ in range(c.L_cycles):
                    z_L = self.L_level(z_L, z_H + x, **rope)
                z_H = high(z_H, z_L, **rope)
        for _ in range(c.L_cycles):
            z_L = self.L_level(z_L, z_H + x, **rope)
        z_H = high(z_H, z_L, **rope)
        return (z_H.detach(), z_L.detach()), self.lm_head(z_H)[:, c.prefix_len :], self.q_head(z_H[:, 0])


class Official(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize("arch", ["trm", "hrm"])
@pytest.mark.parametrize("mixer", [{}, {"mlp_t": False, "pos_encodings": "rope"}])
def test_equals_our_model_and_the_official_forward(arch, mixer):
    ours, puzzles = tiny_model(arch, **mixer), tiny_puzzles(3)
    inner, batch = Inner(ours), puzzles.batch()
    system = adapt(Official(inner))
    require(check_system(system, batch))
    ctx = system.encode(batch)
    z = system.initial_state(ctx)
    carry = tuple(z)
    with torch.no_grad():
        for _ in range(2):
            carry, logits, q = inner(carry, batch)
            z = system.segment(z, ctx)
            out = system.readout(z, ctx)
            torch.testing.assert_close(tuple(z), carry)
            torch.testing.assert_close(out.logits, logits)
            torch.testing.assert_close(out.halt_logit, q[:, 0])
    mine, theirs = (measure(s, puzzles, exponents=2) for s in (ours, system))
    assert mine.sizes == theirs.sizes
    np.testing.assert_allclose(theirs.growth, mine.growth, atol=2e-3)
    np.testing.assert_allclose(theirs.halt_logit, mine.halt_logit, atol=2e-3)
    by_update = lyapunov_spectrum(system, batch, segments=1, exponents=1, reorth="update")
    assert list(by_update["update"].values) == ["L", "H"]


@pytest.mark.parametrize("name", ["trm_mlp", "trm_att_rope", "hrm_rope"])
def test_equals_what_the_official_code_recorded(name):
    """Recorded weights in our blocks, behind the official attributes: the driving is the adapter's own."""
    folder = "fixtures/official_parity"
    recorded = np.load(shared_path(f"{folder}/{name}.npz"))
    lyapunov = np.load(shared_path(f"{folder}/lyap_{name}.npz"))
    config = json.loads(shared_path(f"{folder}/{name}.json").read_text())["config"]
    ours = build_model(settings_from_arch({"arch": name[:3], **config}, {}))
    weights = {k.removeprefix("state/"): torch.from_numpy(recorded[k]) for k in recorded if "state/" in k}
    ours.load_state_dict(strip_prefix(weights), strict=True)
    names = ("inputs", "puzzle_identifiers", "labels")
    batch = Batch(*(torch.from_numpy(recorded[f"eval/batch/{n}"]).long() for n in names))
    system = adapt(Official(Inner(ours)))

    def close(actual, key, atol, source=recorded):
        torch.testing.assert_close(actual, torch.from_numpy(source[key]), rtol=0, atol=atol)

    with exact_arithmetic():
        ctx = system.encode(batch)
        z, Q = system.initial_state(ctx), torch.from_numpy(lyapunov["tangent0"])
        close(push(lambda s: system.segment(s, ctx), z, Q)[1], "tangent_image_seg1", 1e-4, lyapunov)
        for segment, atol in ((1, 1e-4), (2, 1e-3)):
            z = system.segment(z, ctx)
            out, key = system.readout(z, ctx), f"eval/seg{segment}"
            found = (z.z_H, z.z_L, out.logits, out.halt_logit, out.continue_logit)
            for value, what in zip(found, RECORDED, strict=True):
                close(value.detach(), f"{key}/{what}", atol)


def test_what_is_not_official_is_refused():
    with pytest.raises(UserError, match="Linear has no config, L_level"):
        adapt(nn.Linear(2, 2))
    with pytest.raises(UserError, match="float64"):
        adapt(Official(Inner(tiny_model())), dtype="float64")
