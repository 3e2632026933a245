"""How fast a model answers, beside what the same device does in plain matrix products.

Answers and products are timed in turn, as `training.bench` times steps: the fraction between them is
worth more than either number. Encoding and heads are in the time but not in the FLOPs; they are a
thousandth of the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loopscope.config import load_recipe
from loopscope.config.recipes import recipe_names
from loopscope.errors import UserError
from loopscope.models import RecursiveModel, build_model
from loopscope.models.load import list_shipped, load
from loopscope.tasks.base import Batch
from loopscope.training.bench import boards_of, in_turn
from loopscope.training.setup import missing_for_compile, resolve

WARM_UP = 2  # segments before the first that counts, among them the compilation


def bench_infer(
    model: RecursiveModel,
    *,
    segments: int = 16,
    batch_size: int = 8,
    rounds: int = 5,
    compiled: bool = False,
) -> dict[str, Any]:
    """Time answering a batch of random boards, and matrix products, in turn.

    Args:
        model: any; it computes in its own dtype, on its own device.
        segments: all of them are run for every puzzle; nothing halts.
        batch_size: puzzles per batch.
        rounds: batches that count.
        compiled: compile the recursive blocks of the model first, for good.
    Returns:
        Plain values: `puzzles_per_second`, `seconds` per batch (median) with quartiles `seconds_low` and
        `seconds_high`, `seconds_per_segment`, `flops` of a batch, `rate`, `peak`, `fraction` as
        `bench_train` gives them, and what was timed.
    Raises:
        UserError: a number below 1, or nothing here to compile with.
    """
    for name, number in {"segments": segments, "batch_size": batch_size, "rounds": rounds}.items():
        if number < 1:
            raise UserError(f"{name}={number}: expected at least 1.")
    if compiled:
        compile_model(model)
    batch = random_batch(model, batch_size)
    flops = batch_size * segments * model.applications_per_segment * model.application_flops
    with torch.no_grad(), model.casts_kept():
        answer(model, batch, min(WARM_UP, segments))
        found = in_turn(lambda: answer(model, batch, segments), flops, model.dtype, model.device, rounds)
    found |= {"puzzles_per_second": batch_size / found["seconds"]}
    found |= {"seconds_per_segment": found["seconds"] / segments}
    found |= {"model": str(model.facts.get("name", model.settings.arch)), "compile": compiled}
    return found | {"parameters": model.num_parameters, "batch_size": batch_size, "segments": segments}


def answer(model: RecursiveModel, batch: Batch, segments: int) -> Tensor:
    """Tokens (B, L) after so many segments from the model's own start."""
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    for _ in range(segments):
        z = model.segment(z, ctx)
    return model.readout(z, ctx).logits.argmax(-1)


def random_batch(model: RecursiveModel, batch_size: int) -> Batch:
    """Boards of random tokens: an orbit takes as long on them as on puzzles."""
    s, draw = model.settings, torch.Generator().manual_seed(0)
    inputs = torch.randint(1, s.vocab_size, (batch_size, s.seq_len), generator=draw)
    ids = torch.randint(s.num_puzzle_identifiers, (batch_size,), generator=draw)
    return Batch(inputs.to(model.device), ids.to(model.device))


def model_or_recipe(
    source: str, *, dtype: str | None = None, device: str | torch.device = "cpu", **known: Any
) -> RecursiveModel:
    """A trained model, or one with fresh weights as a recipe describes it, for timing.

    Args:
        source: anything `load` takes, the name of a recipe or a recipe's yaml file. A name that is both
            means the trained model.
        dtype: dtype of states and products; None takes the model's own.
        device: where it goes.
        known: settings of the model that shall differ.
    Raises:
        UserError: as `load` and `load_recipe` say it.
    """
    is_recipe = source in recipe_names() or Path(source).suffix in (".yaml", ".yml")
    if not is_recipe or source in list_shipped() or Path(source).is_dir():
        return load(source, dtype=dtype, device=device, **known)
    recipe = load_recipe(source, [f"model.{key}={value}" for key, value in known.items()])
    model = build_model(resolve(recipe, boards_of(recipe)[0]).model, seed=0)
    model.facts["name"] = f"{recipe.name} (fresh weights)"
    return model.to(device).compute_in(dtype or model.dtype).eval()


def compile_model(model: RecursiveModel) -> None:
    """Compile the recursive blocks for good: slow at the first segment, faster from then on.

    Raises:
        UserError: nothing here to compile with.
    """
    if missing := missing_for_compile(model.device):
        raise UserError(f"compile: {missing} is missing on this machine. Install it or leave --compile out.")
    model.compile_blocks(any_batch=True)
