"""Votes on ARC answers against the recorded official evaluator and against cases with known answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.evaluation.arc_votes import KS, ArcVotes
from loopscope.tasks.arc import Arc
from loopscope.tasks.arc.files import Pair
from loopscope.tasks.arc.versions import Versions, drawn_from, parse_names
from shared import shared_path

FIXTURE = "fixtures/official_arc_eval"
RUNS = {
    "A": ["A"],
    "A_then_B_aggregated": ["A", "B"],
    "A_then_B_not_aggregated": ["B"],
    "edge": ["edge"],
}


def recorded_tests() -> dict[str, list[Pair]]:
    tasks = json.loads(shared_path(f"{FIXTURE}/dataset/test_puzzles.json").read_text())
    return {
        task_id: [Pair(np.array(p["input"], np.uint8), np.array(p["output"], np.uint8)) for p in task["test"]]
        for task_id, task in tasks.items()
    }


def recorded_votes(files: list[str], rule: str, size: int = 8, locate: ArcVotes | None = None) -> ArcVotes:
    """The recorded predictions, batch by batch; where each belongs is read off its input."""
    names = json.loads(shared_path(f"{FIXTURE}/dataset/identifiers.json").read_text())
    votes = ArcVotes(recorded_tests(), names, rule)
    for file in files:
        rows = np.load(shared_path(f"{FIXTURE}/predictions_{file}.npz"))
        for start in range(0, len(rows["preds"]), size):
            ids, inputs, preds, q = (
                rows[name][start : start + size]
                for name in ("puzzle_identifiers", "inputs", "preds", "q_halt_logits")
            )
            votes.add(ids, (locate or votes).test_index_of(ids, inputs), preds, q)
    return votes


def expected(*keys: str):
    value = json.loads(shared_path(f"{FIXTURE}/expected.json").read_text())
    for key in keys:
        value = value[key]
    return value


# -- recorded cases


@pytest.mark.parametrize("run", RUNS)
def test_official_rule_gives_the_recorded_scores_and_bytes(run):
    votes = recorded_votes(RUNS[run], "official")
    found = {f"ARC/pass@{k}": score.value for k, score in votes.scores().items()}
    assert found == pytest.approx(expected("runs", run, "metrics"), abs=1e-12)
    file = shared_path(f"{FIXTURE}/submission_{run}.json")
    assert json.dumps(votes.submission()) == file.read_text()


@pytest.mark.parametrize("run", ["A", "A_then_B_aggregated", "A_then_B_not_aggregated"])
def test_our_rule_gives_the_same_where_the_official_one_is_sound(run):
    votes = recorded_votes(RUNS[run], "ours")
    found = {f"ARC/pass@{k}": score.value for k, score in votes.scores().items()}
    assert found == pytest.approx(expected("runs", run, "metrics"), abs=1e-12)
    official = json.loads(shared_path(f"{FIXTURE}/submission_{run}.json").read_text())
    for task_id, attempts in votes.submission().items():
        answered = [a for i, a in enumerate(attempts) if votes.candidates(task_id, i)]
        assert answered == official[task_id]
        assert len(attempts) == len(votes.tests[task_id])


@pytest.mark.parametrize(("name", "files"), [("A", ["A"]), ("B", ["B"]), ("AB", ["A", "B"])])
@pytest.mark.parametrize("rule", ["ours", "official"])
def test_all_pairs_convention(name, files, rule):
    votes = recorded_votes(files, rule)
    every = expected("own_all_pairs_over_all_tasks", name)
    found = {f"pass@{k}": score.value for k, score in votes.scores(credit="all").items()}
    assert found == pytest.approx(every)
    if name == "AB":
        return
    answered = votes.scores(credit="all", answered_only=True)
    notebook = expected("hrm_notebook", name, "values")
    assert {f"{k}-shot": answered[k].value for k in (1, 2, 10, 100, 1000)} == pytest.approx(notebook)
    assert answered[1].n == 6


@pytest.mark.parametrize("run", RUNS)
def test_candidates_stand_in_the_recorded_order(run):
    ranking = json.loads(shared_path(f"{FIXTURE}/ranking.json").read_text())
    if run not in ranking:
        pytest.skip(f"no ranking recorded for {run}")
    votes = recorded_votes(RUNS[run], "official")
    for task_id, tests in ranking[run].items():
        for i, rows in enumerate(tests):
            found = votes.candidates(task_id, i)
            label = votes.tests[task_id][i].output
            assert [c.votes for c in found] == [row["votes"] for row in rows]
            assert [c.confidence for c in found] == pytest.approx([row["mean_q"] for row in rows], abs=1e-14)
            assert [list(c.grid.shape) for c in found] == [row["shape"] for row in rows]
            assert [np.array_equal(c.grid, label) for c in found] == [row["is_label"] for row in rows]


def test_edge_cases_by_our_rule():
    votes = recorded_votes(["edge"], "ours")
    ranks = votes.ranks()
    assert ranks["4852f2fa"][0] == 1  # three empty grids lose against one label
    assert ranks["66e6c45b"][0] == 1  # 2 votes each, halt logits 18 and 17
    assert ranks["31d5ba1a"] == [0, 1]
    right = votes.tests["31d5ba1a"][1].output.tolist()
    submission = votes.submission()
    assert submission["31d5ba1a"][0] == {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert submission["31d5ba1a"][1]["attempt_1"] == right  # officially at place 0
    assert all(len(submission[t]) == len(pairs) for t, pairs in votes.tests.items())
    assert all(grid for tests in submission.values() for attempts in tests for grid in attempts.values())
    assert [c.votes for c in votes.candidates("833dafe3", 0)] == [3, 1]  # moved inputs are found
    official = recorded_votes(["edge"], "official")
    assert [c.votes for c in official.candidates("833dafe3", 0)] == [1]
    assert official.lost["unknown input"] == 3
    assert votes.lost["unknown input"] == 0
    assert official.scores([1])[1].value == 0.4375
    assert votes.ranks()["833dafe3"] == [2]  # what the three say is wrong
    anchored = recorded_votes(["edge"], "ours", locate=official)  # without those three votes
    assert anchored.scores([1])[1].value == 0.5  # empty grids dropped, as computed beside the recording


@pytest.mark.parametrize("rule", ["ours", "official"])
def test_order_of_batches_and_processes_changes_nothing(rule):
    files = ["A", "B"] if rule == "official" else ["A", "B", "edge"]
    whole = recorded_votes(files, rule)
    names = json.loads(shared_path(f"{FIXTURE}/dataset/identifiers.json").read_text())
    parts = [ArcVotes(whole.tests, names, rule) for _ in range(2)]
    for file in files:
        rows = np.load(shared_path(f"{FIXTURE}/predictions_{file}.npz"))
        for i in np.random.default_rng(1).permutation(len(rows["preds"])):
            ids, inputs = rows["puzzle_identifiers"][[i]], rows["inputs"][[i]]
            index = whole.test_index_of(ids, inputs)
            parts[i % 2].add(ids, index, rows["preds"][[i]], rows["q_halt_logits"][[i]])
    parts[1].merge(parts[0])
    assert parts[1].lost == whole.lost
    assert parts[1].submission() == whole.submission()
    assert parts[1].columns() == whole.columns()
    assert parts[1].scores() == whole.scores()


# -- known answers


def synthetic(count: int = 6, seed: int = 0) -> tuple[list[str], dict[str, list[Pair]], Arc]:
    """Two tasks under `count` versions each: one test input, and two that are equal."""
    rng = np.random.default_rng(seed)
    grid = lambda *shape: rng.integers(0, 10, shape).astype(np.uint8)  # noqa: E731
    same = grid(4, 7)
    tests = {"one": [Pair(grid(3, 5), grid(5, 2))], "two": [Pair(same, grid(2, 2)), Pair(same, grid(6, 1))]}
    drawn = drawn_from(rng)(2 * count)
    plain = Versions.numbered(np.zeros(1, np.int64)).names
    names = ["<blank>"]
    for task_id, rows in (("one", slice(0, count)), ("two", slice(count, None))):
        names += plain(task_id) + drawn.rows(rows).names(task_id)
    return names, tests, Arc(parse_names(names).versions)


def shown(task: Arc, grids: list[np.ndarray], ids: list[int]) -> np.ndarray:
    """Grids as a model would predict them when it is shown those versions."""
    canvas = task.encode(grids)
    return task.as_named(canvas, canvas, np.array(ids))[0]


def test_votes_of_versions_add_up_and_ties_go_to_confidence():
    names, tests, task = synthetic()
    right, wrong, other = tests["one"][0].output, np.zeros((5, 2), np.uint8), np.ones((9, 9), np.uint8)
    votes = ArcVotes(tests, names)
    grids = [right, right, wrong, wrong, other]
    votes.add(
        np.arange(1, 6), np.zeros(5, int), shown(task, grids, [1, 2, 3, 4, 5]), np.array([2.0, 2, 1, 9, 50])
    )
    found = votes.candidates("one", 0)
    assert [c.votes for c in found] == [2, 2, 1]
    sigmoid = lambda q: 1 / (1 + math.exp(-q))  # noqa: E731
    assert found[0].confidence == pytest.approx(sigmoid(2))  # 0.881 against (0.731 + 0.99988) / 2 = 0.865
    assert found[1].confidence == pytest.approx((sigmoid(1) + sigmoid(9)) / 2)
    assert np.array_equal(found[0].grid, right)
    assert votes.ranks() == {"one": [1], "two": [0, 0]}
    partial, every = votes.scores([1, 2]), votes.scores([1, 2], credit="all")
    assert (partial[1].value, every[1].value, partial[1].n) == (0.5, 0.5, 2)
    assert votes.scores([1], "all", answered_only=True)[1].value == 1.0


def test_equal_test_inputs_are_kept_apart_by_their_place():
    names, tests, task = synthetic()
    votes = ArcVotes(tests, names)
    first = names.index("two")
    outputs = [pair.output for pair in tests["two"]]
    votes.add(np.array([first, first]), np.array([0, 1]), shown(task, outputs, [first, first]), np.zeros(2))
    assert votes.ranks()["two"] == [1, 1]
    assert [a["attempt_1"] for a in votes.submission()["two"]] == [grid.tolist() for grid in outputs]
    by_content = votes.test_index_of(np.array([first]), task.encode([tests["two"][1].input]))
    assert by_content.tolist() == [0]  # content cannot tell them apart


def test_partial_credit_and_unknown_outputs():
    names, tests, task = synthetic()
    first = names.index("two")
    votes = ArcVotes(tests, names)
    votes.add(np.array([first]), np.array([1]), shown(task, [tests["two"][1].output], [first]), np.zeros(1))
    assert votes.scores([1])[1].value == 0.25  # 0 of 1 and 1 of 2
    assert votes.scores([1], credit="all")[1].value == 0.0
    assert votes.scores([1], credit="all", answered_only=True)[1].value == 1.0
    hidden = {task_id: [Pair(p.input, None) for p in pairs] for task_id, pairs in tests.items()}
    blind = ArcVotes(hidden, names)
    assert blind.scores([1])[1].n == 0
    assert len(blind.submission()["two"]) == 2
    assert blind.columns()["rank"] == [None] * 3


def test_what_is_no_vote_is_counted():
    names, tests, task = synthetic()
    for rule, empty in (("ours", 1), ("official", 0)):
        votes = ArcVotes(tests, names, rule)
        predictions = np.concatenate(
            [shown(task, [tests["one"][0].output] * 3, [0, 1, 1]), task.encode([None])]
        )
        votes.add(np.array([0, 1, 1, 1]), np.array([0, -1, 7, 0]), predictions, np.array([9, 0, 0, np.nan]))
        assert votes.lost == {"other task": 1, "unknown input": 2} | ({"empty": 1} if empty else {})
        assert len(votes.candidates("one", 0)) == 1 - empty


def test_ties_do_not_depend_on_who_came_first():
    names, tests, task = synthetic()
    grids = [np.full((2, 3), colour, np.uint8) for colour in range(4)]
    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]
    seen = {"ours": set(), "official": set()}
    for rule, found in seen.items():
        for order in orders:
            votes = ArcVotes(tests, names, rule)
            rows = shown(task, [grids[i] for i in order], [1] * 4)
            votes.add(np.ones(4, int), np.zeros(4, int), rows, np.zeros(4))
            found.add(tuple(int(c.grid[0, 0]) for c in votes.candidates("one", 0)))
    assert len(seen["ours"]) == 1
    assert len(seen["official"]) == 3


def test_memory_grows_with_answers_and_not_with_predictions():
    names, tests, task = synthetic()
    votes = ArcVotes(tests, names)
    rows = shown(task, [tests["one"][0].output] * 6, [1] * 6)
    for _ in range(50):
        votes.add(np.ones(6, int), np.zeros(6, int), rows, np.full(6, 40.0))
    assert sum(map(len, votes._tallies.values())) == 1
    assert votes.candidates("one", 0)[0].votes == 300
    assert votes.candidates("one", 0)[0].confidence == 1.0
    assert tuple(votes.scores()) == KS


def test_unknown_rule():
    with pytest.raises(UserError, match=r"arc rule 'offical': unknown\. Did you mean official"):
        ArcVotes({}, ["<blank>"], "offical")
