"""loopscope eval: score a model on puzzles with known answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

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


@app.command("eval")
def evaluate(
    model: options.Model,
    data: options.Data,
    segments: Annotated[str, typer.Option(help="Numbers of segments to score at, with commas.")] = "16",
    restarts: Annotated[
        int, typer.Option(help="Orbits per puzzle, the first from the plain start.", min=1)
    ] = 1,
    noise: options.Noise = 0.3,
    start: Annotated[str, typer.Option(help="Where restarts begin: perturbed or random.")] = "perturbed",
    segment_noise: Annotated[
        float, typer.Option(help="Noise on the latent before every segment, in deviations.", min=0)
    ] = 0.0,
    views: Annotated[int, typer.Option(help="Symmetric views of each puzzle.", min=1)] = 1,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="Another model whose answers join in; can be repeated.")
    ] = None,
    stop: Annotated[
        str, typer.Option(help="When an orbit ends: budget, halt, settled, unchanged or halt+unchanged.")
    ] = "budget",
    select: options.Select = "halt",
    budget: options.Budget = None,
    policy: options.Policy = "deepen",
    cutoff: options.Cutoff = 16,
    sweep: Annotated[
        str | None, typer.Option(help='A grid of levers: "segments=16,64 restarts=1,8 stop=halt".')
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --sweep: draw accuracy against cost, .svg or .png.")
    ] = None,
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
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the recursive blocks: worth it for many puzzles.")
    ] = False,
    seed: options.Seed = 0,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
) -> None:
    """Score a model: exact, cell and halt accuracy, with 95 % intervals, per number of segments.

    \b
    loopscope eval sudoku9-cpu --data sudoku9-demo
    loopscope eval RUN --data test.csv.gz --segments 16,64 --limit 512
    loopscope eval RUN --data test.csv.gz --restarts 8 --select residual
    loopscope eval RUN --data test.csv.gz --segments 64 --stop halt+unchanged
    loopscope eval RUN --data test.csv.gz --views 9 --select majority
    loopscope eval RUN --data test.csv.gz --budget 512 --policy luby
    loopscope eval RUN --data DATA --sweep "segments=8,64 restarts=1,8"
    loopscope eval checkpoints/step_65100 --data test.csv.gz --json scores.json
    loopscope eval RUN --data test.csv.gz --out answers.csv
    loopscope eval RUN --data arc1 --versions 100 --submission submission.json

    ARC: every test input is shown in all versions of its task, and answers are
    chosen by vote. "right so far" (at any segment) and "any right" (of several
    rollouts) are oracles, as no rule finds those answers.
    """
    from loopscope.cli.budget import budget_of, refuse_arc
    from loopscope.evaluation.bench import compile_model
    from loopscope.evaluation.levers import Levers
    from loopscope.training.distributed import processes

    wanted = options.parse_numbers(segments, int, "--segments")
    levers: dict[str, Any] = {
        "restarts": restarts,
        "noise": noise,
        "start": start,
        "segment_noise": segment_noise,
        "views": views,
        "stop": stop,
        "select": select,
        "seed": seed,
    }
    Levers(**levers)
    check_targets(answers, figure, sweep)
    spending: dict[str, Any] = {"policy": policy, "cutoff": cutoff}
    others = {key: levers[key] for key in ("restarts", "views", "stop", "select")}
    others |= {"segments": segments, "ensemble": ensemble, "sweep": sweep}
    spending |= budget_of(budget, spending, others)
    common: dict[str, Any] = {"batch_size": batch_size, "progress": options.show_progress()}
    names = [model, *(ensemble or [])]
    with processes():
        puzzles = options.read_data(data, limit, skip_invalid, split)
        is_arc = puzzles.task.name.startswith("arc-")
        if is_arc:
            refuse_arc(budget)
        check_options(puzzles.task.name, is_arc, submission, versions, levers, ensemble, sweep)
        networks = [options.load_model(name, known, dtype) for name in names]
        for network in networks if compiled else ():
            compile_model(network)
        if is_arc:
            whole = puzzles if limit is None else first_tasks(data, split, limit)
            voting = {"segments": wanted, "versions": versions, "rule": arc_rule, **common}
            vote(model, networks[0], whole, data, voting, (out, answers, submission))
        elif sweep is not None:
            show_sweep(names, networks, puzzles, (sweep, levers, wanted), common, out, figure)
        else:
            spending |= {key: levers[key] for key in ("noise", "start", "segment_noise", "seed")}
            asked = {"segments": wanted, **levers} if budget is None else spending
            score(names, networks, puzzles, asked | common, out, answers)


def score(
    names: list[str],
    networks: list[Any],
    puzzles: Any,
    asked: dict[str, Any],
    out: Path | None,
    answers: Path | None,
) -> None:
    """Score one setting or budget, in chunks that outlive a kill where answers are asked for."""
    from loopscope.evaluation.budget import evaluate_budget
    from loopscope.evaluation.evaluate import evaluate as score_segments
    from loopscope.evaluation.stream import parts_of
    from loopscope.training.distributed import is_main

    parts = parts_of(answers) if answers is not None else None
    run = evaluate_budget if "policy" in asked else score_segments
    subject = networks if "segments" in asked else networks[0]
    result = run(subject, puzzles, answers=answers is not None, parts=parts, **asked)
    if not is_main():
        return
    print_scores(" + ".join(names), result)
    write_results(result, puzzles, out, answers)
    if parts is not None:
        parts.remove()


def check_targets(answers: Path | None, figure: Path | None, sweep: str | None) -> None:
    """Refuse what cannot be written before the long work."""
    if answers is not None:
        from loopscope.evaluation.answer_file import check_target

        check_target(answers)
        if sweep is not None:
            raise UserError(f"--out {answers}: a sweep keeps no answers. Leave it out, or --sweep.")
    if figure is not None and sweep is None:
        raise UserError(f"--figure {figure}: only a sweep is drawn. Give --sweep, too.")
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise UserError(f"--figure {figure}: expected a name that ends in .svg or .png. Choose another.")


def check_options(
    task: str,
    is_arc: bool,
    submission: Path | None,
    versions: int | None,
    levers: dict[str, Any],
    ensemble: list[str] | None,
    sweep: str | None,
) -> None:
    """Refuse options of ARC for other tasks, and those that an ARC vote has no use for."""
    from loopscope.evaluation.levers import Levers

    for option, value in (("--submission", submission), ("--versions", versions)):
        if value is not None and not is_arc:
            raise UserError(f"{option}: {task} is no ARC set. Leave it out.")
    if not is_arc:
        return
    turned = [key for key, value in levers.items() if value != getattr(Levers(), key)]
    turned = (
        [key for key in turned if key != "seed"] + ["ensemble"] * bool(ensemble) + ["sweep"] * bool(sweep)
    )
    if turned:
        option = "--" + turned[0].replace("_", "-")
        value = levers.get(turned[0])
        given = f" {value:g}" if isinstance(value, float) else f" {value}" if value is not None else ""
        raise UserError(f"{option}{given}: ARC answers are chosen by vote over versions. Leave it out.")


def vote(
    model: str,
    network: Any,
    puzzles: Any,
    data: str,
    voting: dict[str, Any],
    files: tuple[Path | None, Path | None, Path | None],
) -> None:
    """Score an ARC set by vote over versions, and write scores, answers and submission, where asked for.

    Finished chunks outlive a kill beside the answers, or beside the submission.
    """
    from loopscope.evaluation.arc import evaluate_arc
    from loopscope.evaluation.stream import parts_of
    from loopscope.files import write_text
    from loopscope.tasks.storage.layout import names
    from loopscope.training.distributed import is_main

    out, answers, submission = files
    kept = answers or submission
    parts = parts_of(kept) if kept is not None else None
    result, votes = evaluate_arc(network, puzzles, names(data), parts=parts, **voting)
    if not is_main():
        return
    print_votes(model, result)
    if submission is not None:
        most = max(votes)
        write_text(submission, json.dumps(votes[most].submission()))
        options.say(f"\nsubmission, {most} segments, written to {submission}")
    write_results(result, puzzles, out, answers)
    if parts is not None:
        parts.remove()


def write_results(result: Evaluation, puzzles: Any, out: Path | None, answers: Path | None) -> None:
    """Scores as json and answers as a table, where asked for."""
    from loopscope.evaluation.answer_file import answer_table, write_answers
    from loopscope.files import write_json

    if out is not None:
        write_json(out, result.to_dict())
        options.say(f"\nwritten to {out}")
    if answers is not None:
        write_answers(answers, answer_table(result, puzzles))
        options.say(f"\nanswers, {max(result.outcomes)} segments, written to {answers}")


def show_sweep(
    names: list[str],
    networks: list[Any],
    puzzles: Any,
    asked: tuple[str, dict[str, Any], list[int]],
    common: dict[str, Any],
    out: Path | None,
    figure: Path | None,
) -> None:
    """Score a grid of settings, print them by cost, draw them."""
    from loopscope.evaluation.sweep import parse_grid, run_sweep
    from loopscope.files import write_json
    from loopscope.training.distributed import is_main

    grid, levers, wanted = asked
    points, facts = run_sweep(networks, puzzles, parse_grid(grid, levers, wanted), **common)
    if not is_main():
        return
    name = " + ".join(names)
    options.say(f"{name} on {facts['data']}, n = {facts['n']}, {facts['dtype']}; 95 % intervals", "bold")
    rows = [
        [p.label, "*" if p.on_front else "", options.percent(p.exact), *costs_in_words(p.cost)]
        for p in points
    ]
    options.table("", ["setting", "", "exact", *COSTS], rows)
    options.say(
        "* on the front: nothing else is at least as accurate for at most as many applications", "dim"
    )
    if out is not None:
        write_json(out, {**facts, "points": [p.to_dict() for p in points]})
        options.say(f"\nwritten to {out}")
    if figure is not None:
        from loopscope.reports.sweep_figure import draw_sweep, save

        table = save(draw_sweep(points, name, facts), figure)
        options.say(f"\nfigure in {figure}, its numbers in {table}")


def first_tasks(data: str, split: str, limit: int) -> Any:
    """The first tasks of an ARC folder with all their rows; elsewhere a limit counts rows."""
    import numpy as np

    puzzles = options.read_data(data, None, split=split)
    tasks = len(puzzles if puzzles.groups is None else puzzles.groups)
    return puzzles.only_groups(np.arange(min(limit, tasks)))


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
