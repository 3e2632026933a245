"""The optimisers and the schedule of the official code, in plain PyTorch; AdamW and Muon as choices."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from loopscope.config import TrainSettings
from loopscope.errors import UserError


class AdamATan2(torch.optim.Optimizer):
    """Adam with the ratio m / sqrt(v) replaced by atan2(m, sqrt(v)): bounded, scale-free, no epsilon.

    p <- (1 - lr * wd) p;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    p <- p - lr * atan2(m / (1 - b1^t), sqrt(v) / sqrt(1 - b2^t)).

    Source: "Scaling Exponents Across Parameterizations and Optimizers" (2407.05872), with the
    constants of the adam-atan2 package (no scale factors).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                self.state[p]["step"] += 1
            self._update(group, params)

    def _update(self, group: dict, params: list[Tensor]) -> None:
        (b1, b2), lr = group["betas"], group["lr"]
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[p]["m"] for p in params]
        v = [self.state[p]["v"] for p in params]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(m, grads, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, grads, grads, 1 - b2)
        for p, mean, square in zip(params, m, v, strict=True):
            t = self.state[p]["step"]
            p.sub_(torch.atan2(mean / (1 - b1**t), square.sqrt() / math.sqrt(1 - b2**t)), alpha=lr)


class SignSGD:
    """Update of the puzzle table: only the rows of the batch, by the sign of their summed gradient.

    Gradients of rows with the same identifier are summed *before* the sign; a row whose sum is zero
    still decays. The table is a buffer and never sees autograd.
    """

    def __init__(self, table: Float[Tensor, "ids ndim"], lr: float, weight_decay: float) -> None:
        self.table, self.lr, self.weight_decay = table, lr, weight_decay

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " B"], grad: Float[Tensor, "B ndim"]) -> None:
        """w <- w (1 - lr * wd) - lr * sign(sum of gradients), for the identifiers in `ids`."""
        # Every row gets the sum over the rows of its identifier, by a product: always in the same order,
        # and without waiting for a GPU to say how many identifiers there are. Equal ids write equal rows.
        summed = (ids[:, None] == ids).to(grad.dtype) @ grad
        self.table[ids] = self.table[ids] * (1 - self.lr * self.weight_decay) - self.lr * summed.sign()


def make_optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """The optimisers of all trained weights; every group keeps its rate after warm-up as `base_lr`.

    With `optimizer=muon` the matrices inside the blocks go to Muon (torch's own), embeddings, heads and
    vectors stay with AdamATan2. Muon's step is scaled to the size of the matrix as for AdamW
    (`match_rms_adamw`), which asks for a rate some four times that of AdamATan2 (docs/log.md). With
    `freeze_weights` there are none, and the weights no longer ask for gradients.

    Raises:
        UserError: Muon asked of a torch that has none.
    Source: Jordan et al., Muon (2024); Liu et al., "Muon is Scalable for LLM Training" (2502.16982).
    """
    model.requires_grad_(not settings.freeze_weights)
    if settings.freeze_weights:
        return []
    named, decay = list(model.named_parameters()), settings.weight_decay
    matrices = [p for name, p in named if settings.optimizer == "muon" and p.ndim == 2 and "layers." in name]
    rest = [p for _, p in named if not any(p is m for m in matrices)]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else AdamATan2
    betas = (settings.beta1, settings.beta2)
    optimizers: list[torch.optim.Optimizer] = [kind(rest, settings.lr, betas, weight_decay=decay)]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(
                f"train.optimizer=muon needs torch 2.9 or newer, this is {torch.__version__}. "
                "Update torch or set train.optimizer=adam_atan2."
            )
        muon = torch.optim.Muon(
            matrices, settings.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    for group in (g for optimizer in optimizers for g in optimizer.param_groups):
        group["base_lr"] = group["lr"]
    return optimizers


def clip_gradients(model: nn.Module, most: float) -> None:
    """Scale the gradients of all weights down to a joint norm of `most`; 0 leaves them as they are.

    The puzzle table is not among them: its update takes the sign alone.
    """
    if most:
        nn.utils.clip_grad_norm_(model.parameters(), most)


def learning_rate(step: int, base: float, *, warmup: int, total: int, min_ratio: float) -> float:
    """Learning rate of step `step` (1-based): linear warm-up, then a cosine down to `min_ratio * base`."""
    if step < warmup:
        return base * step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return base * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
