"""Scoring on ARC folders: which rows are shown as what, with models whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loopscope.cli import main
from loopscope.errors import UserError
from loopscope.evaluation.answer_file import answer_table, read_solved
from loopscope.evaluation.arc import evaluate_arc, pairs_asked, shown
from loopscope.evaluation.intervals import wilson
from loopscope.models.folder import save_model
from loopscope.tasks import Arc, PuzzleSet, read_puzzles
from loopscope.tasks.arc.files import ArcTask, Pair
from loopscope.tasks.arc.versions import parse_names
from loopscope.tasks.build.arc import build_arc
from loopscope.tasks.storage.layout import read_identifiers
from shared import shared_path
from tiny import Readout, tiny_model

VERSIONS = 6


def random_task(rng: np.random.Generator, task_id: str, tests: int) -> ArcTask:
    grid = lambda: rng.integers(0, 10, rng.integers(2, 8, 2)).astype(np.uint8)  # noqa: E731
    pairs = [Pair(grid(), grid()) for _ in range(tests + 2)]
    return ArcTask(task_id, {"train": tuple(pairs[:2]), "test": tuple(pairs[2:])})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Five tasks with 1, 2, 3, 1, 2 test inputs: versions made when shown, and the same as rows."""
    root, rng = tmp_path_factory.mktemp("arc"), np.random.default_rng(0)
    (root / "source" / "evaluation").mkdir(parents=True)
    for i, tests in enumerate((1, 2, 3, 1, 2)):
        task = random_task(rng, f"task{i}", tests)
        (root / "source" / "evaluation" / f"task{i}.json").write_text(json.dumps(task.as_json()))
    made = {"drawn": {}, "baked": {"bake": True}, "official": {"compat": "trm"}}
    for name, options in made.items():
        build_arc(root / "source", root / name, subsets=["evaluation"], augmentations=VERSIONS - 1, **options)
    return {name: root / name for name in made}


class Knowing:
    """Knows the answers of some versions of a folder, by what is shown and as what; else a fixed grid.

    `right(task number, test, version number)` says which. `segments` that were run are the halt logit.
    """

    applications_per_segment = 2

    def __init__(self, folder: Path, right) -> None:
        puzzles, known = read_puzzles(folder), parse_names(read_identifiers(folder))
        rows = shown(puzzles)
        arc = Arc(known.versions)
        tests = pairs_asked(puzzles, read_identifiers(folder))
        number = np.concatenate([np.arange(n) for n in np.bincount(rows.group[rows.test == 0])])
        of_id = dict(zip(rows.puzzle_id[rows.test == 0].tolist(), number.tolist(), strict=True))
        self.table = {}
        for puzzle_id, test, group in zip(rows.puzzle_id, rows.test, rows.group, strict=True):
            task_id = known.bases[known.base[puzzle_id]]
            pair = tests[task_id][test]
            answer = pair.output if right(group, test, of_id[puzzle_id]) else np.ones((1, 1), np.uint8)
            ids = np.array([puzzle_id])
            both = arc.as_named(arc.encode([pair.input]), arc.encode([answer]), ids)
            self.table[int(puzzle_id), both[0].tobytes()] = both[1][0]

    def encode(self, batch):
        assert batch.labels is None  # nothing to peep at
        rows = zip(batch.puzzle_ids.tolist(), batch.inputs.to(torch.uint8).numpy(), strict=True)
        return torch.from_numpy(np.stack([self.table[i, tokens.tobytes()] for i, tokens in rows]))

    def initial_state(self, ctx):
        return torch.zeros(len(ctx), 1)

    def segment(self, z, ctx):
        return z + 1

    def readout(self, z, ctx):
        return Readout(torch.nn.functional.one_hot(ctx.long(), 12).float(), z[:, 0])


def run(folder: Path, right, **options):
    model = Knowing(folder, right)
    return evaluate_arc(model, read_puzzles(folder), read_identifiers(folder), batch_size=7, **options)


# -- what is shown


