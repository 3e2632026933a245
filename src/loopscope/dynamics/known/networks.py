"""Tangents of small random networks against their Jacobian, differences, and an exact zero; the QR.

The networks are ours, so these rows go through `models.tangents`, the derivative written by hand.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopscope.config import ModelSettings
from loopscope.dynamics import tangents
from loopscope.dynamics.system import Check, compare, exact_arithmetic
from loopscope.latent import flatten, leaves, unflatten
from loopscope.models import RecursiveModel, build_model
from loopscope.tasks.base import Batch

MIXERS: dict[str, dict[str, Any]] = {
    "mixer": {"mlp_t": True, "pos_encodings": "none"},
    "attention": {"mlp_t": False, "pos_encodings": "rope"},
}
QR_ERROR = {1e2: 7e-8, 1e4: 8e-7, 1e6: 3e-5}  # condition number: largest error of log R


def tiny_network(mixer: str, dtype: str, seed: int) -> tuple[RecursiveModel, Any]:
    """A random TRM of width 16 on 6 cells, 4 updates to a segment, and the context of two puzzles."""
    sizes: dict[str, Any] = {"seq_len": 6, "vocab_size": 5, "hidden_size": 16, "num_heads": 2, "L_layers": 1}
    settings = ModelSettings(**sizes, **MIXERS[mixer], H_cycles=2, L_cycles=1, forward_dtype="float32")
    model = build_model(settings, seed=seed).compute_in(dtype)
    tokens = torch.arange(12).reshape(2, 6) % 5
    return model, model.encode(Batch(tokens, torch.zeros(2, dtype=torch.long)))


def jacobians(seed: int = 0) -> list[Check]:
    """J Q of tiny TRMs against the full Jacobian and against central differences, in float64."""
    checks = []
    for mixer in MIXERS:
        with exact_arithmetic():
            model, ctx = tiny_network(mixer, "float64", seed)
            z = model.segment(model.initial_state(ctx), ctx)
            Q = tangents.orthonormal_start(z, 3, seed=seed)
            _, V = tangents.push(tangents.segment_functions(model, ctx, "segment")[0], z, Q)
            image = partial(_flat_image, model, ctx, z)
            full = torch.func.jacfwd(lambda flat, f=image: f(flat).sum(0))(flatten(z)).movedim(1, 0)
            step = 1e-5 * Q[:, :, 0]
            slope = (image(flatten(z) + step) - image(flatten(z) - step)) / 2e-5
        name = f"TRM, {mixer}: tangents -"
        checks += [
            compare(f"{name} Jacobian", 0.0, _relative(V, full @ Q), 1e-10),
            compare(f"{name} differences", 0.0, _relative(V[:, :, 0], slope), 1e-6),
        ]
    return checks


def _flat_image(model: RecursiveModel, ctx: Any, like: Any, flat: Tensor) -> Tensor:
    """The segment on flattened latents; rows of the batch do not mix."""
    return flatten(model.segment(unflatten(flat, like), ctx))


def post_norm(seed: int = 0) -> list[Check]:
    """After a norm every token lies on a sphere, so no tangent points along it; the first run in float32."""
    with exact_arithmetic():
        model, ctx = tiny_network("attention", "float32", seed)
        z = model.segment(model.initial_state(ctx), ctx)
        Q = tangents.orthonormal_start(z, 3, seed=seed)
        image, V = tangents.push(tangents.segment_functions(model, ctx, "segment")[0], z, Q)
    cosines = [
        torch.cosine_similarity(token, tangent, dim=2).abs().max()
        for column in V.unbind(2)
        for token, tangent in zip(leaves(image), leaves(unflatten(column, z)), strict=True)
    ]
    return [compare("post-norm: |cos| of tangent and token", 0.0, float(max(cosines)), 1e-4)]


def qr_precision(rng: np.random.Generator) -> list[Check]:
    """log R of float32 tangents at given condition numbers, against LAPACK on the same numbers in float64."""
    checks = []
    for condition, tolerance in QR_ERROR.items():
        left, right = (np.linalg.qr(rng.standard_normal((20, n, 6)))[0] for n in (500, 6))
        V = ((left * np.geomspace(1, 1 / condition, 6)) @ right.transpose(0, 2, 1)).astype(np.float32)
        exact = np.log(np.abs(np.diagonal(np.linalg.qr(V.astype(float))[1], axis1=1, axis2=2)))
        Q, growth = tangents.orthonormalise(torch.from_numpy(V))
        error = float(np.abs(growth.numpy() - exact).max())
        skew = float((Q.mT @ Q - torch.eye(6)).abs().max())
        checks += [
            compare(f"QR, condition 1e{round(np.log10(condition))}: error of log R", 0.0, error, tolerance)
        ]
        checks += [compare(f"QR, condition 1e{round(np.log10(condition))}: orthogonality", 0.0, skew, 1e-6)]
    return checks


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
