"""Score a model on ARC: every test input under every version of its task, answers chosen by vote.

The versions are rows of the set or, as our folders have it, are made batch by batch from the plain rows.
Which test input a row is, is its place in its puzzle. The unit of every interval is the task.

Answers come chunk by chunk, each process having a stretch of them. Parts on disk keep the answers of a chunk
as tokens, 0.9 kB for a row and number of segments; in memory only their votes stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from loopscope.errors import UserError
from loopscope.evaluation.arc_votes import KS, ArcVotes
from loopscope.evaluation.evaluate import Evaluation, joined, record
from loopscope.evaluation.intervals import Estimate
from loopscope.evaluation.metrics import Columns, clustered_scores, grade
from loopscope.evaluation.stream import CHUNK, Chunk, Parts, casts_kept, finished, gathered
from loopscope.evaluation.subject import (
    blocks,
    check_fits,
    check_numbers,
    device_of,
    dtype_name,
    identity,
    segments_wanted,
)
from loopscope.files import sha256
from loopscope.tasks.arc.board import Arc
from loopscope.tasks.arc.files import Pair
from loopscope.tasks.arc.versions import parse_names
from loopscope.tasks.base import Groups, PuzzleSet, make_batch
from loopscope.training.distributed import agreeing, num_processes, on_main, rank


class Shown(NamedTuple):
    """What a model is asked: (N,) each, task by task, version by version.

    Attributes:
        row: of the set.
        puzzle_id: names the version in which the row is shown.
        test: which test input of its task it is.
        group: number of its task.
    """

    row: np.ndarray
    puzzle_id: np.ndarray
    test: np.ndarray
    group: np.ndarray


def evaluate_arc(
    model: Any,
    puzzles: PuzzleSet,
    names: Sequence[str],
    *,
    segments: int | Sequence[int] | None = None,
    versions: int | None = None,
    rule: str = "ours",
    batch_size: int = 64,
    progress: bool = False,
    parts: Parts | None = None,
) -> tuple[Evaluation, dict[int, ArcVotes]]:
    """Vote on the test inputs of every task, for each number of segments.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol, trained with these identifiers.
        puzzles: the test split of an ARC folder.
        names: the name of every puzzle identifier (`tasks.storage.layout.read_identifiers` of the folder).
        segments: one or several numbers of segments at which to vote; None takes the training budget.
        versions: show each task in its first versions only, the plain one being the first; None: all.
        rule: "ours" or "official" (`arc_votes`).
        batch_size: rows per batch.
        progress: show a progress bar.
        parts: keeps finished answers on disk, so that an interrupted evaluation can be resumed.
    Returns:
        Scores: `pass_at_k` with partial credit, `all_pairs_pass_at_k` (a task counts when all its test
        inputs are right), and the headline scores of the single rows. Its outcomes are rows of
        `ArcVotes.columns`. And the votes themselves, for a submission or an ensemble.
    Raises:
        UserError: no ARC set, unknown identifiers, a number or rule that cannot be.
    """
    wanted = segments_wanted(model, segments)
    _check(model, puzzles, names, versions, batch_size)
    asked = shown(puzzles, versions)
    tests = pairs_asked(puzzles, names)
    votes = {t: ArcVotes(tests, names, rule) for t in wanted}
    graded: dict[int, list[Columns]] = {t: [] for t in wanted}
    dtype = ""
    if parts is not None:
        manifest = _manifest(model, puzzles, names, wanted, versions, batch_size)
        on_main(lambda: parts.begin(manifest))
    work = partial(_chunk, model, puzzles, asked, wanted=wanted, batch_size=batch_size)
    with agreeing(), casts_kept([model]):
        for chunk, columns in finished(_my_chunks(len(asked.row), batch_size), work, parts, progress):
            rows, inputs, labels = _rows(puzzles, asked, chunk)
            dtype = str(columns["dtype"][0])
            for t in wanted:
                tokens, halt = columns[f"{t}/tokens"], columns[f"{t}/halt_logit"]
                votes[t].add(rows.puzzle_id, rows.test, tokens, halt)
                graded[t].append(grade(puzzles.task, inputs, tokens, labels, halt))
    whole = gathered({rank(): (votes, graded, dtype)})
    for other in (whole[number] for number in range(1, len(whole))):  # in the order of the rows
        for t in wanted:
            whole[0][0][t].merge(other[0][t])
            whole[0][1][t].extend(other[1][t])
    votes, graded, _ = whole[0]
    dtype = next(name for *_, name in whole.values() if name)  # a process may have had no chunk
    return _evaluation(model, puzzles, asked, votes, graded, dtype), votes


def shown(puzzles: PuzzleSet, versions: int | None = None) -> Shown:
    """All rows to show, in the order of tasks, versions and test inputs."""
    g = puzzles.groups or _rows_alone(puzzles)
    counts = np.diff(g.starts) if versions is None else np.minimum(np.diff(g.starts), versions)
    puzzle = _ranges(g.starts[:-1], counts)
    tests = (g.stop - g.first)[puzzle]
    return Shown(
        _ranges(g.first[puzzle], tests),
        np.repeat(g.ids[puzzle], tests),
        _ranges(np.zeros(len(tests), int), tests),
        np.repeat(np.repeat(np.arange(len(g)), counts), tests),
    )


def pairs_asked(puzzles: PuzzleSet, names: Sequence[str]) -> dict[str, list[Pair]]:
    """The test pairs of every task, turned back from the first version of each; unknown outputs are None.

    Raises:
        UserError: two tasks have the same id.
    """
    assert puzzles.labels is not None
    parsed = parse_names(names)
    first = shown(puzzles, versions=1)
    inputs, labels = puzzles.inputs[first.row], puzzles.labels[first.row]
    if not _drawn(puzzles):
        back = Arc(parsed.versions)
        grids = [back.decode(tokens, first.puzzle_id) for tokens in (inputs, labels)]
    else:
        grids = [Arc().decode(tokens) for tokens in (inputs, labels)]
    tests: dict[str, list[Pair]] = {}
    for puzzle_id, place, asked, answer in zip(first.puzzle_id, first.test, *grids, strict=True):
        task_id = parsed.bases[parsed.base[puzzle_id]]
        if len(tests.setdefault(task_id, [])) != place:
            raise UserError(
                f"{puzzles.name}: two tasks are named {task_id}. Build a set for each of the two."
            )
        tests[task_id].append(Pair(asked, answer if answer.size else None))
    return tests


def _check(
    model: Any, puzzles: PuzzleSet, names: Sequence[str], versions: int | None, batch_size: int
) -> None:
    check_numbers(batch_size)
    if not isinstance(puzzles.task, Arc):
        raise UserError(f"{puzzles.name}: {puzzles.task.name}, expected an ARC set. Use evaluate.")
    if versions is not None and versions < 1:
        raise UserError(f"versions={versions}: expected at least 1, the plain one.")
    settings = getattr(model, "settings", None)
    rows = getattr(settings, "num_puzzle_identifiers", None)
    if getattr(settings, "puzzle_emb_ndim", 0) and rows is not None and rows < len(names):
        raise UserError(
            f"{puzzles.name}: {len(names)} identifiers, but the model knows {rows}. Use the folder that the "
            "model was trained with."
        )
    check_fits(model, puzzles, labels=True)


def _drawn(puzzles: PuzzleSet) -> bool:
    """Whether the versions are no rows of the set but made when shown."""
    return isinstance(puzzles.task, Arc) and puzzles.task.versions is not None


def _rows_alone(puzzles: PuzzleSet) -> Groups:
    row = np.arange(len(puzzles), dtype=np.int32)
    return Groups(row, row + 1, puzzles.puzzle_ids, np.append(row, np.int32(len(row))))


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... (counts[0] numbers), then those from first[1], and so on."""
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return np.repeat(first, counts) + within


