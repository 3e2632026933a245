"""The training loop: one optimiser step per segment, deep supervision, carry slots.

Everything random is drawn from (seed, step) for the whole batch, so a run resumed from a checkpoint
equals one that was never stopped, and several processes with a share of the slots each equal one.
Within a step nothing waits for the GPU: numbers are read where a line of metrics is written.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.files import write_text
from loopscope.latent import batch_size, concat, rows, tree_map
from loopscope.models import RecursiveModel
from loopscope.models.noise import draw_keys
from loopscope.training import distributed, halting, saving
from loopscope.training.ema import EMA
from loopscope.training.flossing import flossed_slots, flossing_loss
from loopscope.training.interrupt import asked_to_stop
from loopscope.training.loss import segment_loss
from loopscope.training.optim import SignSGD, clip_gradients, learning_rate, make_optimizers
from loopscope.training.perturb import check_parts, perturb
from loopscope.training.prefetch import Prefetch
from loopscope.training.sinks import Sink, open_sinks
from loopscope.training.stream import TrainingStream, step_generator
from loopscope.training.view import NoView, View, make_view

OnEval = Callable[[RecursiveModel], Mapping[str, float]]
LOSSES = ("loss", "cell_loss", "halt_loss", "continue_loss")  # summed over all rows of a step
FINISHED = ("accuracy", "exact_accuracy", "halt_accuracy", "segments")  # summed over the rows that halted
FLOSSED = ("flossed", "flossing_loss")  # slots that were looked at, and their loss
OF_SEGMENT = (*LOSSES, "halted", *FINISHED)
SUMS = (*OF_SEGMENT, *FLOSSED)
log = logging.getLogger("loopscope")


class Segment(NamedTuple):
    """What one segment of a micro batch leaves behind, besides gradients in the weights."""

    carry: halting.Carry
    sums: Float[Tensor, " sums"]
    table_grad: Float[Tensor, "B ndim"] | None


class Trainer:
    """One run: a model, its stream of puzzles, and a folder.

    Of several processes each has a trainer with its share of the slots and the same weights; all evaluate,
    the first writes.

    Args:
        recipe: resolved settings.
        model: the model, on its device, updated in place.
        stream: training batches, of them this process's share.
        folder: run folder; gets config.yaml, metrics.jsonl, checkpoints/, best/ and last/.
        on_eval: called with the averaged weights every `eval_every` steps, by every process, so that they
            may share the work; returns metrics, of which `exact_accuracy` chooses `best/`; those of the
            first process count. None evaluates nothing.
    Attributes:
        segment_loss: `loss.segment_loss`, or its compiled form.
        share: the slots of the batch that belong to this process.
        noisy: whether a step draws noise keys for the slots.
        step: optimiser steps done.
        total_steps: where the run ends.
        minutes: time spent, earlier sittings included.
        score: exact accuracy of the evaluation at this step; None where there was none.
        sums: what the next line of metrics averages, gathered since the last one in this process.
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
        self.segment_loss = segment_loss
        t = self.settings = recipe.train
        self.share = distributed.share(t.batch_size)
        self.total_steps = num_steps(recipe, stream.puzzles.examples_per_pass)
        check_parts(t, model.state_names)
        noises = (model.settings.update_noise, t.start_noise, t.carry_noise, t.flossing_weight)
        self.noisy = any(noises)
        self.optimizers = make_optimizers(model, t)
        self.table_optimizer = None
        if model.settings.puzzle_emb_ndim:
            table = model.puzzle_emb.weights
            self.table_optimizer = SignSGD(table, t.puzzle_emb_lr, t.puzzle_emb_weight_decay)
        self.ema = EMA(model, t.ema_rate) if t.ema else None
        self.carry = halting.empty_carry(model, stream.batch(0).to(model.device))
        self.batches = Prefetch(stream.batch, self.total_steps, model.device)
        self.step, self.best, self.minutes = 0, -math.inf, 0.0
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=model.device)
        self.steps_summed = 0
        self.score: float | None = None
        self.saved_step = -1
        self.view: View = NoView()
        self.watchers: list[Sink | View] = []

    # -- one run

    def run(self, progress: bool = True) -> None:
        """Train to the last step, or until `max_minutes` or Ctrl-C; all three leave a checkpoint.

        Raises:
            UserError: the loss is no longer a number; the last checkpoint stays as it was.
        """
        limit = self.settings.max_minutes or math.inf
        earlier, began = self.minutes, time.monotonic()
        with asked_to_stop() as stop, self._watched(progress):
            distributed.on_main(self._write_settings)
            averages = self.ema.shadow if self.ema is not None else {}
            distributed.copy_from_main([*self.model.state_dict().values(), *averages.values()])
            while self.step < self.total_steps:
                if distributed.any_of(stop() or self.minutes - earlier >= limit):
                    break
                self.train_step()
                self.minutes = earlier + (time.monotonic() - began) / 60
                self.view.step()
                self._after_step()
            if self.saved_step != self.step:
                self.save()
        if self.step < self.total_steps:
            log.warning(
                "stopped at step %d of %d; loopscope train --resume %s goes on",
                self.step,
                self.total_steps,
                self.folder,
            )

    @contextmanager
    def _watched(self, progress: bool) -> Iterator[None]:
        """Within the block the view and the trackers of the first process get every line of metrics."""

        def start() -> None:
            sinks = open_sinks(self.settings.log_to, self.folder, self.recipe)
            self.view = make_view(self.recipe, self.total_steps, self.step) if progress else NoView()
            self.watchers = [*sinks, self.view]

        distributed.on_main(start)
        try:
            yield
        finally:
            for watcher in self.watchers:
                watcher.close()
            self.watchers, self.view = [], NoView()

    def _write_settings(self) -> None:
        with saving.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = yaml.safe_dump(self.recipe.model_dump(), sort_keys=False)
            write_text(self.folder / "config.yaml", settings)

    def _after_step(self) -> None:
        t, last = self.settings, self.step == self.total_steps
        self.score = None
        if self.step % t.log_every == 0 or last:
            self._log()
        if self.on_eval is not None and (self.step % t.eval_every == 0 or last):
            self._evaluate(self.on_eval)
        wanted = t.keep_best and self.score is not None
        if self.step % t.checkpoint_every == 0 or last or wanted:
            self.save()

    # -- one step

    def train_step(self) -> None:
        """One segment for every slot, then one optimiser step."""
        t, model = self.settings, self.model
        generator = step_generator(t.seed, self.step, model.device)
        min_steps = halting.exploration_steps(t.batch_size, model.settings, generator)[self.share]
        # All slots are refilled at once, so that no draw depends on how the batch is split below.
        incoming = self.batches.batch(self.step)
        carry = halting.refill(model, self.carry, incoming, generator, self.share, t.batch_size)
        keys = draw_keys(t.batch_size, generator)[self.share] if self.noisy else None
        if keys is not None:
            carry = perturb(carry, keys, t, self.step, model.state_names)
            self._floss(carry, keys)
        slots = batch_size(carry)
        size = t.micro_batch or slots
        parts = [slice(start, start + size) for start in range(0, slots, size)]
        done = [self._segment(*rows((carry, min_steps, keys), part)) for part in parts]
        self.carry = concat([d.carry for d in done])
        self.sums[: len(OF_SEGMENT)] += torch.stack([d.sums for d in done]).sum(0)
        self.steps_summed += 1
        distributed.sum_in_place([p.grad for p in model.parameters() if p.grad is not None])
        self._optimise([d.table_grad for d in done if d.table_grad is not None])
        self.step += 1

    def _floss(self, carry: halting.Carry, keys: Tensor) -> None:
        """Add the gradient of the flossing loss, a mean over some slots of all processes."""
        t = self.settings
        if not t.flossing_weight or self.step % t.flossing_every:
            return
        chosen = flossed_slots(t, self.share.start, batch_size(carry))
        if chosen.start < chosen.stop:
            loss = flossing_loss(self.model, *rows((carry, keys), chosen), t)
            number = len(range(chosen.start, chosen.stop, chosen.step))
            self.sums[len(OF_SEGMENT) :] += torch.stack(
                [torch.full_like(loss.detach(), number), loss.detach()]
            )
            (loss * (t.flossing_weight / t.flossing_slots)).backward()

    def _segment(self, carry: halting.Carry, min_steps: Tensor, keys: Tensor | None) -> Segment:
        model, data, steps = self.model, carry.data, carry.steps + 1
        assert data.labels is not None
        table_rows = None
        if self.table_optimizer is not None:  # the table sees no autograd: take the gradient of its rows
            table_rows = self.table_optimizer.table[data.puzzle_ids].requires_grad_()
        ctx = model.encode(data, table_rows)
        z = model.training_segment(
            carry.z, ctx, noise_keys=keys, recompute=self.settings.activation_checkpointing
        )
        out = model.readout(z, ctx)
        target = halting.continue_target(model, z, ctx, steps) if model.trains_continue else None
        loss = self.segment_loss(out, data.labels, self.settings.loss, target)
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
            self.table_optimizer.lr = self._rate(self.settings.puzzle_emb_lr, self.step + 1)
            grads = distributed.gather_rows(torch.cat(table_grads))
            self.table_optimizer.step(distributed.gather_rows(ids), grads)
        clip_gradients(self.model, self.settings.grad_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate(group["base_lr"], self.step + 1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()

    def _rate(self, base: float, step: int) -> float:
        t = self.settings
        return learning_rate(
            step, base, warmup=t.lr_warmup_steps, total=self.total_steps, min_ratio=t.lr_min_ratio
        )

    # -- watching

    def _log(self) -> None:
        """Write a line of means: losses over all rows since the last line, the rest over halted ones."""
        sums = dict(zip(SUMS, self._checked_sums().tolist(), strict=True))
        num_rows, halted = self.steps_summed * self.settings.batch_size, int(sums["halted"])
        line = {key: sums[key] / num_rows for key in LOSSES}
        line |= {"halted": halted, **{key: sums[key] / halted if halted else math.nan for key in FINISHED}}
        if sums["flossed"]:
            line["flossing_loss"] = sums["flossing_loss"] / sums["flossed"]
        line["lr"] = self._rate(self.settings.lr, self.step)
        distributed.on_main(lambda: self._write_line({"kind": "train", **line}))
        self.sums.zero_()
        self.steps_summed = 0

    def _evaluate(self, on_eval: OnEval) -> None:
        self._checked_sums()
        with distributed.agreeing(), self.averaged(), torch.no_grad():
            scores = dict(on_eval(self.model))

        def write() -> tuple[float | None, float]:
            self._write_line({"kind": "eval", **scores})
            exact = scores.get("exact_accuracy")
            if exact is None or not exact > self.best:
                return exact, self.best
            with saving.writing(self.folder), self.averaged():
                saving.write_model(self, "best", scores)
            return exact, exact

        self.score, self.best = distributed.on_main(write)

    def _write_line(self, values: Mapping[str, Any]) -> None:
        line = {"step": self.step, "minutes": round(self.minutes, 3), **values}
        line = {k: None if v != v else v for k, v in line.items()}  # json has no NaN
        with saving.writing(self.folder), (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for watcher in self.watchers:
            watcher.line(line)

    def _checked_sums(self) -> Float[Tensor, " sums"]:
        """The sums over all processes.

        Raises:
            UserError: a loss or weight is no number; said before anything of it is saved.
        """
        sums = self.sums.clone()
        distributed.sum_in_place([sums])
        finite = torch.stack([t.isfinite().all() for t in (sums, *self.model.parameters())])
        if not finite.all():
            what = "weights are" if finite[0] else "loss is"
            raise UserError(
                f"the {what} no longer finite at step {self.step}. Lower train.lr or raise "
                f"train.lr_warmup_steps; the last checkpoint in {self.folder / 'checkpoints'} is intact."
            )
        return sums

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model holds the averaged weights, where there are any."""
        return self.ema.swapped() if self.ema is not None else nullcontext()

    # -- saving and resuming

    def save(self) -> None:
        """`last/` with the averaged weights, and a checkpoint of everything."""
        self._checked_sums()
        saving.save(self)
        self.saved_step = self.step

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run folder; without any begin again.

        Raises:
            UserError: the checkpoint is damaged, or does not fit the settings.
        """
        saving.restore(self)


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
