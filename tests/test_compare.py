"""Paired comparison against hand-computed cases and statsmodels; answer files; the commands that use them."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from statsmodels.stats import contingency_tables

from loopscope.cli import main
from loopscope.errors import UserError
from loopscope.evaluation import answer_file
from loopscope.evaluation.answer_file import answer_table, check_target, read_solved, write_answers
from loopscope.evaluation.compare import compare, mcnemar, spread
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.intervals import wilson
from loopscope.models.folder import save_model
from loopscope.tasks import write_puzzles
from tiny import tiny_model, tiny_puzzles


def solved(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


# -- two runs


def test_comparison_by_hand():
    found = compare(*solved(10, 1, 5, 4))
    assert (found.only_a, found.only_b, found.both, found.neither) == (1, 5, 10, 4)
    assert (found.a, found.b) == (wilson(11, 20), wilson(15, 20))
    assert found.difference.value == pytest.approx(0.2)
    assert found.p_value == pytest.approx(2 * 7 / 64)  # 2 P(at most 1 of 6 heads) = 2 (1 + 6) / 64
    assert found.difference.low < 0.2 < found.difference.high


@pytest.mark.parametrize("table", [(10, 1, 5, 4), (50, 20, 8, 3), (0, 0, 7, 0), (5, 3, 3, 5), (4, 0, 0, 4)])
def test_mcnemar_equals_statsmodels(table):
    both, only_a, only_b, neither = table
    expected = contingency_tables.mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected if only_a + only_b else 1.0)


def test_paired_interval_covers_and_is_narrower_than_an_unpaired_one():
    rng, hits, widths = np.random.default_rng(0), 0, []
    truth = 0.05
    for trial in range(60):
        kind = rng.choice(4, size=400, p=[0.8, 0.05, 0.10, 0.05])  # both, only a, only b, neither
        found = compare(kind <= 1, (kind == 0) | (kind == 2), seed=trial).difference
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert hits >= 53
    unpaired = 2 * 1.96 * np.sqrt((0.85 * 0.15 + 0.9 * 0.1) / 400)
    assert np.mean(widths) < 0.85 * unpaired
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt((0.15 - 0.05**2) / 400), rel=0.05)


def test_equal_runs_still_have_an_interval():
    found = compare(*solved(60, 0, 0, 40))
    assert found.p_value == 1.0
    assert found.difference.value == 0
    assert found.difference.high == -found.difference.low == pytest.approx(1 - 0.025**0.01)


def test_spread_by_hand():
    found = spread([0.80, 0.84, 0.82])
    assert found.mean.value == pytest.approx(0.82)
    assert found.deviation == pytest.approx(0.02)
    assert found.mean.high - 0.82 == pytest.approx(4.302653 * 0.02 / 3**0.5)
    assert found.mean.n == 3


# -- files


@pytest.fixture(scope="module")
def scored():
    puzzles = tiny_puzzles(7)
    return puzzles, evaluate(tiny_model(), puzzles, segments=[1, 3], batch_size=3, answers=True)


def test_a_row_for_each_puzzle(scored, tmp_path):
    puzzles, result = scored
    write_answers(tmp_path / "a.csv", answer_table(result, puzzles))
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    at_end = result.outcomes[3]
    assert [int(row["puzzle"]) for row in rows] == list(range(7))
    assert len({row["key"] for row in rows}) == 7
    assert {row["segments"] for row in rows} == {"3"}
    assert [row["solved"] == "True" for row in rows] == at_end["exact"].tolist()
    assert [float(row["halt_logit"]) for row in rows] == at_end["halt_logit"].tolist()
    assert [float(row["cell_accuracy"]) for row in rows] == at_end["cell_accuracy"].tolist()
    assert [row["answer"] for row in rows] == [puzzles.task.format(a) for a in at_end["answer"]]
    assert "cumulative_accuracy" not in rows[0]


def test_equal_answers_equal_bytes(scored, tmp_path):
    puzzles, result = scored
    for name in ("a.csv.gz", "b.csv.gz"):
        write_answers(tmp_path / name, answer_table(result, puzzles))
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"puzzle,key,segments,solved,")
    names, found = read_solved(tmp_path / "a.csv.gz")
    assert names[2][0] == "2"
    assert found.tolist() == result.outcomes[3]["exact"].tolist()


def test_parquet_says_the_same_as_csv(scored, tmp_path):
    puzzles, result = scored
    for name in ("a.parquet", "a.csv"):
        write_answers(tmp_path / name, answer_table(result, puzzles))
    (names, found), (others, same) = (read_solved(tmp_path / name) for name in ("a.parquet", "a.csv"))
    assert names == others
    assert found.tolist() == same.tolist()


def test_parquet_without_pyarrow_is_one_line(monkeypatch):
    monkeypatch.setattr(answer_file, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="parquet needs pyarrow"):
        check_target("a.parquet")


def test_an_arc_task_is_solved_when_all_its_tests_are(tmp_path):
    (tmp_path / "a.csv").write_text("task,test,segments,solved\n12,0,4,True\n12,1,4,False\n007,0,4,True\n")
    names, found = read_solved(tmp_path / "a.csv")
    assert (names, found.tolist()) == ([("12",), ("007",)], [False, True])


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x89PNG\r\n\x1a\n\0", b"puzzle,key\n0,a\n"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match="no table of answers") as caught:
        read_solved(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


# -- commands


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for seed in range(3):
        model = tiny_model()
        model.q_head.bias.data += seed
        save_model(model, tmp_path / f"m{seed}")
    write_puzzles(tiny_puzzles(6), tmp_path / "p.csv.gz")

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        out, err = capsys.readouterr()
        return int(stopped.value.code), out, err

    return run


def test_eval_writes_what_compare_reads(run, tmp_path):
    for seed in range(3):
        code, out, err = run(f"eval m{seed} --data p.csv.gz --segments 1,2 --out {seed}.csv")
        assert (code, err) == (0, "")
        assert f"answers, 2 segments, written to {seed}.csv" in out
    code, out, _ = run("compare 0.csv 1.csv 2.csv --json c.json")
    assert code == 0
    assert "3 runs: mean" in out
    read = json.loads((tmp_path / "c.json").read_text())
    assert read["against_first"]["1.csv"]["p_value"] == 1.0
    assert read["spread"]["mean"]["n"] == 3
    assert "runs: mean" not in run("compare 0.csv 1.csv")[1]


def test_restarts_write_answers_too(run, tmp_path):
    assert run("eval m0 --data p.csv.gz --segments 2 --restarts 2 --out a.csv")[0] == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 7


def test_mistakes_are_one_line(run, tmp_path):
    run("eval m0 --data p.csv.gz --segments 1 --out a.csv")
    run("eval m0 --data p.csv.gz --segments 1 --limit 3 --out few.csv")
    run("eval m0 --data p.csv.gz --segments 1 --out b.csv")
    table = tmp_path / "b.csv"
    table.write_text(table.read_text().replace("\n4,", "\n4,0"))
    for line, message in [
        ("compare a.csv", "one file, expected at least two"),
        ("compare a.csv none.csv", "none.csv: no such file"),
        ("compare a.csv few.csv", "few.csv: 3 puzzles, but a.csv has 6"),
        ("compare a.csv b.csv", "b.csv: puzzle 4 is another than in a.csv"),
        ("eval m0 --data p.csv.gz --out a.txt", "a.txt: expected a name that ends in .csv"),
        ("eval m0 --data p.csv.gz --submission s.json", "--submission: sudoku-2x2 is no ARC set"),
        ("eval m0 --data p.csv.gz --versions 3", "--versions: sudoku-2x2 is no ARC set"),
    ]:
        code, out, err = run(line)
        assert (code, out) == (2, ""), line
        assert message in err
        assert err.count("\n") == 1
