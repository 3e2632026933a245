"""loopscope eval: score a model on puzzles with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options, scores
from loopscope.errors import UserError


@app.command("eval")
def evaluate(
    model: options.Model,
    data: options.Data,
    segments: Annotated[
        str | None,
        typer.Option(help="Numbers of segments to score at, with commas; default the training budget."),
    ] = None,
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
        Path | None,
        typer.Option(
            help="With --sweep: draw accuracy against cost, .svg or .png.", callback=options.file_to_write
        ),
    ] = None,
    versions: Annotated[
        int | None, typer.Option(help="ARC: versions of each task that vote; default all.", min=1)
    ] = None,
    arc_rule: Annotated[
        str, typer.Option(help="ARC: how votes are counted where conventions differ: ours or official.")
    ] = "ours",
    submission: Annotated[
        Path | None,
        typer.Option(help="ARC: write the answers as Kaggle asks for them.", callback=options.file_to_write),
    ] = None,
    json: options.Json = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write each answer here: .csv, .csv.gz or .parquet.", callback=options.file_to_write
        ),
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
    from loopscope.cli import evaluate_arc
    from loopscope.cli.budget import budget_of, refuse_arc
    from loopscope.evaluation.bench import compile_model
    from loopscope.evaluation.levers import Levers
    from loopscope.training.distributed import processes

    wanted = None if segments is None else options.parse_numbers(segments, int, "--segments")
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
    Levers(**levers)  # for its complaints, before the long work
    check_targets(out, figure, sweep)
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
            evaluate_arc.refuse(levers | {"seed": 0}, {"ensemble": ensemble, "sweep": sweep})
        else:
            rule = None if arc_rule == "ours" else arc_rule
            only_arc = {"--submission": submission, "--versions": versions, "--arc-rule": rule}
            evaluate_arc.refuse_elsewhere(puzzles.task.name, only_arc)
        networks = [options.load_model(name, known, dtype) for name in names]
        for network in networks if compiled else ():
            compile_model(network)
        if is_arc:
            whole = puzzles if limit is None else evaluate_arc.first_tasks(data, split, limit)
            voting = {"segments": wanted, "versions": versions, "rule": arc_rule, **common}
            evaluate_arc.vote(model, networks[0], whole, data, voting, (json, out, submission))
        elif sweep is not None:
            show_sweep(names, networks, puzzles, (sweep, levers, wanted), common, json, figure)
        else:
            spending |= {key: levers[key] for key in ("noise", "start", "segment_noise", "seed")}
            asked = {"segments": wanted, **levers} if budget is None else spending
            score(names, networks, puzzles, asked | common, json, out)


def score(
    names: list[str],
    networks: list[Any],
    puzzles: Any,
    asked: dict[str, Any],
    json: Path | None,
    out: Path | None,
) -> None:
    """Score one setting or budget, in chunks that outlive a kill where answers are asked for."""
    from loopscope.evaluation.budget import evaluate_budget
    from loopscope.evaluation.evaluate import evaluate as score_segments
    from loopscope.evaluation.stream import parts_of
    from loopscope.training.distributed import is_main

    parts = parts_of(out) if out is not None else None
    run = evaluate_budget if "policy" in asked else score_segments
    subject = networks if "segments" in asked else networks[0]
    result = run(subject, puzzles, answers=out is not None, parts=parts, **asked)
    if not is_main():
        return
    scores.print_scores(" + ".join(names), result)
    scores.write_results(result, puzzles, json, out)
    if parts is not None:
        parts.remove()


def check_targets(out: Path | None, figure: Path | None, sweep: str | None) -> None:
    """Refuse what cannot be written before the long work."""
    if out is not None:
        from loopscope.evaluation.answer_file import check_target

        check_target(out)
        if sweep is not None:
            raise UserError(f"--out {out}: a sweep keeps no answers. Leave it out, or --sweep.")
    if figure is not None and sweep is None:
        raise UserError(f"--figure {figure}: only a sweep is drawn. Give --sweep, too.")
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise UserError(f"--figure {figure}: expected a name that ends in .svg or .png. Choose another.")


def show_sweep(
    names: list[str],
    networks: list[Any],
    puzzles: Any,
    asked: tuple[str, dict[str, Any], list[int] | None],
    common: dict[str, Any],
    json: Path | None,
    figure: Path | None,
) -> None:
    """Score a grid of settings, print them by cost, draw them."""
    from loopscope.evaluation.subject import segments_wanted
    from loopscope.evaluation.sweep import parse_grid, run_sweep
    from loopscope.files import write_json
    from loopscope.training.distributed import is_main

    grid, levers, wanted = asked
    wanted = segments_wanted(networks[0], wanted)
    points, facts = run_sweep(networks, puzzles, parse_grid(grid, levers, wanted), **common)
    if not is_main():
        return
    name = " + ".join(names)
    options.say(f"{name} on {facts['data']}, n = {facts['n']}, {facts['dtype']}; 95 % intervals", "bold")
    rows = [
        [p.label, "*" if p.on_front else "", options.percent(p.exact), *scores.costs_in_words(p.cost)]
        for p in points
    ]
    options.table("", ["setting", "", "exact", *scores.COSTS], rows)
    options.say(
        "* on the front: nothing else is at least as accurate for at most as many applications", "dim"
    )
    if json is not None:
        write_json(json, {**facts, "points": [p.to_dict() for p in points]})
        options.say(f"\nwritten to {json}")
    if figure is not None:
        from loopscope.reports.sweep_figure import draw_sweep, save

        table = save(draw_sweep(points, name, facts), figure)
        options.say(f"\nfigure in {figure}, its numbers in {table}")
