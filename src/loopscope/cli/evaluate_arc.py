"""`loopscope eval` for an ARC set: the versions of every task vote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopscope.cli import options, scores
from loopscope.errors import UserError

if TYPE_CHECKING:
    from loopscope.evaluation.evaluate import Evaluation


def refuse(levers: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> None:
    """Options that a vote has no use for; `solve` asks here, too.

    Args:
        levers: those of `Levers` that a person can turn.
        others: further options, by name.
    Raises:
        UserError: a lever is not at its default, or another option is given.
    """
    from loopscope.evaluation.levers import Levers

    default = Levers()
    turned = [
        f"{key.replace('_', '-')} {value}" for key, value in levers.items() if value != getattr(default, key)
    ]
    turned += [key for key, value in (others or {}).items() if value]
    if turned:
        raise UserError(f"--{turned[0]}: ARC answers are chosen by vote over versions. Leave it out.")


def refuse_elsewhere(task: str, given: Mapping[str, Any]) -> None:
    """Options that only a vote has.

    Args:
        task: a name.
        given: value by option, None where it is not turned.
    Raises:
        UserError: one is given.
    """
    for option, value in given.items():
        if value is not None:
            raise UserError(f"{option} {value}: {task} is not an ARC set. Leave it out.")


def vote(
    model: str,
    network: Any,
    puzzles: Any,
    data: str,
    voting: dict[str, Any],
    files: tuple[Path | None, Path | None, Path | None],
) -> None:
    """Score an ARC set by vote over versions, and write the files asked for: scores, answers, submission.

    Finished chunks outlive a kill beside the answers, or beside the submission.
    """
    from loopscope.evaluation.arc import evaluate_arc
    from loopscope.evaluation.stream import parts_of
    from loopscope.files import write_text
    from loopscope.tasks.storage.layout import read_identifiers
    from loopscope.training.distributed import is_main

    scores_file, answers, submission = files
    kept = answers or submission
    parts = parts_of(kept) if kept is not None else None
    result, votes = evaluate_arc(network, puzzles, read_identifiers(data), parts=parts, **voting)
    if not is_main():
        return
    print_votes(model, result)
    if submission is not None:
        most = max(votes)
        write_text(submission, json.dumps(votes[most].submission()))
        options.say(f"\nsubmission, {most} segments, written to {submission}")
    scores.write_results(result, puzzles, scores_file, answers)
    if parts is not None:
        parts.remove()


def first_tasks(data: str, split: str, limit: int) -> Any:
    """The first tasks of an ARC folder with all their rows; elsewhere a limit counts rows."""
    import numpy as np

    puzzles = options.read_data(data, None, split=split)
    tasks = len(puzzles if puzzles.groups is None else puzzles.groups)
    return puzzles.only_groups(np.arange(min(limit, tasks)))


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
    scores.print_columns(result, list(scores.HEADLINE))
