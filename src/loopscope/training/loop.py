"""The training loop: one optimiser step per segment, deep supervision, carry slots.

Everything random is drawn from (seed, step), so a run resumed from a checkpoint equals one that was
never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.files import write_text
from loopscope.latent import concat, leaves, rows, tree_map
from loopscope.models import RecursiveModel
from loopscope.models.folder import save_model
from loopscope.tasks.base import Batch
from loopscope.training import checkpoint, halting
from loopscope.training.ema import EMA
from loopscope.training.loss import segment_loss
from loopscope.training.optim import AdamATan2, SignSGD, learning_rate
from loopscope.training.stream import TrainingStream

OnEval = Callable[[RecursiveModel], Mapping[str, float]]
TALLIED = ("loss", "cell_loss", "halt_loss", "continue_loss", "halted", "accuracy", "exact", "halt_right", "segments")


class Trainer:
    """One run: a model, its stream of puzzles, and a folder.

    Args:
        recipe: resolved settings.
        model: the model, on its device, updated in place.
        stream: training batches.
        folder: run folder; gets config.yaml, metrics.jsonl, checkpoints/, best/ and last/.
        on_eval: called with the averaged weights every `eval_every` steps; returns metrics, of
            which `exact_accuracy` chooses `best/`. None evaluates nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: RecursiveModel,
        stream: TrainingStream,
        folder: str | Path,
        on_eval: OnEval | None = None,
    ) -> None:
        self.recipe, self.model, self.stream, self.on_eval = recipe, model, stream, on_eval
        self.folder = Path(folder)
        t = self.settings = recipe.train
        self.total_steps = num_steps(recipe, len(stream.puzzles))
        self.optimizer = AdamATan2(model.parameters(), t.lr, (t.beta1, t.beta2), t.weight_decay)
        table = model.puzzle_emb.weights if model.settings.puzzle_emb_ndim else None
        self.table_optimizer = None if table is None else SignSGD(table, t.puzzle_emb_lr, t.puzzle_emb_weight_decay)
        self.ema = EMA(model, t.ema_rate) if t.ema else None
        self.step = 0
        self.best = -math.inf
        self.minutes = 0.0  # spent in earlier sittings
        self.carries: list[halting.Carry] = []
        if t.compile:
            model.compile_blocks()

    # -- one run

    def run(self, progress: bool = True) -> None:
        """Train to the last step, or until `max_minutes` or Ctrl-C; both leave a checkpoint.

        Raises:
            UserError: the loss is no longer a number; the last checkpoint stays as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", yaml.safe_dump(self.recipe.model_dump(), sort_keys=False))
        started = time.monotonic()
        bar = tqdm(total=self.total_steps, initial=self.step, disable=not progress, unit="step", smoothing=0.05)
        try:
            while self.step < self.total_steps:
                tally = self.train_step()
                bar.update()
                self.elapsed = self.minutes + (time.monotonic() - started) / 60
                self._after_step(tally, bar)
                if self.settings.max_minutes and time.monotonic() - started > 60 * self.settings.max_minutes:
                    break
        except KeyboardInterrupt:
            tqdm.write(f"stopped at step {self.step}; resume with --resume {self.folder}")
        finally:
            bar.close()
        if self.carries:
            self.save()

    def _after_step(self, tally: dict[str, float], bar: tqdm) -> None:
        t, last = self.settings, self.step == self.total_steps
        if self.step % t.log_every == 0 or last:
            line = self._log(tally)
            bar.set_postfix(loss=f"{line['loss']:.3f}", exact=f"{line['exact_accuracy']:.3f}", refresh=False)
        if self.on_eval is not None and (self.step % t.eval_every == 0 or last):
            self._evaluate()
        if self.step % t.checkpoint_every == 0:
            self.save()

    # -- one step

    def train_step(self) -> dict[str, float]:
        """One segment for every slot and one optimiser step; returns the sums that metrics are made of."""
        t, incoming = self.settings, self.stream.batch(self.step).to(self.model.device)
        generator = torch.Generator().manual_seed(t.seed * 1_000_003 + self.step)
        min_steps = halting.exploration_steps(t.batch_size, self.model.settings, generator).to(self.model.device)
        size = t.micro_batch or t.batch_size
        sums = torch.zeros(len(TALLIED), dtype=torch.float64, device=self.model.device)
        table_grads = []
        for i, start in enumerate(range(0, t.batch_size, size)):
            part = slice(start, start + size)
            if len(self.carries) <= i:
                self.carries.append(halting.empty_carry(self.model, rows(incoming, part)))
            carry = halting.refill(self.model, self.carries[i], rows(incoming, part), generator)
            self.carries[i], tally, grad = self._slots_step(carry, min_steps[part])
            sums += tally
            table_grads.append(grad)
        self._optimise(table_grads)
        self.step += 1
        tally = dict(zip(TALLIED, sums.tolist(), strict=True))
        if not math.isfinite(tally["loss"]):
            raise UserError(
                f"the loss is {tally['loss']} at step {self.step}. Lower train.lr or raise train.lr_warmup_steps; "
                f"the last checkpoint in {self.folder / 'checkpoints'} is intact."
            )
        return tally

    def _slots_step(self, carry: halting.Carry, min_steps: Tensor) -> tuple[halting.Carry, Tensor, Tensor | None]:
        model, data = self.model, carry.data
        table_rows = None
        if self.table_optimizer is not None:
            table_rows = self.table_optimizer.table[data.puzzle_ids].clone().requires_grad_()
        ctx = model.encode(data, table_rows)
        z = model.training_segment(carry.z, ctx)
        out = model.readout(z, ctx)
        steps = carry.steps + 1
        target = halting.continue_target(model, z, ctx, steps) if model.trains_continue else None
        assert data.labels is not None
        loss = segment_loss(out, data.labels, self.settings.loss, target)
        (loss.total / self.settings.batch_size).backward()
        with torch.no_grad():
            halted = halting.halt(model.settings, out, steps, min_steps)
        tally = [loss.total.detach(), loss.cell, loss.halt, loss.continue_, halted.sum()]
        tally += [(v * halted).sum() for v in (loss.row_accuracy, loss.row_exact, loss.row_halt_right, steps)]
        z = tree_map(lambda part: part.detach(), z)
        grad = None if table_rows is None else table_rows.grad
        return halting.Carry(z, steps, halted, data), torch.stack([v.double() for v in tally]), grad

    def _optimise(self, table_grads: list[Tensor | None]) -> None:
        t, number = self.settings, self.step + 1
        rate = {"warmup": t.lr_warmup_steps, "total": self.total_steps, "min_ratio": t.lr_min_ratio}
        if self.table_optimizer is not None:
            self.table_optimizer.lr = learning_rate(number, t.puzzle_emb_lr, **rate)
            ids = torch.cat([carry.data.puzzle_ids for carry in self.carries])
            self.table_optimizer.step(ids, torch.cat(table_grads))  # type: ignore[arg-type]
        self.optimizer.param_groups[0]["lr"] = learning_rate(number, t.lr, **rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()

    # -- watching

    def _log(self, tally: Mapping[str, float]) -> dict[str, float]:
        batch, halted = self.settings.batch_size, max(tally["halted"], 1)
        line = {key: tally[key] / batch for key in TALLIED[:4]} | {
            "accuracy": tally["accuracy"] / halted,
            "exact_accuracy": tally["exact"] / halted,
            "halt_accuracy": tally["halt_right"] / halted,
            "segments": tally["segments"] / halted,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self._write_line({"kind": "train", **line})
        return line

    def _evaluate(self) -> None:
        assert self.on_eval is not None
        with self.averaged(), torch.no_grad():
            scores = dict(self.on_eval(self.model))
            self._write_line({"kind": "eval", **scores})
            if scores.get("exact_accuracy", -math.inf) > self.best:
                self.best = scores["exact_accuracy"]
                self._save_model("best", scores)
        tqdm.write(f"step {self.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))

    def _write_line(self, values: Mapping[str, Any]) -> None:
        line = {"step": self.step, "minutes": round(self.elapsed, 3), **values}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def averaged(self) -> Any:
        """A context in which the model holds the averaged weights, where there are any."""
        return self.ema.swapped() if self.ema is not None else torch.no_grad()

    # -- saving and resuming

    def save(self) -> None:
        """A checkpoint of everything, and `last/` with the averaged weights."""
        parts = {
            "model": dict(self.model.state_dict()),
            "ema": self.ema.shadow if self.ema is not None else {},
            "optimizer": self._moments(),
            "carry": {f"{i}.{j}": leaf for i, c in enumerate(self.carries) for j, leaf in enumerate(leaves(c))},
        }
        facts = {"total_steps": self.total_steps, "best": self.best, "minutes": self.elapsed}
        checkpoint.save(self.folder / "checkpoints", self.step, parts, facts)
        checkpoint.prune(self.folder / "checkpoints", self.settings.keep_last)
        with self.averaged():
            self._save_model("last", {})

    def _save_model(self, name: str, scores: Mapping[str, float]) -> None:
        facts = {"recipe": self.recipe.model_dump(), "step": self.step, "minutes": self.elapsed}
        facts |= {"weights": "ema" if self.ema is not None else "raw", "validation": dict(scores)}
        save_model(self.model, self.folder / name, facts)

    def _moments(self) -> dict[str, Tensor]:
        names = [n for n, _ in self.model.named_parameters()]
        state = [self.optimizer.state[p] for p in self.model.parameters()]
        return {f"{n}.{k}": s[k] for n, s in zip(names, state, strict=True) for k in ("m", "v") if k in s}

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run folder.

        Raises:
            UserError: there is none, or it belongs to other settings.
        """
        path = checkpoint.latest(self.folder / "checkpoints")
        if path is None:
            raise UserError(f"{self.folder}: no checkpoint to resume from. Leave out --resume to start anew.")
        parts, facts = checkpoint.load(path)
        self.model.load_state_dict(parts["model"])
        if self.ema is not None:
            self.ema.shadow = {k: v.to(self.model.device) for k, v in parts["ema"].items()}
        self.step, self.minutes = facts["step"], facts["minutes"]
        self.best = -math.inf if facts["best"] is None else facts["best"]
        for name, p in self.model.named_parameters():
            if f"{name}.m" in parts["optimizer"]:
                moments = {k: parts["optimizer"][f"{name}.{k}"].to(p.device) for k in ("m", "v")}
                self.optimizer.state[p] = {"step": self.step, **moments}
        self.carries = self._read_carries(parts["carry"])
        self._forget_later_lines()

    def _read_carries(self, tensors: Mapping[str, Tensor]) -> list[halting.Carry]:
        size = self.settings.micro_batch or self.settings.batch_size
        count = self.settings.batch_size // size
        form = halting.empty_carry(self.model, rows(self.stream.batch(0).to(self.model.device), slice(0, size)))
        carries = []
        for i in range(count):
            parts = iter(tensors[f"{i}.{j}"].to(self.model.device) for j in range(len(leaves(form))))
            carries.append(tree_map(lambda _, parts=parts: next(parts), form))
        return carries

    def _forget_later_lines(self) -> None:
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= self.step))


def num_steps(recipe: Recipe, num_puzzles: int) -> int:
    """Optimiser steps of a run: given, or from epochs as the official code counts them.

    Raises:
        UserError: neither `train.steps` nor `train.epochs` is set.
    """
    t = recipe.train
    if t.steps is not None:
        return t.steps
    if t.epochs is None:
        raise UserError("neither train.steps nor train.epochs is set. Add one, for example train.steps=20000.")
    return int(t.epochs * num_puzzles / t.batch_size)
