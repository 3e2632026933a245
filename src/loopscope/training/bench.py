"""How fast a training step is, beside what the same device does in plain matrix products.

Product and step are timed in turn, so that both meet the same disturbances of a shared machine: the
fraction between them is worth more than either number. The processor time of this process is taken,
too: on a CPU it tells of other work that shares the cores, which wall time alone does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopscope.config import Recipe
from loopscope.models import build_model
from loopscope.tasks import TASKS, PuzzleSet
from loopscope.training.loop import Trainer
from loopscope.training.run import training_flops
from loopscope.training.setup import make_trainer, missing_for_compile, pick_device, resolve, training_puzzles

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}  # sides of the square products
CELLS = {"sudoku": 81, "maze": 900, "arc": 900}  # the papers' sizes


def bench_train(
    recipe: Recipe, *, rounds: int = 10, warmup: int = 3, device: str = "auto"
) -> tuple[dict[str, Any], Trainer]:
    """Time training steps and matrix products in turn.

    Args:
        recipe: the settings; without puzzles of its own it is timed on random boards of the papers' size.
        rounds: steps that count.
        warmup: steps before them, among them the compilation.
        device: "auto", "cpu" or "cuda".
    Returns:
        Plain values: `seconds` of wall time per step (median), `seconds_low` and `seconds_high`
        (quartiles), `flops` of a step as `training_flops` counts them, `rate` (FLOP/s of the median
        step), `peak` (FLOP/s of the best square product, median over the rounds), `fraction` (rate /
        peak), `processor_seconds` (median over the steps of the time that all threads of this process
        were on a core; of little meaning beside a GPU), and what was timed; and the warm trainer, for
        `profile_step`.
    """
    trainer, made_up = bench_trainer(recipe, pick_device(device))
    model, t = trainer.model, trainer.settings
    for _ in range(warmup):
        trainer.train_step()
    flops = t.batch_size * training_flops(model)
    found = in_turn(trainer.train_step, flops, model.dtype, model.device, rounds)
    found |= {"recipe": recipe.name, "parameters": model.num_parameters, "random_boards": made_up}
    found |= {"batch_size": t.batch_size, "micro_batch": t.micro_batch or t.batch_size}
    return found | {"compile": compiles(recipe, model.device)}, trainer


def in_turn(
    act: Callable[[], object], flops: float, dtype: torch.dtype, device: torch.device, rounds: int
) -> dict[str, Any]:
    """Time a warm call and the best square product of the device in turn.

    Args:
        act: what is timed.
        flops: its matrix products, 2 per multiply-add.
        dtype: of the products.
        device: where both run.
        rounds: calls of each.
    Returns:
        The numbers of `bench_train` that have to do with time, and where they were measured.
    """
    side = best_side(dtype, device)
    times, rates, busy = [], [], []
    for _ in range(rounds):
        rates.append(product_rate(side, dtype, device))
        began = time.process_time()
        times.append(seconds_of(act, device))
        busy.append(time.process_time() - began)
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    peak = float(np.median(rates))
    found = {"seconds": middle, "seconds_low": low, "seconds_high": high, "flops": flops}
    found |= {"rate": flops / middle, "peak": peak, "fraction": flops / middle / peak, "peak_side": side}
    found["processor_seconds"] = float(np.median(busy))
    where = {"threads": torch.get_num_threads(), "device": device_name(device)}
    return {**found, "rounds": rounds, "dtype": str(dtype).removeprefix("torch."), **where}


def bench_trainer(recipe: Recipe, device: torch.device) -> tuple[Trainer, bool]:
    """A trainer that writes nothing while only `train_step` is called, and whether its boards are made up."""
    puzzles, made_up = boards_of(recipe)
    return _trainer(without_symmetries(recipe) if made_up else recipe, puzzles, device), made_up


def without_symmetries(recipe: Recipe) -> Recipe:
    """The recipe as random boards can bear it: what they show has no symmetry that keeps its answer."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"augmentations": False})})


def _trainer(recipe: Recipe, puzzles: PuzzleSet, device: torch.device) -> Trainer:
    endless = recipe.train.model_copy(update={"steps": 10**6, "epochs": None})
    in_passes = recipe.data.model_copy(update={"order": "passes"})  # the official order may not fill a batch
    recipe = resolve(recipe.model_copy(update={"train": endless, "data": in_passes}), puzzles)
    return make_trainer(recipe, puzzles, Path("unused"), None, device)


