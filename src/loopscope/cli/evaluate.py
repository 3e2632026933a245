"""loopscope eval: score a model on puzzles with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

if TYPE_CHECKING:
    from loopscope.evaluation.evaluate import Evaluation

NAMES = {  # score -> column
    "exact_accuracy": "exact",
    "cell_accuracy": "cells",
    "halt_accuracy": "halt",
    "unfilled_accuracy": "unfilled cells",
    "cumulative_accuracy": "right so far",
    "absorbed_accuracy": "right and stays",
    "pass_at_k": "any right",
    "mean_at_k": "one at random",
    "verified": "keeps the rules",
    "valid": "valid grid",
    "givens_kept": "givens kept",
    "valid_path": "valid path",
    "clean_path": "nothing else",
    "shortest_path": "shortest",
}
HEADLINE = ("exact_accuracy", "cell_accuracy", "halt_accuracy")
TOGETHER = (  # columns of a table, three at most on 80 characters
    HEADLINE,
    ("pass_at_k", "mean_at_k"),
    ("unfilled_accuracy", "cumulative_accuracy", "absorbed_accuracy"),
    ("verified", "valid", "givens_kept"),
    ("valid_path", "clean_path", "shortest_path"),
)


@app.command("eval")
def evaluate(
    model: options.Model,
    data: options.Data,
    segments: Annotated[str, typer.Option(help="Numbers of segments to score at, with commas.")] = "16",
    restarts: Annotated[
        int, typer.Option(help="Orbits per puzzle, the first from the plain start.", min=1)
    ] = 1,
    noise: options.Noise = 0.3,
    select: options.Select = "halt",
    versions: Annotated[
        int | None, typer.Option(help="ARC: versions of each task that vote; default all.", min=1)
    ] = None,
    arc_rule: Annotated[
        str, typer.Option(help="ARC: how votes are counted where conventions differ: ours or official.")
    ] = "ours",
    submission: Annotated[
        Path | None, typer.Option(help="ARC: write the answers as Kaggle asks for them.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
    answers: Annotated[
        Path | None, typer.Option("--out", help="Write each answer here: .csv, .csv.gz or .parquet.")
    ] = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    batch_size: options.BatchSize = 64,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64; default the model's own.")
    ] = None,
    seed: options.Seed = 0,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
) -> None:
    """Score a model: exact, cell and halt accuracy, with 95 % intervals, per number of segments.

    \b
    loopscope eval sudoku9-cpu --data sudoku9-demo
    loopscope eval RUN --data test.csv.gz --segments 16,64 --limit 512
    loopscope eval RUN --data test.csv.gz --restarts 8 --select residual
    loopscope eval checkpoints/step_65100 --data test.csv.gz --json scores.json
    loopscope eval RUN --data test.csv.gz --out answers.csv
    loopscope eval RUN --data arc1 --versions 100 --submission submission.json

    ARC: every test input is shown in all versions of its task, and answers are chosen by vote. "right so
    far" (at any segment) is an oracle, as no rule says where to stop.
    """
    from loopscope.evaluation.answer_file import answer_table, check_target, write_answers
    from loopscope.evaluation.arc import evaluate_arc
    from loopscope.files import write_json, write_text
    from loopscope.tasks.storage.layout import names

    if answers is not None:
        check_target(answers)
    wanted = options.parse_numbers(segments, int, "--segments")
    puzzles = options.read_data(data, limit, skip_invalid, split)
    is_arc = puzzles.task.name.startswith("arc-")
    for option, value in (("--submission", submission), ("--versions", versions)):
        if value is not None and not is_arc:
            raise UserError(f"{option}: {puzzles.task.name} is no ARC set. Leave it out.")
    if is_arc and restarts > 1:
        raise UserError(f"--restarts {restarts}: ARC answers are chosen by vote over versions. Leave it out.")
    common: dict[str, Any] = {
        "segments": wanted,
        "batch_size": batch_size,
        "progress": options.show_progress(),
    }
    network = options.load_model(model, known, dtype)
    if is_arc:
        if limit is not None:
            puzzles = first_tasks(data, split, limit)
        result, votes = evaluate_arc(
            network, puzzles, names(data), versions=versions, rule=arc_rule, **common
        )
        print_votes(model, result)
        if submission is not None:
            write_text(submission, json.dumps(votes[max(wanted)].submission()))
            options.say(f"\nsubmission, {max(wanted)} segments, written to {submission}")
    else:
        kicked = {"restarts": restarts, "noise": noise, "select": select, "seed": seed}
        result = score(network, puzzles, kicked, common, answers is not None)
        print_scores(model, result)
    if out is not None:
        write_json(out, result.to_dict())
        options.say(f"\nwritten to {out}")
    if answers is not None:
        write_answers(answers, answer_table(result, puzzles))
        options.say(f"\nanswers, {max(wanted)} segments, written to {answers}")


def score(
    network: Any, puzzles: Any, kicked: dict[str, Any], common: dict[str, Any], keep: bool
) -> Evaluation:
    """One orbit for each puzzle, or several."""
    from loopscope.evaluation.evaluate import evaluate, evaluate_restarts

    if kicked["restarts"] > 1:
        return evaluate_restarts(network, puzzles, **kicked, **common)
    return evaluate(network, puzzles, answers=keep, **common)


def first_tasks(data: str, split: str, limit: int) -> Any:
    """The first tasks of an ARC folder with all their rows; elsewhere a limit counts rows."""
    import numpy as np

    puzzles = options.read_data(data, None, split=split)
    tasks = len(puzzles if puzzles.groups is None else puzzles.groups)
    return puzzles.only_groups(np.arange(min(limit, tasks)))


def print_scores(model: str, result: Evaluation) -> None:
    """Headline scores, all others, and accuracy by difficulty."""
    facts = result.facts
    options.say(f"{model} on {facts['data']}, n = {facts['n']}, {facts['dtype']}; 95 % intervals", "bold")
    if "select" in facts:
        options.say(f"{facts['restarts']} rollouts, noise {facts['noise']:g}, chosen by {facts['select']}")
    known = next(iter(result.scores.values()))
    others = tuple(name for name in known if not any(name in names for names in TOGETHER))
    for names in (*TOGETHER, others):
        if found := [name for name in names if name in known]:
            print_columns(result, found)
    for t, facts_of_t in result.bands.items():
        for fact, bands in facts_of_t.items():
            rows = [[band, str(e.n), options.percent(e)] for band, e in bands.items() if e.n]
            if len(rows) > 1 or fact == "rating":
                fact = fact.replace("_", " ")
                options.table(f"\nexact by {fact}, {t} segments", [fact, "n", "exact"], rows)


def print_columns(result: Evaluation, names: list[str]) -> None:
    """Some scores, a row per number of segments."""
    rows = [[str(t), *(options.percent(row[name]) for name in names)] for t, row in result.scores.items()]
    options.table("", ["segments", *(NAMES.get(name, name) for name in names)], rows)


def print_votes(model: str, result: Evaluation) -> None:
    """pass@k in both conventions, then the scores of single answers."""
    facts = result.facts
    most = facts["versions"]["most"]
    asked = f"{facts['tasks']} tasks, {facts['test_inputs']} test inputs, up to {most} versions"
    options.say(f"{model} on {facts['data']}, {facts['dtype']}; 95 % intervals over tasks", "bold")
    options.say(f"{asked}; rule of the votes: {facts['arc_rule']}")
    for t, row in result.scores.items():
        ks = [name.removeprefix("pass_at_") for name in row if name.startswith("pass_at_")]
        rows = [
            [k, options.percent(row[f"pass_at_{k}"]), options.percent(row[f"all_pairs_pass_at_{k}"])]
            for k in ks
            if int(k) <= max(most, 2)
        ]
        heads = ["attempts", "share of test inputs", "all test inputs"]
        options.table(f"\nsolved by vote, {t} segments", heads, rows)
    options.say("\neach version by itself", "bold")
    print_columns(result, list(HEADLINE))