@pytest.mark.parametrize("kind", ["drawn", "baked", "official"])
def test_every_test_input_is_shown_in_every_version(folders, kind):
    puzzles, known = read_puzzles(folders[kind]), parse_names(read_identifiers(folders[kind]))
    rows = shown(puzzles)
    assert len(rows.row) == 9 * VERSIONS
    assert len(set(zip(rows.puzzle_id.tolist(), rows.test.tolist(), strict=True))) == len(rows.row)
    task = np.array([known.bases[known.base[i]] for i in rows.puzzle_id])
    assert sorted(np.unique(task, return_counts=True)[1].tolist()) == [6, 6, 12, 12, 18]
    few = shown(puzzles, versions=2)
    assert len(few.row) == 9 * 2
    plain = [read_identifiers(folders[kind])[i] for i in shown(puzzles, versions=1).puzzle_id]
    assert not any("|||" in name for name in plain)


def test_the_tests_are_those_of_the_source(folders):
    for kind, folder in folders.items():
        found = pairs_asked(read_puzzles(folder), read_identifiers(folder))
        asked = json.loads((folder / "test_puzzles.json").read_text())
        assert set(found) == set(asked), kind
        for task_id, pairs in found.items():
            assert [p.input.tolist() for p in pairs] == [p["input"] for p in asked[task_id]["test"]]
            assert [p.output.tolist() for p in pairs] == [p["output"] for p in asked[task_id]["test"]]


def test_a_recorded_official_folder():
    folder = shared_path("fixtures/official_arc_eval/dataset")
    puzzles = read_puzzles(folder)
    found = pairs_asked(puzzles, read_identifiers(folder))
    asked = json.loads((folder / "test_puzzles.json").read_text())
    assert {t: [(p.input.tolist(), p.output.tolist()) for p in pairs] for t, pairs in found.items()} == {
        t: [(p["input"], p["output"]) for p in task["test"]] for t, task in asked.items()
    }
    rows = shown(puzzles)
    assert np.array_equal(rows.row, np.arange(48))
    assert np.array_equal(rows.puzzle_id, puzzles.puzzle_ids)


# -- known answers


@pytest.mark.parametrize("kind", ["drawn", "baked", "official"])
def test_right_everywhere(folders, kind):
    result, votes = run(folders[kind], lambda *_: True, segments=[1, 2])
    for t in (1, 2):
        row = result.scores[t]
        assert row["pass_at_1"].value == row["all_pairs_pass_at_1"].value == 1.0
        assert row["all_pairs_pass_at_1"] == wilson(5, 5)
        assert row["exact_accuracy"].value == row["cell_accuracy"].value == row["halt_accuracy"].value == 1
        assert row["exact_accuracy"].n == 5
    assert result.applications == {1: 2 * VERSIONS, 2: 4 * VERSIONS}
    assert result.facts["versions"] == {"fewest": VERSIONS, "most": VERSIONS}
    assert {c.votes for t in votes[1].tests for c in votes[1].candidates(t, 0)} == {VERSIONS}
    solutions = json.loads((folders[kind] / "test_puzzles.json").read_text())
    for task_id, attempts in votes[2].submission().items():
        assert [a["attempt_1"] for a in attempts] == [p["output"] for p in solutions[task_id]["test"]]


@pytest.mark.parametrize("kind", ["drawn", "baked"])
def test_a_majority_of_versions_decides(folders, kind):
    """Task 0 right in 4 of 6 versions, task 1 in 2, its second test never, task 2 in the plain one only."""
    first = {0: 4, 1: 2, 2: 1, 3: 0, 4: 6}
    right = lambda group, test, version: version < first[group] and (group, test) != (1, 1)  # noqa: E731
    result, votes = run(folders[kind], right, segments=3)
    row, ranks = result.scores[3], votes[3].ranks()
    assert list(ranks.values()) == [[1], [2, 0], [2, 2, 2], [0], [1, 1]]
    assert row["pass_at_1"].value == pytest.approx(2 / 5)
    assert row["pass_at_2"].value == pytest.approx((1 + 0.5 + 1 + 0 + 1) / 5)
    assert row["all_pairs_pass_at_2"].value == pytest.approx(3 / 5)
    shown_right = 4 + 2 + 3 * 1 + 0 + 2 * 6
    assert row["exact_accuracy"].value == pytest.approx(shown_right / 54)
    alone = run(folders[kind], right, segments=3, versions=1)[0]
    assert alone.scores[3]["pass_at_1"].value == pytest.approx((1 + 0.5 + 1 + 0 + 1) / 5)
    assert alone.applications == {3: 6}


