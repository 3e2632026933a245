"""The model card: what a model is, how it was made, how well it does, how to open it.

Everything in it is read off the model, its settings and the scores that lie in its run folder; what
nobody recorded is said to be unknown.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopscope.config import overrides_of, recipe_names
from loopscope.models.recursion import RecursiveModel

SHOWN_FACTS = (
    *("name", "format", "source", "model_hash", "step", "minutes", "weights", "validation"),
    *("assumed", "set"),
)
TRAINING = ("optimizer", "lr", "batch_size", "weight_decay", "loss", "ema", "seed")
SCORES = ("exact_accuracy", "cell_accuracy", "halt_accuracy")
PLACES = ("path", "paths", "init_from", "load_checkpoint")  # how names of facts that tell a place end
ANYWHERE = re.compile(r"[/~]|\.\.?/|[A-Za-z]:[\\/]")  # how a path begins that is one under any name
Facts = Mapping[str, Any]


def describe(model: RecursiveModel) -> dict[str, Any]:
    """What there is to know about a model without running it, in plain values for a table or json.

    FLOPs are matrix products for one puzzle, 2 per multiply-add. The latent size counts numbers.
    """
    s, calls = model.settings, model.applications_per_segment
    return {
        "arch": s.arch,
        "parameters": model.num_parameters,
        "puzzle_table": [s.num_puzzle_identifiers, s.puzzle_emb_ndim] if s.puzzle_emb_ndim else None,
        "cells": s.seq_len,
        "prefix_slots": s.prefix_len,
        "vocabulary": s.vocab_size,
        "width": s.hidden_size,
        "mixer": model.mixer,
        "positions": s.pos_encodings,
        "latent_size": len(model.state_names) * s.num_tokens * s.hidden_size,
        "schedule": compact(model.schedule),
        "applications_per_segment": calls,
        "flops_per_application": model.application_flops,
        "flops_per_segment": calls * model.application_flops,
        "budget": s.halt_max_steps,
        "trained_in": s.forward_dtype,
        "computes_in": str(model.dtype).removeprefix("torch."),
        "start": "random per token" if s.random_init else "fixed vector",
        **{key: model.facts[key] for key in SHOWN_FACTS if model.facts.get(key)},
    }


def compact(schedule: tuple[str, ...]) -> str:
    """A schedule in short: L L H L L H is "(2 L, H) x 2"."""
    sizes = (n for n in range(1, len(schedule) + 1) if len(schedule) % n == 0)
    unit = next(schedule[:n] for n in sizes if schedule[:n] * (len(schedule) // n) == schedule)
    runs: list[list[Any]] = []
    for name in unit:
        if runs and runs[-1][1] == name:
            runs[-1][0] += 1
        else:
            runs.append([1, name])
    text = ", ".join(name if count == 1 else f"{count} {name}" for count, name in runs)
    times = len(schedule) // len(unit)
    return text if times == 1 else f"({text}) x {times}"


def card(model: RecursiveModel, facts: Facts, scores: Sequence[Facts] = ()) -> str:
    """The text of a model card, with the header that the Hugging Face Hub reads.

    Args:
        model: the model.
        facts: recipe, step, minutes, validation scores, as `model.facts` keeps them.
        scores: evaluations as `Evaluation.to_dict` writes them.
    """
    sections = [_head(model, facts), _use(facts), _settings(model), _training(facts)]
    sections += [_scores(facts, scores), _limits(model, facts, scores)]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def without_local_paths(facts: Any, key: str = "") -> Any:
    """Facts as they may leave the machine: of every local path the last part only.

    Args:
        facts: plain values, nested as they like.
        key: the name under which they stand.
    """
    if isinstance(facts, Mapping):
        return {name: without_local_paths(value, str(name)) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [without_local_paths(value, key) for value in facts]
    told = str(facts) if isinstance(facts, str | Path) else ""
    is_place = bool(ANYWHERE.match(told)) or (key.endswith(PLACES) and not told.startswith("hf:"))
    return re.split(r"[/\\]", told.rstrip("/\\"))[-1] if told and is_place else facts


def found_scores(path: Path) -> list[dict[str, Any]]:
    """The evaluations that `loopscope eval --json` wrote into a folder, oldest first."""
    found = []
    for file in sorted(path.glob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not ours, and no part of the model
        if isinstance(values, dict) and {"segments", "data", "n"} <= set(values):
            found.append(values)
    return sorted(found, key=lambda values: str(values.get("created")))


def _head(model: RecursiveModel, facts: Facts) -> list[str]:
    s = model.settings
    name = facts.get("recipe", {}).get("name") or facts.get("name") or s.arch
    tags = ["recursive-reasoning", s.arch]
    return [
        *("---", "library_name: loopscope", f"tags: [{', '.join(tags)}]", "---", "", f"# {name}", ""),
        f"A {s.arch} model with {model.num_parameters:,} trained parameters, "
        f"{s.seq_len} cells, {s.vocab_size} tokens, width {s.hidden_size}, "
        f"{model.applications_per_segment} block applications per segment, "
        f"trained with up to {s.halt_max_steps} segments.",
    ]


def _use(facts: Facts) -> list[str]:
    code = ["import loopscope as ls", 'model = ls.load("path/of/this/folder")  # or "owner/name" on the Hub']
    lines = ["## How to load", "", "```python", *code, "```"]
    if "official" in facts:
        lines += ["", "Converted from a checkpoint of the official training code."]
    return lines


def _settings(model: RecursiveModel) -> list[str]:
    told = describe(model)
    told["GFLOP per puzzle and segment"] = f"{told['flops_per_segment'] / 1e9:.3g}"
    table = told["puzzle_table"]
    told["puzzle_table"] = "none" if table is None else f"{table[0]:,} x {table[1]}"
    told["parameters"] = f"{told['parameters']:,}"
    first = ("arch", "parameters", "puzzle_table", "cells", "vocabulary", "width", "mixer", "positions")
    shown = (*first, "schedule", "GFLOP per puzzle and segment", "budget", "start", "trained_in")
    rows = [f"| {key.replace('_', ' ')} | {told[key]} |" for key in shown]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, "", "All are in `config.json`."]


def _training(facts: Facts) -> list[str]:
    recipe, lines = facts.get("recipe", {}), ["## Training", ""]
    if "step" in facts:
        minutes = f" ({facts['minutes']:.0f} minutes)" if "minutes" in facts else ""
        lines += [f"- weights: {facts.get('weights', 'unknown')}, after {facts['step']} steps{minutes}"]
    data, train = recipe.get("data", {}), recipe.get("train") or facts.get("official", {})
    if data:
        lines += [f"- data: {_data(data)}"]
    told = ", ".join(f"{key} {train[key]}" for key in TRAINING if train.get(key) is not None)
    lines += [f"- {told}"] if told else []
    if recipe:
        lines += ["", *_repeat(recipe)]
    return lines if len(lines) > 2 else [*lines, "Not recorded."]


def _repeat(recipe: Facts) -> list[str]:
    if recipe.get("name") not in recipe_names():
        return ["All settings are under `recipe` in `config.json`."]
    puzzles = ["data.path=DIR"] if recipe.get("data", {}).get("path") else []
    words = [
        "loopscope train",
        recipe["name"],
        *puzzles,
        *map(shlex.quote, overrides_of(without_local_paths(recipe))),
        "--out RUN",
    ]
    return ["Repeat it with", "", "```", " ".join(words), "```"]


def _data(data: Facts) -> str:
    """The training puzzles in words; of paths the last part only, the rest is the trainer's own business."""
    paths = data.get("path") or []
    names = [Path(p).name for p in ([paths] if isinstance(paths, str) else paths)]
    made = ", ".join(f"{key} {value}" for key, value in (data.get("generate") or {}).items())
    text = f"{data.get('task')}: {', '.join(names) or (f'generated ({made})' if made else 'unknown')}"
    held_out = data.get("validation")
    return text + (f"; {held_out} held out" if held_out else "")