def boards_of(recipe: Recipe, count: int = 1024) -> tuple[PuzzleSet, bool]:
    """The puzzles of a recipe, else `count` random boards, and whether they are made up."""
    named = recipe.data.path or recipe.data.generate
    made_up = not named and recipe.data.task in CELLS
    return random_boards(recipe.data.task, count) if made_up else training_puzzles(recipe.data), made_up


def random_boards(task: str, count: int = 1024) -> PuzzleSet:
    """Boards of random tokens in the papers' size: a step takes as long on them as on puzzles."""
    kind = TASKS[task](CELLS[task])
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, kind.vocab_size, (count, kind.seq_len), np.uint8)
    return PuzzleSet(kind, inputs, inputs.copy(), np.zeros(count, np.int32), name=f"random {kind.name}")


def probe(recipe: Recipe, puzzles: PuzzleSet, *, device: str = "auto", rounds: int = 3) -> dict[str, float]:
    """Seconds of a step of this recipe on this machine, from a few real steps of one micro batch.

    On a CPU the micro batch is cut to about a TFLOP. The estimate multiplies it up and counts the
    optimiser once per micro batch, so it is rather too long than too short; evaluation is not in it.

    Args:
        recipe: the settings of the run.
        puzzles: its training puzzles.
        device: "auto", "cpu" or "cuda".
        rounds: steps timed after the warm-up; the median counts.
    Returns:
        `seconds` of a whole step and `rows` of the micro batch that was timed.
    """
    target, t = pick_device(device), recipe.train
    with torch.device("meta"):
        flops = training_flops(build_model(resolve(recipe, puzzles).model))
    rows = t.micro_batch or t.batch_size
    if target.type == "cpu":
        rows = min(rows, max(1, int(1e12 / flops)))
    flossed = max(1, t.flossing_slots * rows // t.batch_size)
    small = t.model_copy(update={"batch_size": rows, "micro_batch": 0, "flossing_slots": flossed})
    trainer = _trainer(recipe.model_copy(update={"train": small}), puzzles, target)
    for _ in range(2):
        trainer.train_step()
    times = [seconds_of(trainer.train_step, target) for _ in range(rounds)]
    return {"seconds": float(np.median(times)) * t.batch_size / rows, "rows": rows}


def seconds_of(act: Callable[[], object], device: torch.device) -> float:
    """Time of a call, of everything it leaves running on the device included."""
    _wait(device)
    began = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(side: int, dtype: torch.dtype, device: torch.device, at_least: float = 0.2) -> float:
    """FLOP/s of a square matrix product, timed so long that other work disturbs it as it does a step."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = a @ b  # not timed: libraries choose their kernel at the first call
    calls, spent = 1, 0.0
    while spent < at_least:
        calls *= 2
        spent = seconds_of(lambda calls=calls: [torch.mm(a, b, out=out) for _ in range(calls)], device)  # type: ignore[misc]
    return calls * 2 * side**3 / spent


def best_side(dtype: torch.dtype, device: torch.device) -> int:
    """The side of the square product that runs fastest here."""
    return max(SIZES[device.type], key=lambda side: product_rate(side, dtype, device))


def compiles(recipe: Recipe, device: torch.device) -> bool:
    """Whether the blocks really are compiled: asked for, and possible here."""
    return recipe.train.compile and not missing_for_compile(device)


def device_name(device: torch.device) -> str:
    """The GPU by name, else the processor's best instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"


def profile_step(trainer: Trainer, most: int = 12) -> list[tuple[str, int, float]]:
    """Where the time of one training step goes.

    Args:
        trainer: warmed up.
        most: operators named; the rest comes as one last row.
    Returns:
        (operator, calls, share of the time spent in operators themselves), longest first.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    cuda = trainer.model.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as profiler:
        trainer.train_step()
        _wait(trainer.model.device)
    # on CUDA a kernel's time stands at the operator that launched it, and again at the kernel itself
    events = [
        (e.key, e.count, e.self_device_time_total if cuda else e.self_cpu_time_total)
        for e in profiler.key_averages()
        if not cuda or (e.device_type == DeviceType.CUDA and not e.is_user_annotation)
    ]
    events.sort(key=lambda event: -event[2])
    total = sum(spent for *_, spent in events)
    rows = [(key, calls, spent / total) for key, calls, spent in events[:most]]
    rest = events[most:]
    return [*rows, ("everything else", sum(e[1] for e in rest), sum(e[2] for e in rest) / total)]