def test_answer_table_has_a_row_for_each_test_input(folders, tmp_path):
    result, _ = run(folders["drawn"], lambda group, test, version: test == 0, segments=1)
    table = answer_table(result, read_puzzles(folders["drawn"]))
    assert table["solved"].tolist() == [True, True, False, True, False, False, True, True, False]
    table.to_csv(tmp_path / "a.csv", index=False)
    tasks, solved = read_solved(tmp_path / "a.csv")
    assert [task for (task,) in tasks] == [f"task{i}" for i in range(5)]
    assert solved.tolist() == [True, False, False, True, False]


def test_unknown_answers_are_not_scored_but_answered(folders):
    puzzles = read_puzzles(folders["drawn"])
    hidden = PuzzleSet(
        puzzles.task, puzzles.inputs, np.zeros_like(puzzles.labels), puzzles.puzzle_ids, groups=puzzles.groups
    )
    model = Knowing(folders["drawn"], lambda *_: True)
    result, votes = evaluate_arc(model, hidden, read_identifiers(folders["drawn"]), segments=1)
    assert result.scores[1]["pass_at_1"].n == result.scores[1]["exact_accuracy"].n == 0
    solutions = json.loads((folders["drawn"] / "test_puzzles.json").read_text())
    assert votes[1].submission()["task1"][1]["attempt_1"] == solutions["task1"]["test"][1]["output"]


# -- a network


@pytest.fixture(scope="module")
def network(folders):
    size = {"seq_len": 900, "vocab_size": 12, "mlp_t": False, "pos_encodings": "rope"}
    table = {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1, "num_puzzle_identifiers": 5 * VERSIONS + 1}
    return tiny_model(**size, **table, H_cycles=1, L_cycles=1)


def test_drawn_and_baked_folders_score_alike(folders, network):
    """The same versions under the same identifiers, once made when shown and once as rows."""
    assert read_identifiers(folders["drawn"]) == read_identifiers(folders["baked"])
    (a, votes), (b, same) = (
        evaluate_arc(
            network, read_puzzles(folders[kind]), read_identifiers(folders[kind]), segments=2, versions=3
        )
        for kind in ("drawn", "baked")
    )
    assert a.scores == b.scores
    assert votes[2].columns() == same[2].columns()
    assert (
        sum(votes[2].lost.values())
        + sum(
            c.votes
            for task, pairs in votes[2].tests.items()
            for i in range(len(pairs))
            for c in votes[2].candidates(task, i)
        )
        == 27
    )


def test_mistakes_are_one_line(folders, network):
    folder = folders["drawn"]
    puzzles, known = read_puzzles(folder), read_identifiers(folder)
    small = tiny_model(
        seq_len=900, vocab_size=12, puzzle_emb_ndim=16, puzzle_emb_len=1, num_puzzle_identifiers=3
    )
    for arguments, options, message in [
        ((small, puzzles, known), {}, "31 identifiers, but the model knows 3"),
        ((network, puzzles, known), {"versions": 0}, "versions=0: expected at least 1"),
        ((network, puzzles, known), {"rule": "kaggle"}, "arc rule 'kaggle': unknown"),
        ((network, puzzles, known), {"segments": 0}, "expected positive numbers"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            evaluate_arc(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_command(folders, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(network, tmp_path / "m")
    line = f"eval m --data {folders['drawn']} --segments 1,2 --limit 3 --versions 2 --arc-rule official"
    with pytest.raises(SystemExit) as stopped:
        main([*line.split(), "--json", "s.json", "--submission", "k.json", "--out", "a.csv"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    assert "3 tasks, 6 test inputs, up to 2 versions; rule of the votes: official" in out
    read = json.loads((tmp_path / "s.json").read_text())
    assert read["segments"]["2"]["pass_at_1000"]["n"] == 3
    assert read["arc_rule"] == "official"
    assert set(json.loads((tmp_path / "k.json").read_text())) == {"task0", "task1", "task2"}
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 7
    assert not list(tmp_path.glob("*.parts"))  # all is written, nothing is left over


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--select logit_change", "--select logit_change: ARC answers are chosen by vote over versions."),
        ("--segment-noise 0.5", "--segment-noise 0.5: ARC answers"),
        ("--ensemble m", "--ensemble: ARC answers"),
        ("--sweep segments=1,2", "--sweep: ARC answers"),
        ("--budget 8", "--budget 8: ARC answers"),
    ],
)
def test_levers_that_a_vote_has_no_use_for(folders, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "m", "--data", str(folders["drawn"]), *options.split()])
    _, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in err
    assert err.count("\n") == 1