def _scores(facts: Facts, scores: Sequence[Facts]) -> list[str]:
    lines = ["## Scores", ""]
    held_out = facts.get("recipe", {}).get("data", {}).get("validation", 0)
    known = {key: value for key, value in facts.get("validation", {}).items() if value is not None}
    lines += [f"- validation {key}: {_with_interval(key, value, held_out)}" for key, value in known.items()]
    lines += [""] if known and scores else []
    if scores:
        columns = ["data", "n", "dtype", "segments", *(key.replace("_", " ") for key in SCORES)]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [_row(values, segments) for values in scores for segments in values["segments"]]
    if len(lines) == 2:
        return [*lines, "None recorded: `loopscope eval` measures them."]
    return [*lines, "", "In brackets 95 % intervals over puzzles, without the spread between training seeds."]


def _row(values: Facts, segments: str) -> str:
    cells = [Path(str(values["data"])).name, values["n"], values.get("dtype", "?"), segments]
    cells += [
        _percent(**values["segments"][segments][key]) if key in values["segments"][segments] else "-"
        for key in SCORES
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _with_interval(name: str, value: float, n: int) -> str:
    """A share of `n` held-out puzzles with Wilson's interval; cell accuracies are no such share."""
    if name not in ("exact_accuracy", "halt_accuracy") or not n:
        return f"{value:.4f}"
    from scipy.stats import binomtest  # slow to import, and `load` needs none of it

    ends = binomtest(round(value * n), n).proportion_ci(method="wilson")
    return _percent(value, ends.low, ends.high, n) + f" (n={n})"


def _percent(value: float | None, low: float | None, high: float | None, n: int) -> str:
    if value is None or low is None or high is None or math.isnan(value):
        return "-"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _limits(model: RecursiveModel, facts: Facts, scores: Sequence[Facts]) -> list[str]:
    s, data = model.settings, facts.get("recipe", {}).get("data", {})
    lines = [f"- Takes boards of {s.seq_len} cells and {s.vocab_size} tokens only."]
    lines += ["- An answer may break the rules; the halt logit is the model's own opinion of it."]
    lines += [f"- Trained with up to {s.halt_max_steps} segments; more of them are an extrapolation."]
    if (hardest := data.get("max_difficulty")) is not None:
        lines += [f"- Trained on puzzles of difficulty up to {hardest} only."]
    if s.puzzle_emb_ndim and s.num_puzzle_identifiers > 1:
        lines += ["- Knows the puzzles of its table only; a new task has no row in it."]
    if not scores:
        lines += ["- Not scored on puzzles other than the held-out ones."]
    return ["## Limits", "", *lines]
