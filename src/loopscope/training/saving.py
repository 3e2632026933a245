"""What a run saves, and how it goes on from there.

Carry slots are kept as the rows of the whole batch, in order, so that a run may go on with another
number of processes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import AdamW

from loopscope.errors import UserError
from loopscope.files import restore_former, write_text
from loopscope.latent import leaves, tree_map
from loopscope.models.folder import load_state, save_model
from loopscope.training import checkpoint, distributed

if TYPE_CHECKING:
    from loopscope.training.loop import Trainer

log = logging.getLogger("loopscope")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full disk while something of a run is written is for the user to mend.

    Raises:
        UserError: the system refused to write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own words for a full disk
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"{folder}: cannot write ({reason}). Make room, then go on with --resume {folder}; what was "
            "saved before is intact."
        ) from None


def save(run: Trainer) -> None:
    """`last/` with the averaged weights, and a checkpoint of everything; the first process writes."""
    carry = {f"0.{i}": distributed.gather_rows(leaf.cpu()) for i, leaf in enumerate(leaves(run.carry))}
    sums = distributed.gather_rows(run.sums.cpu()[None])

    def write() -> None:
        parts = {
            "model": run.model.state_dict(),
            "ema": run.ema.shadow if run.ema is not None else {},
            "optimizer": _moments(run),
            "carry": carry,
        }
        facts = {
            "total_steps": run.total_steps,
            "optimizer": run.settings.optimizer,
            "best": run.best,
            "score": run.score,
            "minutes": run.minutes,
            "sums": sums.tolist(),
            "steps_summed": run.steps_summed,
            "data": run.stream.puzzles.content_hash,
        }
        with writing(run.folder):
            with run.averaged():
                write_model(run, "last", {})
            checkpoint.save(run.folder / "checkpoints", run.step, parts, facts)
            checkpoint.prune(run.folder / "checkpoints", run.settings.keep_last, run.settings.keep_best)

    distributed.on_main(write)


def write_model(run: Trainer, name: str, scores: Mapping[str, float]) -> None:
    """The weights that the model holds now, as a model folder inside the run's."""
    facts = {"recipe": run.recipe.model_dump(), "step": run.step, "minutes": run.minutes}
    facts |= {"weights": "ema" if run.ema is not None else "raw", "validation": dict(scores)}
    save_model(run.model, run.folder / name, facts)


def _moments(run: Trainer) -> dict[str, Tensor]:
    """What the optimisers keep about each weight: AdamATan2 m and v, Muon momentum_buffer."""
    kept: dict[str, Tensor] = {}
    for name, p in run.model.named_parameters():
        state: dict[str, Any] = next((o.state[p] for o in run.optimizers if p in o.state), {})
        kept |= {f"{name}.{k}": v for k, v in state.items() if k != "step"}
    return kept


def restore(run: Trainer) -> None:
    """Put a run into the state of its newest checkpoint; one without any begins again.

    Raises:
        UserError: the checkpoint is damaged, or does not fit the settings.
    """
    path = checkpoint.latest(run.folder / "checkpoints")
    if path is None:
        log.warning("%s: stopped before its first checkpoint, begins again at step 0", run.folder)
    else:
        _read(run, path)
    if distributed.is_main():
        with writing(run.folder):
            _tidy(run.folder, run.step)


def _read(run: Trainer, path: Path) -> None:
    parts, facts = checkpoint.load(path)
    now, then = run.settings.optimizer, facts.get("optimizer", run.settings.optimizer)
    if now != then:
        raise UserError(
            f"{path}: saved with train.optimizer={then}, now it is {now}. Resume with train.optimizer={then}."
        )
    load_state(run.model, parts["model"], str(path))
    _read_ema(run, parts["ema"], path)
    run.step = run.saved_step = facts["step"]
    run.minutes = facts["minutes"]
    run.best = -math.inf if facts["best"] is None else facts["best"]
    _read_moments(run, parts["optimizer"])
    _read_carry(run, parts["carry"], path)
    _read_sums(run, facts)
    if facts.get("data", "") not in ("", run.stream.puzzles.content_hash):
        log.warning("%s: the training puzzles are not those the run began with", path)


def _read_ema(run: Trainer, tensors: Mapping[str, Tensor], path: Path) -> None:
    if run.ema is None:
        return
    if set(tensors) != set(run.ema.shadow):
        raise UserError(f"{path}: no averaged weights in this run. Resume with train.ema=false.")
    for name, shadow in run.ema.shadow.items():
        shadow.copy_(tensors[name])


def _read_moments(run: Trainer, tensors: Mapping[str, Tensor]) -> None:
    names = {p: name for name, p in run.model.named_parameters()}
    for optimizer in run.optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            start = f"{names[p]}."
            moments = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            if moments:
                kept = {k: v.to(p.device) for k, v in moments.items()}
                counted = torch.tensor(float(run.step)) if isinstance(optimizer, AdamW) else run.step
                optimizer.state[p] = {"step": counted, **kept}


def _read_carry(run: Trainer, tensors: Mapping[str, Tensor], path: Path) -> None:
    """This process's slots; all of them in one piece, or in several as older checkpoints keep them."""
    pieces = 1 + max(int(name.partition(".")[0]) for name in tensors)
    columns = range(len(leaves(run.carry)))
    whole = [torch.cat([tensors[f"{i}.{j}"] for i in range(pieces)]) for j in columns]
    if len(whole[0]) != run.settings.batch_size:
        raise UserError(
            f"{path}: {len(whole[0])} slots, but train.batch_size={run.settings.batch_size}. "
            f"Resume with train.batch_size={len(whole[0])}."
        )
    parts = iter(t[run.share].to(run.model.device) for t in whole)
    run.carry = tree_map(lambda _: next(parts), run.carry)


def _read_sums(run: Trainer, facts: Mapping[str, Any]) -> None:
    """Each process takes up its own sums; with another number of processes the first takes them all."""
    saved = torch.tensor(facts.get("sums", [0.0] * len(run.sums)), dtype=torch.float64)
    saved = saved.view(-1, len(run.sums))
    run.steps_summed = facts.get("steps_summed", 0)
    if len(saved) == (now := distributed.num_processes()):
        run.sums.copy_(saved[distributed.rank()])
        return
    run.sums.copy_(saved.sum(0) * distributed.is_main())
    if "sums" in facts:
        log.warning(
            "%s: saved by %d processes, resumed by %d: the slots are shared out anew, none is reset; only "
            "the order of sums differs from here on, by rounding",
            run.folder, len(saved), now,
        )  # fmt: skip


def _tidy(folder: Path, step: int) -> None:
    """Drop what a killed process left: metrics of steps done again, a line cut off, half-written folders."""
    restore_former(folder)
    path = folder / "metrics.jsonl"
    if path.is_file():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= step))