def _manifest(
    model: Any,
    puzzles: PuzzleSet,
    names: Sequence[str],
    wanted: Sequence[int],
    versions: int | None,
    batch_size: int,
) -> dict[str, Any]:
    """What the answers depend on; not the rule, as votes are counted anew."""
    return {
        "models": [identity(model)],
        "dtypes": [str(getattr(model, "dtype", ""))],
        "data": puzzles.content_hash,
        "names": sha256("\n".join(names).encode()),
        "segments": list(wanted),
        "versions": versions,
        "batch_size": batch_size,
    }


def _my_chunks(n: int, batch_size: int) -> list[slice]:
    """A stretch for each process, so that candidates are seen in the order of the rows."""
    chunks, processes = blocks(n, batch_size * CHUNK), num_processes()
    return chunks[len(chunks) * rank() // processes : len(chunks) * (rank() + 1) // processes]


def _rows(puzzles: PuzzleSet, asked: Shown, block: slice) -> tuple[Shown, np.ndarray, np.ndarray]:
    """Some of the rows to show, as they are shown."""
    assert isinstance(puzzles.task, Arc)
    assert puzzles.labels is not None
    rows = Shown(*(column[block] for column in asked))
    inputs, labels = puzzles.inputs[rows.row], puzzles.labels[rows.row]
    if _drawn(puzzles):
        inputs, labels = puzzles.task.as_named(inputs, labels, rows.puzzle_id)
    return rows, inputs, labels


def _chunk(
    model: Any, puzzles: PuzzleSet, asked: Shown, chunk: slice, *, wanted: Sequence[int], batch_size: int
) -> Chunk:
    """The columns `segments/tokens` and `segments/halt_logit` of some rows; `dtype` for all of them."""
    rows, inputs, _ = _rows(puzzles, asked, chunk)
    batches = [
        _answers(model, inputs[block], rows.puzzle_id[block], wanted)
        for block in blocks(len(inputs), batch_size)
    ]
    columns = {
        f"{t}/{name}": np.concatenate([found[t][i] for _, found in batches])
        for t in wanted
        for i, name in enumerate(("tokens", "halt_logit"))
    }
    return columns | {"dtype": np.array([batches[0][0]])}


@torch.no_grad()
def _answers(
    model: Any, inputs: np.ndarray, puzzle_ids: np.ndarray, wanted: Sequence[int]
) -> tuple[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Dtype of the latent; tokens (B, L) and halt logits (B,) after each number of segments."""
    ctx = model.encode(make_batch(inputs, None, puzzle_ids, device_of(model)))
    z, found = model.initial_state(ctx), {}
    for t in range(1, wanted[-1] + 1):
        z = model.segment(z, ctx)
        if t in wanted:
            out = model.readout(z, ctx)
            tokens = out.logits.argmax(-1).to(torch.uint8).cpu().numpy()
            found[t] = tokens, out.halt_logit.double().cpu().numpy()
    return dtype_name(z), found


def _evaluation(
    model: Any,
    puzzles: PuzzleSet,
    asked: Shown,
    votes: dict[int, ArcVotes],
    graded: dict[int, list[Columns]],
    dtype: str,
) -> Evaluation:
    first = next(iter(votes.values()))
    inputs = sum(map(len, first.tests.values()))
    per_task = np.bincount(asked.group[asked.test == 0])
    facts = {
        "tasks": len(first.tests),
        "test_inputs": inputs,
        "shown": len(asked.row),
        "versions": {"fewest": int(per_task.min()), "most": int(per_task.max())},
        "arc_rule": first.rule,
        "checkpoints": 1,
        "no_vote": {str(t): dict(v.lost) for t, v in votes.items()},
    }
    return Evaluation(
        {t: vote_scores(v) | clustered_scores(joined(graded[t]), asked.group) for t, v in votes.items()},
        {},
        {t: round(t * model.applications_per_segment * len(asked.row) / inputs) for t in votes},
        record(model, puzzles, dtype) | facts,
        {t: {name: np.array(column) for name, column in v.columns().items()} for t, v in votes.items()},
    )


def vote_scores(votes: ArcVotes) -> dict[str, Estimate]:
    """pass@k in both conventions, over all tasks whose answers are known."""
    partial, every = votes.scores(KS), votes.scores(KS, credit="all")
    return {f"pass_at_{k}": partial[k] for k in KS} | {f"all_pairs_pass_at_{k}": every[k] for k in KS}
