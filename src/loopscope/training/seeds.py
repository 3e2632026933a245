"""The same recipe under several seeds, one run after the other, and how far the results spread.

A seed decides the weights, the order of the puzzles, their symmetries and which are held out, so the
spread is that of the whole recipe.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopscope.config import Recipe, load_recipe
from loopscope.errors import UserError
from loopscope.files import write_json
from loopscope.training import distributed
from loopscope.training.run import train

SUMMARY = "summary.json"
NOT_SCORES = ("step", "minutes", "kind", "lr", "halted", "n")


def train_seeds(
    recipe: str | Path | Recipe,
    out: str | Path,
    seeds: Sequence[int],
    *,
    overrides: Sequence[str] = (),
    **how: Any,
) -> dict[str, Any]:
    """Train once per seed, in `out/seed<N>`, and write `out/summary.json`.

    Existing runs are resumed, so that the same command finishes what was interrupted.

    Args:
        recipe: as in `train`; its `train.seed` gives way to each of the seeds.
        out: the folder of the runs.
        seeds: all different.
        overrides: as in `train`.
        how: further arguments of `train`.
    Returns:
        The summary: `seeds`, the last scores of every finished run, and `spread` (`spread_of`).
    Raises:
        UserError: as in `train`; a seed given twice; or a run that is there has other settings.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UserError(f"seeds={','.join(map(str, seeds))}: expected different ones. Name each once.")
    wanted = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    with distributed.processes():
        for seed in seeds:
            settings = wanted.model_copy(update={"train": wanted.train.model_copy(update={"seed": seed})})
            folder = Path(out) / f"seed{seed}"
            begun = distributed.on_main(lambda f=folder, s=settings: _begun(f, s))  # type: ignore[misc]
            train(None if begun else settings, folder, resume=begun, **how)
        return distributed.on_main(lambda: summarise(out, seeds))


def summarise(out: str | Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Gather the last scores of every run into `out/summary.json`; returns what it wrote."""
    scores = {seed: last_scores(Path(out) / f"seed{seed}") for seed in seeds}
    summary: dict[str, Any] = {"seeds": {str(seed): found for seed, found in scores.items()}}
    summary["spread"] = spread_of(list(scores.values()))
    write_json(Path(out) / SUMMARY, summary)
    return summary


def last_scores(run: Path) -> dict[str, float | int]:
    """The last training and validation scores of a run, and its best validation accuracy and step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kinds = {"train": "train_", "eval": ""}
    found: dict[str, float | int] = {"step": lines[-1]["step"]}
    for kind, prefix in kinds.items():
        last: Mapping[str, Any] = next((line for line in reversed(lines) if line["kind"] == kind), {})
        found |= {prefix + k: v for k, v in last.items() if k not in NOT_SCORES and v is not None}
    evaluated = [line for line in lines if line["kind"] == "eval"]
    exact = [(line["exact_accuracy"], -line["step"]) for line in evaluated if "exact_accuracy" in line]
    if exact := [(accuracy, step) for accuracy, step in exact if accuracy is not None]:
        best, step = max(exact)
        found |= {"best_exact_accuracy": best, "best_step": -step}
    return found


def spread_of(runs: Sequence[Mapping[str, float | int]]) -> dict[str, dict[str, float | int | None]]:
    """Mean, standard deviation (of the sample; none for one run), lowest, highest and n of every score."""
    names = [name for name in runs[0] if not name.endswith("step") and all(name in run for run in runs)]
    return {name: _spread([run[name] for run in runs]) for name in names}


def _spread(values: Sequence[float | int]) -> dict[str, float | int | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = math.fsum(values) / len(values)
    return {"mean": mean, "sd": deviation, "lowest": min(values), "highest": max(values), "n": len(values)}


def _begun(folder: Path, settings: Recipe) -> bool:
    """Whether the folder holds a run of these settings, with a checkpoint or not yet.

    Raises:
        UserError: it holds one of others.
    """
    if not (folder / "config.yaml").is_file():
        return False
    before = load_recipe(folder / "config.yaml")
    hashed = settings.train.model_copy(update={"init_hash": before.train.init_hash})
    sizes = {key: getattr(before.model, key) for key in ("seq_len", "vocab_size", "num_puzzle_identifiers")}
    model = settings.model.model_copy(update=sizes)
    if (before.train, before.data, before.model) != (hashed, settings.data, model):
        raise UserError(f"{folder}: holds a run with other settings. Choose another --out.")
    return True
