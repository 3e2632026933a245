"""loopscope solve: Sudoku, maze and ARC; traces, films, and what is said of a wrong answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from command_line import is_plain
from loopscope.cli import boards
from loopscope.models.folder import save_model
from loopscope.models.trm import TRM
from loopscope.tasks import Arc, Maze
from loopscope.tasks.build.arc import build_arc
from loopscope.tasks.storage.layout import read_identifiers
from tiny import tiny_model, tiny_puzzles

PUZZLE = "".join(".1234"[max(t - 1, 0)] for t in tiny_puzzles(1).inputs[0])
SOLUTION = "".join("1234"[t - 2] for t in tiny_puzzles(1).labels[0])
MAZE = ["S #  ", "# # #", "     ", "# ## ", "   #G"]  # shortest: 9 cells, only one way
WAY = ["So#  ", "#o# #", " oooo", "# ##o", "   #G"]
GIVEN = {"L_cycles": 1, "H_cycles": 1, "mlp_t": False, "pos_encodings": "rope"}


def answers_with(monkeypatch, tokens, vocabulary):
    """Make every TRM give these tokens, whatever its state."""
    table = torch.nn.functional.one_hot(torch.as_tensor(np.asarray(tokens)).long()[None], vocabulary).float()
    original = TRM.readout

    def readout(*args):
        out = original(*args)
        return out._replace(logits=table.expand(len(out.logits), -1, -1))

    monkeypatch.setattr(TRM, "readout", readout)


def timeless(out: str) -> str:
    """What was printed, without the seconds at its end."""
    return out[: out.rindex(",")]


# -- Sudoku


def test_solve_says_what_is_wrong(run):
    code, out, _ = run(f"solve model {PUZZLE} --segments 3")
    assert code == 0
    assert is_plain(out)
    assert "NOT solved: answer " in out
    assert re.search(r"cells in conflict: \d+; givens changed: \d+", out)
    board = out[: out.index("bold:")]
    conflicts, broken = map(int, re.findall(r"conflict: (\d+); givens changed: (\d+)", out)[0])
    assert board.count("*") == broken
    assert conflicts - broken <= board.count("!") <= conflicts
    assert "halt logit" in out


def test_solve_a_puzzle_in_rows_or_from_a_file(run):
    rows = [PUZZLE[i : i + 4] for i in range(0, 16, 4)]
    Path("board.txt").write_text("\n".join(rows) + "\n")
    ways = (["board.txt"], rows, [PUZZLE], [" ".join(rows)])
    assert len({timeless(run("solve model", *way)[1]) for way in ways}) == 1


def test_solve_right(run, monkeypatch):
    """A model whose head is made to give the solution whatever the state."""
    answers_with(monkeypatch, [int(c) + 1 for c in SOLUTION], 6)
    code, out, _ = run(f"solve model {PUZZLE} --trace --segments 5")
    assert code == 0
    assert "solved: every row, column and box is right and the givens are kept" in out
    assert "unchanged from segment 2 to 5, first right after segment 1" in out
    assert out.count("segment 1\n") == 1
    assert "segment 2\n" not in out  # nothing changed
    assert "!" not in out[: out.index("bold:")]


def test_solve_trace_and_restarts(run):
    code, out, _ = run(f"solve model {PUZZLE} --trace --segments 3 --restarts 3 --select residual --seed 1")
    assert code == 0
    assert is_plain(out)
    assert re.search(r"segment 1 +segment 2 +segment 3", out)
    assert re.search(r"\d+ changed, \d+ clash", out)
    assert "trace of the plain start: the answer is still changing at segment 3, never right" in out
    assert re.search(r"rollout \d of 3 chosen by residual", out)


def test_solve_with_every_lever(run):
    levers = "--restarts 2 --views 3 --start random --segment-noise .1 --stop unchanged --select majority"
    code, out, _ = run(f"solve model {PUZZLE} --segments 6 --trace {levers}")
    assert code == 0
    assert re.search(r"rollout \d of 6 chosen by majority", out)
    ran, calls = map(int, re.findall(r"(\d+) segments, (\d+) block applications", out)[0])
    assert 6 <= ran <= 36  # 2 restarts x 3 views, at most 6 segments each
    assert calls == ran * tiny_model().applications_per_segment


@pytest.mark.parametrize("policy", ["deepen", "restart", "luby"])
def test_budget_shows_the_answer_as_it_changes(run, policy):
    code, out, _ = run(f"solve model {PUZZLE} --budget 60 --policy {policy} --cutoff 2 --noise 1")
    assert code == 0
    assert is_plain(out)
    head, *lines = out[: out.index("┌")].splitlines()
    assert head.split() == ["applications", "seconds", "orbit", "sure", "wrong"]
    spent = [int(line.split()[0]) for line in lines]
    assert spent[0] == 6
    assert spent == sorted(set(spent))
    assert spent[-1] == 60
    assert "NOT solved: answer " in out
    assert f"policy {policy}; 60 block applications" in out
    if policy == "deepen":
        plain = run(f"solve model {PUZZLE} --segments 10")[1]
        assert plain[plain.index("┌") : plain.index("bold:")] == out[out.index("┌") : out.index("bold:")]


def test_budget_in_seconds_and_cut_off_by_a_person(run, monkeypatch):
    from loopscope.evaluation import anytime

    assert run(f"solve model {PUZZLE} --budget 0.2s")[0] == 0
    original = anytime._within

    def until_ctrl_c(*args):
        yield from first_of(original(*args), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(anytime, "_within", until_ctrl_c)
    code, out, _ = run(f"solve model {PUZZLE} --budget 2min")
    assert code == 0
    assert "interrupted; the answer so far:" in out
    assert "the model " in out


def first_of(items, count):
    return (item for item, _ in zip(items, range(count), strict=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--budget soon", "--budget soon: expected a time as 10s or 2min, or a number of block applications"),
        ("--budget nans", "--budget nans: expected a time"),
        ("--budget 5", "one segment of this model takes 6 block applications"),
        ("--budget 5s --policy hope", "--policy hope: unknown. Choose one of deepen, restart, luby"),
        ("--budget 5s --segments 9", "--segments 9: cannot be combined with --budget"),
        ("--budget 5s --trace", "--trace: cannot be combined with --budget"),
        ("--policy luby", "--policy luby: has no effect without --budget. Add --budget 10s"),
        ("--cutoff 3", "--cutoff 3: has no effect without --budget"),
    ],
)
def test_budget_mistakes_are_one_line(run, options, message):
    code, _, err = run(f"solve model {PUZZLE} {options}")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_colours_only_for_a_terminal(place):
    """In a pipe, with the environment of a terminal, there is no escape code."""
    line = [sys.executable, "-m", "loopscope", "solve", "model", PUZZLE, "--trace", "--segments", "2"]
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, check=True)
    assert "\033" not in done.stdout
    assert done.stderr == ""


# -- mazes


@pytest.fixture
def maze(run, place):
    """A model for mazes of 5x5 cells and one such maze; `run` comes with it."""
    if not (place / "mazes").exists():
        save_model(tiny_model(seq_len=25, **GIVEN), place / "mazes")
        (place / "maze.txt").write_text("\n".join(MAZE) + "\n")
    return run


def test_a_right_path(maze, monkeypatch):
    answers_with(monkeypatch, Maze(5, 5).parse("".join(WAY)), 6)
    code, out, _ = maze("solve mazes maze.txt --trace --segments 3")
    assert code == 0
    assert is_plain(out)
    assert "solved: a shortest path from S to G" in out
    assert "│S • ██    │\n│██• ██  ██│\n│  • • • • │\n" in out
    assert "│S + ██    │" in out  # newly marked, in the trace
    assert "unchanged from segment 2 to 3, first right after segment 1" in out


@pytest.mark.parametrize(
    ("rows", "reason", "counts"),
    [
        (
            ["So#  ", "#o# #", " oo  ", "# ## ", "   #G"],
            "answer's path from S ends in row 3, column 3",
            "marks: 4\nway from S to G: none; the shortest has 7 cells",
        ),
        (
            ["So#  ", "#o# #", " oooo", "# ooo", "   #G"],
            "answer changes '#' in row 4, column 3 to 'o'",
            "walls crossed: 2; marks: 9\nway from S to G: none",
        ),
        (
            ["So#oo", "#o#o#", " oooo", "# ##o", "   #G"],
            "branches in row 3, column 4",
            "walls crossed: 0; marks: 10\nway from S to G: joined, with more marks beside it",
        ),
    ],
)
def test_a_wrong_path_is_called_so(maze, monkeypatch, rows, reason, counts):
    answers_with(monkeypatch, Maze(5, 5).parse("".join(rows)), 6)
    code, out, _ = maze("solve mazes maze.txt --segments 1")
    assert code == 0
    assert "NOT solved: " in out
    assert reason in out
    assert counts in out


def test_a_detour_is_not_solved(maze, monkeypatch):
    Path("round.txt").write_text("S    \n #   \n   #G\n     \n     \n")
    rows = ["S    ", "o#   ", "ooo#G", "  o o", "  ooo"]
    answers_with(monkeypatch, Maze(5, 5).parse("".join(rows)), 6)
    _, out, _ = maze("solve mazes round.txt --segments 1")
    assert "NOT solved: answer's path has 11 cells, the shortest 7" in out
    assert "way from S to G: 9 cells; the shortest has 5 cells" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S #\n###\n #G\n", "G cannot be reached from S"),
        ("S #\n#x#\n #G\n", "has 'x' in row 2, column 2"),
        ("S  \n   \n   \n", "question has 0 cells G, expected 1"),
        ("S \n G\n", "puzzles of 4 cells and 6 tokens"),
    ],
)
def test_a_maze_that_is_none(maze, text, message):
    Path("bad.txt").write_text(text)
    code, _, err = maze("solve mazes bad.txt")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_rows_that_an_editor_cut_short_and_one_line(maze):
    answer = maze("solve mazes maze.txt --segments 1")[1]
    Path("cut.txt").write_text("\n".join(row.rstrip() for row in MAZE))
    Path("line.txt").write_text("".join(MAZE))
    for name in ("cut.txt", "line.txt"):
        assert timeless(maze(f"solve mazes {name} --segments 1")[1]) == timeless(answer)


def test_a_large_maze_has_a_line_for_every_segment(run, place):
    save_model(tiny_model(seq_len=900, **GIVEN), place / "large")
    Path("large.txt").write_text("\n".join(["S" + " " * 29, *[" " * 30] * 28, " " * 29 + "G"]))
    code, out, _ = run("solve large large.txt --trace --segments 3")
    assert code == 0
    assert is_plain(out)
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[0][:5] == ["segment", "changed", "wrong", "sure", "drift"]
    assert out.count("┌" + "─" * 60 + "┐") == 2  # after the last change, and the answer


# -- ARC


@pytest.fixture
def arc(run, place):
    """A model with a puzzle table for two tasks in four versions each, and the folder it knows."""
    if not (place / "arc").exists():
        source, rng = place / "source" / "evaluation", np.random.default_rng(0)
        source.mkdir(parents=True)
        for i in range(2):
            pairs = [{k: rng.integers(0, 10, (2, 3)).tolist() for k in ("input", "output")} for _ in range(4)]
            (source / f"task{i}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))
        build_arc(place / "source", place / "arc", subsets=["evaluation"], augmentations=3)
        table = {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}
        size = {"seq_len": 900, "vocab_size": 12, **GIVEN}
        count = len(read_identifiers(place / "arc"))
        save_model(tiny_model(**size, **table, num_puzzle_identifiers=count), place / "arcs")
        save_model(tiny_model(**size), place / "tableless")
    return run


def solution(test: int) -> list:
    return json.loads(Path("source/evaluation/task0.json").read_text())["test"][test]["output"]


def test_arc_versions_vote(arc, monkeypatch):
    answers_with(monkeypatch, Arc().encode([np.array(solution(0), np.uint8)])[0], 12)
    code, out, _ = arc("solve arcs source/evaluation/task0.json --data arc --segments 2 --views 1 --trace")
    assert code == 0
    assert is_plain(out)
    first, second = out.split("test input 1 of 2, 1 versions vote")[1].split("test input 2 of 2, 1 ")
    assert "answer 1: 1 vote, " in first
    assert "\n".join(" ".join(map(str, row)) for row in solution(0)) in re.sub(" +\n", "\n", first)
    assert "right: answer 1 is the solution of the file" in first
    wrong = int((np.array(solution(0)) != np.array(solution(1))).sum())
    assert f"NOT right: {wrong} of 6 cells of answer 1 differ from the solution" in second
    assert second.count("!") == wrong


def test_arc_without_a_solution_is_not_checked(arc, monkeypatch):
    task = json.loads(Path("source/evaluation/task1.json").read_text())
    for pair in task["test"]:
        del pair["output"]
    Path("task1.json").write_text(json.dumps(task))
    answers_with(monkeypatch, Arc().encode([np.ones((2, 2), np.uint8)])[0], 12)
    code, out, _ = arc("solve arcs task1.json --data arc --segments 1 --trace")
    assert code == 0
    assert out.count("not checked: the file has no solution") == 2
    assert out.count("4 versions vote") == 2
    assert "no solution to compare with" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tableless source/evaluation/task0.json", "the model has no puzzle table"),
        ("arcs source/evaluation/task0.json", "Name the folder the model was trained with: --data FOLDER."),
        ("arcs other.json --data arc", "task other has no row in the model's puzzle table (9 identifiers)"),
        ("arcs source/evaluation/task0.json --data arc --restarts 2", "--restarts 2: ARC answers are chosen"),
        ("arcs source/evaluation/task0.json --budget 5s", "--budget 5s: ARC answers are chosen by vote"),
        ("arcs nothing.json", "nothing.json: no such file"),
        ("arcs other.json --gif film.mp4", "--gif film.mp4: expected a name that ends in .gif"),
    ],
)
def test_arc_mistakes_are_one_line(arc, line, message):
    Path("other.json").write_text(Path("source/evaluation/task0.json").read_text())
    code, _, err = arc(f"solve {line}")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_arc_boards_are_coloured_on_a_terminal(monkeypatch):
    """Colour 1 of the web page is (0, 116, 217); in a file the digits alone stay."""
    drawn = boards.board(Arc(), *[Arc().encode([np.ones((1, 2), np.uint8)])[0]] * 2)
    assert drawn.plain == "1 1 "
    screen = Console(force_terminal=True, color_system="truecolor")
    with screen.capture() as caught:
        screen.print(drawn)
    assert "48;2;0;116;217" in caught.get()


# -- films


def test_gif(run):
    code, out, _ = run(f"solve model {PUZZLE} --segments 3 --gif film.gif")
    assert code == 0
    assert "film of the plain orbit written to film.gif" in out
    assert Image.open("film.gif").n_frames == 4  # the puzzle and three segments
