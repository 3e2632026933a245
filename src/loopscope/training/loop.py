"""The training loop: one optimiser step per segment, deep supervision, carry slots.

Everything random is drawn from (seed, step), so a run resumed from a checkpoint equals one that was
never stopped.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.files import write_text
from loopscope.latent import batch_size, concat, leaves, rows, tree_map
from loopscope.models import RecursiveModel
from loopscope.models.folder import load_state, save_model
from loopscope.training import checkpoint, halting
from loopscope.training.ema import EMA
from loopscope.training.interrupt import asked_to_stop
from loopscope.training.loss import segment_loss
from loopscope.training.optim import SignSGD, learning_rate, make_optimizers
from loopscope.training.stream import TrainingStream, step_generator

OnEval = Callable[[RecursiveModel], Mapping[str, float]]
LOSSES = ("loss", "cell_loss", "halt_loss", "continue_loss")  # summed over all rows of a step
FINISHED = ("accuracy", "exact_accuracy", "halt_accuracy", "segments")  # summed over the rows that halted
SUMS = (*LOSSES, "halted", *FINISHED)
log = logging.getLogger("loopscope")


class Segment(NamedTuple):
    """What one segment of a micro batch leaves behind, besides gradients in the weights."""

    carry: halting.Carry
    sums: Float[Tensor, " sums"]
    table_grad: Float[Tensor, "B ndim"] | None


class Trainer:
    """One run: a model, its stream of puzzles, and a folder.

    Args:
        recipe: resolved settings.
        model: the model, on its device, updated in place.
        stream: training batches.
        folder: run folder; gets config.yaml, metrics.jsonl, checkpoints/, best/ and last/.
        on_eval: called with the averaged weights every `eval_every` steps; returns metrics, of
            which `exact_accuracy` chooses `best/`. None evaluates nothing.
    Attributes:
        step: optimiser steps done.
        total_steps: where the run ends.
        minutes: time spent, earlier sittings included.
        sums: what the next line of metrics averages, gathered since the last one.
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
        self.total_steps = num_steps(recipe, stream.puzzles.examples_per_pass)
        self.optimizers = make_optimizers(model, t)
        self.table_optimizer = None
        if model.settings.puzzle_emb_ndim:
            table = model.puzzle_emb.weights
            self.table_optimizer = SignSGD(table, t.puzzle_emb_lr, t.puzzle_emb_weight_decay)
        self.ema = EMA(model, t.ema_rate) if t.ema else None
        self.carry = halting.empty_carry(model, stream.batch(0).to(model.device))
        self.step, self.best, self.minutes = 0, -math.inf, 0.0
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=model.device)
        self.steps_summed = 0
        self.saved_step = -1

    # -- one run

    def run(self, progress: bool = True) -> None:
        """Train to the last step, or until `max_minutes` or Ctrl-C; all three leave a checkpoint.

        Raises:
            UserError: the loss is no longer a number; the last checkpoint stays as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_dump(self.recipe.model_dump(), sort_keys=False)
        write_text(self.folder / "config.yaml", settings)
        limit = self.settings.max_minutes or math.inf
        earlier, began = self.minutes, time.monotonic()
        bar = tqdm(
            total=self.total_steps, initial=self.step, disable=not progress, unit="step", smoothing=0.05
        )
        with asked_to_stop() as stop, bar:
            while self.step < self.total_steps and not stop() and self.minutes - earlier < limit:
                self.train_step()
                self.minutes = earlier + (time.monotonic() - began) / 60
                bar.update()
                self._after_step(bar)
            if self.saved_step != self.step:
                self.save()
        if self.step < self.total_steps:
            log.warning(
                "stopped at step %d of %d; resume %s to go on", self.step, self.total_steps, self.folder
            )

    def _after_step(self, bar: tqdm) -> None:
        t, last = self.settings, self.step == self.total_steps
        if self.step % t.log_every == 0 or last:
            line = self._log()
            bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
        if self.on_eval is not None and (self.step % t.eval_every == 0 or last):
            scores = self._evaluate(self.on_eval)
            if not bar.disable:
                bar.write(f"step {self.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        if self.step % t.checkpoint_every == 0 or last:
            self.save()

    # -- one step

    def train_step(self) -> None:
        """One segment for every slot, then one optimiser step."""
        t, model = self.settings, self.model
        generator = step_generator(t.seed, self.step)
        min_steps = halting.exploration_steps(t.batch_size, model.settings, generator).to(model.device)
        incoming = self.stream.batch(self.step).to(model.device)
        # All slots are refilled at once, so that no draw depends on how the batch is split below.
        carry = halting.refill(model, self.carry, incoming, generator)
        size = t.micro_batch or t.batch_size
        parts = [slice(start, start + size) for start in range(0, t.batch_size, size)]
        done = [self._segment(rows(carry, part), min_steps[part]) for part in parts]
        self.carry = concat([d.carry for d in done])
        self.sums += torch.stack([d.sums for d in done]).sum(0)
        self.steps_summed += 1
        self._optimise([d.table_grad for d in done if d.table_grad is not None])
        self.step += 1

    def _segment(self, carry: halting.Carry, min_steps: Tensor) -> Segment:
        model, data, steps = self.model, carry.data, carry.steps + 1
        assert data.labels is not None
        table_rows = None
        if self.table_optimizer is not None:  # the table sees no autograd: take the gradient of its rows
            table_rows = self.table_optimizer.table[data.puzzle_ids].requires_grad_()
        ctx = model.encode(data, table_rows)
        z = model.training_segment(carry.z, ctx)
        out = model.readout(z, ctx)
        target = halting.continue_target(model, z, ctx, steps) if model.trains_continue else None
        loss = segment_loss(out, data.labels, self.settings.loss, target)
        (loss.total / self.settings.batch_size).backward()
        halted = halting.halt(model.settings, out, steps, min_steps)
        finished = (loss.row_accuracy, loss.row_exact, loss.row_halt_right, steps)
        sums = [
            loss.total,
            loss.cell,
            loss.halt,
            loss.continue_,
            halted.sum(),
            *((v * halted).sum() for v in finished),
        ]
        return Segment(
            halting.Carry(tree_map(Tensor.detach, z), steps, halted, data),
            torch.stack([v.detach().double() for v in sums]),
            None if table_rows is None else table_rows.grad,
        )

    def _optimise(self, table_grads: list[Tensor]) -> None:
        ids = self.carry.data.puzzle_ids
        if self.table_optimizer is not None and ids is not None:
            self.table_optimizer.lr = self._rate(self.settings.puzzle_emb_lr)
            self.table_optimizer.step(ids, torch.cat(table_grads))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate(group["base_lr"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()

    def _rate(self, base: float) -> float:
        t = self.settings
        return learning_rate(
            self.step + 1, base, warmup=t.lr_warmup_steps, total=self.total_steps, min_ratio=t.lr_min_ratio
        )

    # -- watching

    def _log(self) -> dict[str, Any]:
        """Write a line of means: losses over all rows since the last line, the rest over halted ones."""
        self._check_finite()
        sums = dict(zip(SUMS, self.sums.tolist(), strict=True))
        num_rows, halted = self.steps_summed * self.settings.batch_size, int(sums["halted"])
        line = {key: sums[key] / num_rows for key in LOSSES}
        line |= {"halted": halted, **{key: sums[key] / halted if halted else math.nan for key in FINISHED}}
        self._write_line({"kind": "train", **line, "lr": self.optimizers[0].param_groups[0]["lr"]})
        self.sums.zero_()
        self.steps_summed = 0
        return line

    def _evaluate(self, on_eval: OnEval) -> Mapping[str, float]:
        self._check_finite()
        with self._averaged(), torch.no_grad():
            scores = dict(on_eval(self.model))
            self._write_line({"kind": "eval", **scores})
            if scores.get("exact_accuracy", -math.inf) > self.best:
                self.best = scores["exact_accuracy"]
                self._save_model("best", scores)
        return scores

    def _write_line(self, values: Mapping[str, Any]) -> None:
        line = {"step": self.step, "minutes": round(self.minutes, 3), **values}
        line = {k: None if v != v else v for k, v in line.items()}  # json has no NaN
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _check_finite(self) -> None:
        """A loss or weight that is no number: stop before anything of it is saved."""
        tensors = [self.sums, *self.model.parameters()]
        if not all(bool(t.isfinite().all()) for t in tensors):
            what = "loss is" if not self.sums.isfinite().all() else "weights are"
            raise UserError(
                f"the {what} no longer finite at step {self.step}. Lower train.lr or raise "
                f"train.lr_warmup_steps; the last checkpoint in {self.folder / 'checkpoints'} is intact."
            )

    def _averaged(self) -> AbstractContextManager[None]:
        """A context in which the model holds the averaged weights, where there are any."""
        return self.ema.swapped() if self.ema is not None else nullcontext()

    # -- saving and resuming

    def save(self) -> None:
        """`last/` with the averaged weights, and a checkpoint of everything."""
        self._check_finite()
        with self._averaged():
            self._save_model("last", {})
        parts = {
            "model": self.model.state_dict(),
            "ema": self.ema.shadow if self.ema is not None else {},
            "optimizer": self._moments(),
            "carry": {f"0.{i}": leaf for i, leaf in enumerate(leaves(self.carry))},
        }
        facts = {
            "total_steps": self.total_steps,
            "best": self.best,
            "minutes": self.minutes,
            "sums": self.sums.tolist(),
            "steps_summed": self.steps_summed,
            "data": self.stream.puzzles.content_hash,
        }
        checkpoint.save(self.folder / "checkpoints", self.step, parts, facts)
        checkpoint.prune(self.folder / "checkpoints", self.settings.keep_last)
        self.saved_step = self.step

    def _save_model(self, name: str, scores: Mapping[str, float]) -> None:
        facts = {"recipe": self.recipe.model_dump(), "step": self.step, "minutes": self.minutes}
        facts |= {"weights": "ema" if self.ema is not None else "raw", "validation": dict(scores)}
        save_model(self.model, self.folder / name, facts)

    def _moments(self) -> dict[str, Tensor]:
        state = {name: self._state_of(p) for name, p in self.model.named_parameters()}
        return {f"{name}.{k}": v for name, s in state.items() for k, v in s.items() if k != "step"}

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        """What an optimiser keeps about a weight: AdamATan2 m, v and step, Muon momentum_buffer."""
        return next((o.state[p] for o in self.optimizers if p in o.state), {})

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run folder.

        Raises:
            UserError: there is none, it is damaged, or it does not fit the settings.
        """
        path = checkpoint.latest(self.folder / "checkpoints")
        if path is None:
            raise UserError(f"{self.folder}: no checkpoint to resume from. Leave out --resume to start anew.")
        parts, facts = checkpoint.load(path)
        load_state(self.model, parts["model"], str(path))
        self._read_ema(parts["ema"], path)
        self.step = self.saved_step = facts["step"]
        self.minutes = facts["minutes"]
        self.best = -math.inf if facts["best"] is None else facts["best"]
        self._read_moments(parts["optimizer"])
        self._read_carry(parts["carry"], path)
        self.sums.copy_(torch.tensor(facts.get("sums", [0.0] * len(SUMS)), dtype=torch.float64))
        self.steps_summed = facts.get("steps_summed", 0)
        if facts.get("data", "") not in ("", self.stream.puzzles.content_hash):
            log.warning("%s: the training puzzles are not those the run began with", path)
        self._forget_later_lines()

    def _read_ema(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        if self.ema is None:
            return
        if set(tensors) != set(self.ema.shadow):
            raise UserError(f"{path}: no averaged weights in this run. Resume with train.ema=false.")
        for name, shadow in self.ema.shadow.items():
            shadow.copy_(tensors[name])

    def _read_moments(self, tensors: Mapping[str, Tensor]) -> None:
        names = {p: name for name, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for p in (p for group in optimizer.param_groups for p in group["params"]):
                start = f"{names[p]}."
                moments = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                if moments:
                    kept = {k: v.to(p.device) for k, v in moments.items()}
                    optimizer.state[p] = {"step": self.step, **kept}

    def _read_carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Slots in one piece, or in several as older checkpoints keep them."""
        pieces = 1 + max(int(name.partition(".")[0]) for name in tensors)
        columns = range(len(leaves(self.carry)))
        whole = [torch.cat([tensors[f"{i}.{j}"] for i in range(pieces)]) for j in columns]
        if len(whole[0]) != batch_size(self.carry):
            raise UserError(
                f"{path}: {len(whole[0])} slots, but train.batch_size={batch_size(self.carry)}. "
                f"Resume with train.batch_size={len(whole[0])}."
            )
        parts = iter(t.to(self.model.device) for t in whole)
        self.carry = tree_map(lambda _: next(parts), self.carry)

    def _forget_later_lines(self) -> None:
        """Drop the metrics of steps after the checkpoint, and a last line cut off by a crash."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= self.step))


def num_steps(recipe: Recipe, examples_per_pass: float) -> int:
    """Optimiser steps of a run: given, or from epochs as the official code counts them.

    Raises:
        UserError: neither `train.steps` nor `train.epochs` is set, or the epochs are less than a step.
    """
    t = recipe.train
    if t.steps is not None:
        return t.steps
    if t.epochs is None:
        raise UserError(
            "neither train.steps nor train.epochs is set. Add one, for example train.steps=20000."
        )
    steps = int(t.epochs * examples_per_pass / t.batch_size)
    if steps == 0:
        raise UserError(
            f"train.epochs={t.epochs} over {examples_per_pass:g} examples is less than one step of "
            f"train.batch_size={t.batch_size}. Raise train.epochs."
        )
    return steps
