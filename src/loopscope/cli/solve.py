"""loopscope solve: one puzzle, and how the model gets there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

if TYPE_CHECKING:
    from loopscope.tasks import PuzzleSet


@app.command()
def solve(
    model: options.Model,
    puzzle: Annotated[
        list[str],
        typer.Argument(
            help="A Sudoku, row by row ('.' or 0 for a blank; spaces do not count), a text file with a "
            "Sudoku or a maze (#, space, S, G), or an ARC task (.json)."
        ),
    ],
    segments: Annotated[
        int | None, typer.Option(help="Segments to run, at most; default the training budget.", min=1)
    ] = None,
    restarts: Annotated[int, typer.Option(help="Orbits, the first from the plain start.", min=1)] = 1,
    noise: options.Noise = 0.3,
    start: Annotated[str, typer.Option(help="Where restarts begin: perturbed or random.")] = "perturbed",
    segment_noise: Annotated[float, typer.Option(help="Noise before every segment.", min=0)] = 0.0,
    views: Annotated[
        int | None,
        typer.Option(help="Symmetric views of the puzzle; default 1, ARC: all versions vote.", min=1),
    ] = None,
    stop: Annotated[
        str, typer.Option(help="When to stop: budget, halt, settled, unchanged or halt+unchanged.")
    ] = "budget",
    select: Annotated[
        str, typer.Option(help="Who answers: halt, residual, logit_change, majority or verified.")
    ] = "halt",
    budget: options.Budget = None,
    policy: options.Policy = "deepen",
    cutoff: options.Cutoff = 16,
    trace: Annotated[bool, typer.Option("--trace", help="Show what every segment changed.")] = False,
    gif: Annotated[
        Path | None,
        typer.Option(help="Write a film of the plain orbit here (.gif).", callback=options.file_to_write),
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth/--no-growth", help="Local growth in the film; large models are slow.")
    ] = True,
    data: Annotated[
        str | None, typer.Option(help="ARC: the folder the model was trained with, if elsewhere.")
    ] = None,
    seed: options.Seed = 0,
    known: options.Known = None,
) -> None:
    """Solve one puzzle and say plainly whether the answer keeps the rules.

    \b
    loopscope solve sudoku9-cpu .89..2... .418..... ....65... ....1.3.6 \\
      ..8..34.. ..6....75 ..24..93. 364.2.... .1573..4.
    loopscope solve sudoku9-cpu PUZZLE --trace --gif film.gif
    loopscope solve sudoku9-cpu PUZZLE --restarts 8 --select verified
    loopscope solve sudoku9-cpu PUZZLE --budget 10s --policy luby
    loopscope solve RUN maze.txt --segments 64 --stop settled --trace
    loopscope solve RUN 007bbfb7.json --views 100
    """
    from loopscope.cli import evaluate_arc, one_puzzle, solve_anytime, solve_arc
    from loopscope.cli.budget import budget_of, refuse_arc
    from loopscope.evaluation.solve import solve as run
    from loopscope.evaluation.subject import segments_wanted

    if gif is not None and gif.suffix != ".gif":
        raise UserError(f"--gif {gif}: expected a name that ends in .gif. Choose one.")
    path = one_puzzle.file_of(puzzle)
    turned: dict[str, Any] = {"restarts": restarts, "start": start, "segment_noise": segment_noise}
    turned |= {"stop": stop, "select": select}
    spending: dict[str, Any] = {"policy": policy, "cutoff": cutoff}
    is_arc = path is not None and path.name.removesuffix(".gz").endswith(".json")
    if is_arc:
        refuse_arc(budget)
    elif data is not None:
        raise UserError(f"--data {data}: only an ARC task (.json) has a use for it. Leave it out.")
    others = {key: turned[key] for key in ("restarts", "stop", "select")}
    others |= {"segments": segments, "views": views, "trace": trace, "gif": gif}
    spending |= budget_of(budget, spending, others)
    if is_arc and path is not None:
        evaluate_arc.refuse(turned)
        network = options.load_model(model, known, "float32" if gif else None)
        [segments] = segments_wanted(network, segments)
        puzzles = solve_arc.answer(network, path, data, segments, views, trace)
    else:
        puzzles = one_puzzle.read_text_puzzle(puzzle, path)
        network = options.load_model(model, known, "float32" if gif else None)
        common: dict[str, Any] = {
            "noise": noise,
            "start": start,
            "segment_noise": segment_noise,
            "seed": seed,
        }
        if budget is not None:
            solve_anytime.answer(network, puzzles, spending | common)
            return
        [segments] = segments_wanted(network, segments)
        more = common | turned | {"segments": segments, "views": views or 1}
        show(puzzles, run(network, puzzles, **more, trace=trace), trace, select)
    if gif is not None:
        write_film(network, puzzles, segments, growth, gif)


def show(puzzles: PuzzleSet, answers: Any, traced: bool, select: str) -> None:
    """Trace, board, verdict and cost."""
    from loopscope.cli import boards, verdict

    rollouts = answers.rollouts.shape[1]
    if traced:
        options.console.print(boards.trace(puzzles, answers, 0, options.console.width))
        plain = " of the plain start" if rollouts > 1 else ""
        options.say(f"trace{plain}: {boards.trace_summary(puzzles, answers, 0)}\n")
    verdict.print_board(puzzles, answers.tokens[0], traced)
    late = f", late residual {answers.residual[0]:.1g}"
    verdict.print_verdict(puzzles, answers.tokens[0], float(answers.halt_logit[0]), late)
    if rollouts > 1:
        options.say(f"rollout {answers.rollout[0] + 1} of {rollouts} chosen by {select}")
    ran, calls = int(answers.segments[0].sum()), int(answers.applications[0])
    run = f"{ran} segment" if ran == 1 else f"{ran} segments"
    options.say(f"{run}, {calls:,} block applications, {answers.seconds:.2g} s", "dim")


def write_film(network: Any, puzzles: PuzzleSet, segments: int, growth: bool, gif: Path) -> None:
    """The plain orbit of the first row as an animation."""
    from loopscope.reports.animation import animate, record

    animate(record(network, puzzles, 0, segments, growth=growth), gif)
    which = ", test input 1" if len(puzzles) > 1 else ""
    options.say(f"film of the plain orbit{which} written to {gif}")
