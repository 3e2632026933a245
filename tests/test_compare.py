"""Paired comparison against hand-computed cases and statsmodels; answer files; the commands that use them."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables, multitest

from loopscope.cli import main
from loopscope.errors import UserError
from loopscope.evaluation import answer_file
from loopscope.evaluation.answer_file import answer_table, check_target, read_solved, write_answers
from loopscope.evaluation.compare import compare, compare_all, mcnemar, spread
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.intervals import wilson
from loopscope.evaluation.multiple import adjusted
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
    assert (found.low, found.high) == (0.80, 0.84)


# -- several runs


def runs_of(rates: list[float], n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Runs that find the same puzzles hard."""
    hard = rng.normal(size=n)
    return [hard + rng.normal(size=n) < stats.norm.ppf(rate) * 2**0.5 for rate in rates]


def test_pairs_of_runs_carry_their_own_test_and_holms():
    runs = runs_of([0.5, 0.55, 0.7], 400, np.random.default_rng(0))
    pairs = compare_all(runs)
    assert [(p.first, p.second) for p in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        assert pair.comparison == compare(runs[pair.first], runs[pair.second])
    single = [p.comparison.p_value for p in pairs]
    order = np.argsort(single)
    by_hand = np.maximum.accumulate([min(1, (3 - i) * single[j]) for i, j in enumerate(order)])
    assert [pairs[j].p_holm for j in order] == pytest.approx(by_hand)


def test_ten_true_null_hypotheses_are_seldom_denied_together():
    p = np.random.default_rng(0).random((300, 10))
    most = stats.binom(300, 0.05).ppf(0.999)
    assert sum(adjusted(row).min() < 0.05 for row in p) <= most
    assert (p.min(axis=1) < 0.05).sum() > 4 * most  # without the adjustment, most often
    assert [
        p.p_holm < 0.05 for p in compare_all(runs_of([0.6, 0.6, 0.9], 300, np.random.default_rng(2)))
    ] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("fdr", "fdr_bh")])
def test_adjusted_p_values_equal_statsmodels_and_leave_out_what_was_not_tested(ours, theirs):
    p = np.array([0.001, np.nan, 0.04, 0.03, 0.2])
    found, tested = adjusted(p, ours), ~np.isnan(p)
    assert np.isnan(found[1])
    assert found[tested] == pytest.approx(multitest.multipletests(p[tested], method=theirs)[1])
    if ours == "fdr":
        assert found[tested] == pytest.approx(stats.false_discovery_control(p[tested]))
    assert np.isnan(adjusted(np.full(2, np.nan))).all()


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
    with pytest.raises(UserError, match="not a table of answers") as caught:
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
    assert read["files"] == ["0.csv", "1.csv", "2.csv"]
    assert [(pair["first"], pair["second"]) for pair in read["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert all(pair["comparison"]["p_value"] == pair["p_holm"] == 1.0 for pair in read["pairs"])
    assert "Holm over 3 pairs" in out
    assert read["spread"]["mean"]["n"] == 3
    out = run("compare 0.csv 1.csv")[1]
    assert "runs: mean" not in out
    assert "Holm" not in out


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
        ("eval m0 --data p.csv.gz --submission s.json", "--submission s.json: sudoku-2x2 is not an ARC set"),
        ("eval m0 --data p.csv.gz --versions 3", "--versions 3: sudoku-2x2 is not an ARC set"),
    ]:
        code, out, err = run(line)
        assert (code, out) == (2, ""), line
        assert message in err
        assert err.count("\n") == 1
