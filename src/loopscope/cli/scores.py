"""What a person gets of an evaluation: tables on the terminal, and the files asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopscope.cli import options

if TYPE_CHECKING:
    from loopscope.evaluation.evaluate import Cost, Evaluation

NAMES = {  # score -> column
    "exact_accuracy": "exact",
    "cell_accuracy": "cells",
    "halt_accuracy": "halt",
    "unfilled_accuracy": "unfilled cells",
    "cumulative_accuracy": "right so far",
    "absorbed_accuracy": "right and stays",
    "pass_at_k": "any right",
    "mean_at_k": "one at random",
    "selection_gap": "missed by choice",
    "selection_auc": "AUC of halt",
    "exact_at_coverage_50": "exact, surest 50 %",
    "exact_at_coverage_80": "surest 80 %",
    "risk_area": "area of risk",
    "verified": "keeps the rules",
    "valid": "valid grid",
    "givens_kept": "givens kept",
    "valid_path": "valid path",
    "clean_path": "nothing else",
    "shortest_path": "shortest",
}
COSTS = ("applications", "GFLOP", "ms per puzzle")
HEADLINE = ("exact_accuracy", "cell_accuracy", "halt_accuracy")
TOGETHER = (  # columns of a table, three at most on 80 characters
    HEADLINE,
    ("exact_at_coverage_50", "exact_at_coverage_80", "risk_area"),
    ("pass_at_k", "mean_at_k"),
    ("selection_gap", "selection_auc"),
    ("unfilled_accuracy", "cumulative_accuracy", "absorbed_accuracy"),
    ("verified", "valid", "givens_kept"),
    ("valid_path", "clean_path", "shortest_path"),
)


def print_scores(model: str, result: Evaluation) -> None:
    """Headline scores, cost, all others, and accuracy by difficulty."""
    from loopscope.evaluation.budget import in_words as spent_how
    from loopscope.evaluation.levers import in_words

    facts = result.facts
    options.say(f"{model} on {facts['data']}, n = {facts['n']}, {facts['dtype']}; 95 % intervals", "bold")
    if "select" in facts:
        options.say(in_words(facts, len(facts.get("models", [1]))))
    if "policy" in facts:
        options.say(spent_how(facts))
    known = next(iter(result.scores.values()))
    others = tuple(name for name in known if not any(name in names for names in TOGETHER))
    for names in (*TOGETHER, others):
        if found := [name for name in names if name in known]:
            print_columns(result, found)
        if names == HEADLINE:
            print_costs(result)
    shown = list(result.bands)[-1:] if "policy" in facts else list(result.bands)
    for t, facts_of_t in ((t, result.bands[t]) for t in shown):
        for fact, bands in facts_of_t.items():
            rows = [[band, str(e.n), options.percent(e)] for band, e in bands.items() if e.n]
            if len(rows) > 1 or fact == "rating":
                fact = fact.replace("_", " ")
                options.table(f"\nexact by {fact}, {t} segments", [fact, "n", "exact"], rows)


def print_columns(result: Evaluation, names: list[str]) -> None:
    """Some scores, a row per number of segments."""
    rows = [[str(t), *(options.percent(row[name]) for name in names)] for t, row in result.scores.items()]
    options.table("", ["segments", *(NAMES.get(name, name) for name in names)], rows)


def print_costs(result: Evaluation) -> None:
    """What a puzzle cost, a row per number of segments."""
    rows = [[str(t), *costs_in_words(cost)] for t, cost in result.costs.items()]
    options.table("", ["segments", *COSTS], rows)


def costs_in_words(cost: Cost) -> list[str]:
    """The columns of `COSTS`."""
    work = "-" if math.isnan(cost.flops) else f"{cost.flops / 1e9:.3g}"
    return [f"{cost.applications:,.4g}", work, f"{1e3 * cost.seconds:,.3g}"]


def write_results(result: Evaluation, puzzles: Any, json: Path | None, out: Path | None) -> None:
    """Scores as json and answers as a table, where asked for."""
    from loopscope.evaluation.answer_file import answer_table, write_answers
    from loopscope.files import write_json

    if json is not None:
        write_json(json, result.to_dict())
        options.say(f"\nwritten to {json}")
    if out is not None:
        write_answers(out, answer_table(result, puzzles))
        options.say(f"\nanswers, {max(result.outcomes)} segments, written to {out}")
