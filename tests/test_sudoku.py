"""Sudoku: text, rules, augmentation and the symmetry group."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from loopscope.errors import UserError
from loopscope.tasks import TASKS, Sudoku, sudoku_for
from loopscope.tasks.sudoku.symmetry import canonical_form, random_symmetry

BOXES = [(2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (1, 4)]
QUESTION = ".47.5....6.9.3.4..53..........9..6.....3.6.82.....5.4.79...4..64.37......56.9...."
ANSWER = "247659318689137425531482967874921653915346782362875149798514236423768591156293874"

boxes = st.sampled_from(BOXES)
seeds = st.integers(0, 2**32 - 1)


def full_board(box_rows: int, box_cols: int) -> np.ndarray:
    """A solved board by the textbook shift pattern, tokens (1, L)."""
    n = box_rows * box_cols
    row, col = np.divmod(np.arange(n * n), n)
    return ((row % box_rows * box_cols + row // box_rows + col) % n + 2).astype(np.uint8)[None]


def with_blanks(board: np.ndarray, seed: int) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(board.shape) < 0.5, board, 1).astype(np.uint8)


def rule_by_rule(task: Sudoku, answer: np.ndarray) -> bool:
    """The rules in the plainest words, to compare with."""
    n, board = task.side, answer.reshape(task.side, task.side)
    everything = set(range(2, n + 2))
    blocks = [
        board[i : i + task.box_rows, j : j + task.box_cols].ravel()
        for i in range(0, n, task.box_rows)
        for j in range(0, n, task.box_cols)
    ]
    return all(set(unit.tolist()) == everything for unit in [*board, *board.T, *blocks])


# -- text


def test_names_and_sizes():
    task = sudoku_for(36)
    assert (task.name, task.side, task.seq_len, task.vocab_size, task.grid) == (
        "sudoku-2x3",
        6,
        36,
        8,
        (6, 6),
    )
    assert TASKS["sudoku"](81) == Sudoku(3, 3)
    assert [sudoku_for(cells).name for cells in (16, 81, 256)] == ["sudoku-2x2", "sudoku-3x3", "sudoku-4x4"]
    with pytest.raises(UserError, match="80 cells"):
        sudoku_for(80)
    with pytest.raises(UserError, match="6x6"):
        Sudoku(6, 6)


def test_parse_and_format_are_inverse():
    task = Sudoku(3, 3)
    tokens = task.parse(QUESTION)
    assert tokens[:4].tolist() == [1, 5, 8, 1]
    assert task.format(tokens) == QUESTION
    assert (task.parse(QUESTION.replace(".", "0")) == tokens).all()
    assert Sudoku(4, 4).format(Sudoku(4, 4).parse("G" + "." * 255)) == "G" + "." * 255


@pytest.mark.parametrize(("text", "message"), [("1" * 80, "80 characters"), ("x" + "." * 80, "'x' in row 1")])
def test_parse_says_what_is_wrong(text: str, message: str):
    with pytest.raises(UserError, match=message):
        Sudoku(3, 3).parse(text)


def test_render_draws_boxes():
    task = Sudoku(2, 3)
    lines = task.render(full_board(2, 3)[0]).splitlines()
    assert lines[0] == "┌───────┬───────┐"
    assert lines[1] == "│ 1 2 3 │ 4 5 6 │"
    assert lines[3] == "├───────┼───────┤"
    assert len(lines) == 10
    assert len({len(line) for line in lines}) == 1


def test_render_sets_givens_in_bold():
    task = Sudoku(3, 3)
    text = task.render(task.parse(ANSWER), givens=task.parse(QUESTION))
    assert text.count("\033[1m") == sum(c != "." for c in QUESTION)


# -- rules


@settings(max_examples=60, deadline=None)
@given(boxes, seeds)
def test_verify_agrees_with_the_rules_in_plain_words(box: tuple[int, int], seed: int):
    task, rng = Sudoku(*box), np.random.default_rng(seed)
    board = full_board(*box)
    damaged = np.repeat(board, 8, 0)
    for row in damaged[1:]:  # swap two cells, which may or may not break a rule
        i, j = rng.integers(0, task.seq_len, 2)
        row[[i, j]] = row[[j, i]]
    damaged[7, 0] = rng.choice([0, 1, 2])
    blank = np.ones_like(damaged)
    assert task.verify(blank, damaged).tolist() == [rule_by_rule(task, row) for row in damaged]


def test_verify_wants_the_givens_kept():
    task = Sudoku(3, 3)
    inputs, answer = task.parse(QUESTION)[None], task.parse(ANSWER)[None]
    swapped = task.parse(ANSWER.replace("1", "x").replace("2", "1").replace("x", "2"))[None]
    assert task.verify(inputs, answer).all()
    assert task.valid(swapped).all()
    assert not task.givens_kept(inputs, swapped).any()
    assert not task.verify(inputs, swapped).any()


def test_conflicts_marks_both_cells_of_a_pair_and_no_blank():
    task = Sudoku(3, 3)
    text = list("." * 81)
    text[0] = text[8] = "5"  # same row
    text[40] = text[50] = "7"  # same box
    text[11] = text[74] = "1"  # same column
    text[33] = "5"  # alone
    assert np.flatnonzero(task.conflicts(task.parse("".join(text))[None])[0]).tolist() == [
        0,
        8,
        11,
        40,
        50,
        74,
    ]
    assert not task.conflicts(task.parse(ANSWER)[None]).any()
    assert task.conflicts(np.zeros((0, 81), np.uint8)).shape == (0, 81)


def test_complaint_names_the_fault():
    task = Sudoku(3, 3)
    assert task.complaint(QUESTION, ANSWER) is None
    assert task.complaint("77" + "." * 79) == "two 7s in row 1"
    assert task.complaint("7" + "." * 8 + "7" + "." * 71) == "two 7s in column 1"
    assert (
        task.complaint(QUESTION, "x" + ANSWER[1:]) == "answer has 'x' in row 1, column 1, expected . or 1-9"
    )
    assert task.complaint(QUESTION, "." + ANSWER[1:]) == "answer leaves 1 cell blank"
    changed = task.complaint(QUESTION, ANSWER[0] + "5" + ANSWER[2:])
    assert changed == "answer changes the given 4 in row 1, column 2 to 5"
    assert task.complaint("." * 81, "1" * 81) == "answer has 9 1s in row 1"


# -- augmentation


@settings(max_examples=40, deadline=None)
@given(boxes, seeds)
def test_augmented_solutions_are_solutions(box: tuple[int, int], seed: int):
    task = Sudoku(*box)
    labels = np.repeat(full_board(*box), 5, 0)
    inputs = with_blanks(labels, seed)
    new_inputs, new_labels = task.augment(inputs, labels, np.random.default_rng(seed))
    assert task.verify(new_inputs, new_labels).all()
    assert (task.givens(new_inputs) == task.givens(inputs)).all()


def test_augment_same_seed_same_bytes_and_pad_stays():
    task, labels = Sudoku(3, 3), np.repeat(full_board(3, 3), 50, 0)
    runs = [task.augment(np.zeros_like(labels), labels, np.random.default_rng(5)) for _ in range(2)]
    assert runs[0][1].tobytes() == runs[1][1].tobytes()
    assert not runs[0][0].any()
    assert len(np.unique(runs[0][1], axis=0)) == 50


def test_augment_of_one_row_is_the_random_symmetry():
    task, labels = Sudoku(2, 3), full_board(2, 3)
    symmetry = random_symmetry(task, np.random.default_rng(9))
    augmented = task.augment(labels, labels, np.random.default_rng(9))[1]
    assert (symmetry.apply(labels) == augmented).all()


@pytest.mark.parametrize("box", [(3, 3), (2, 3)])
def test_augment_is_uniform_over_digits_and_cells(box: tuple[int, int]):
    """One marked clue must land on every cell, and carry every digit, equally often."""
    task, draws = Sudoku(*box), 40_000
    inputs = np.ones((draws, task.seq_len), np.uint8)
    inputs[:, 7] = 4
    moved, _ = task.augment(inputs, inputs, np.random.default_rng(1))
    cells, digits = moved.argmax(1), moved.max(1)
    assert chisquare(np.bincount(cells, minlength=task.seq_len)).pvalue > 1e-3
    assert chisquare(np.bincount(digits - 2, minlength=task.side)).pvalue > 1e-3


def test_augment_reaches_the_whole_group_of_the_smallest_board():
    """2x2 boxes: 128 geometries (2 transpositions * 2^6) times 24 relabellings; count the geometries."""
    task = Sudoku(2, 2)
    rng = np.random.default_rng(0)
    geometries = {random_symmetry(task, rng).cells.tobytes() for _ in range(3000)}
    assert len(geometries) == 128


def test_oblong_boxes_are_never_transposed():
    task, rng = Sudoku(2, 3), np.random.default_rng(0)
    for _ in range(50):
        rows = random_symmetry(task, rng).cells.reshape(6, 6) // 6
        assert (rows == rows[:, :1]).all()


# -- the group


@settings(max_examples=40, deadline=None)
@given(boxes, seeds)
def test_inverse_and_composition(box: tuple[int, int], seed: int):
    task, rng = Sudoku(*box), np.random.default_rng(seed)
    board = with_blanks(full_board(*box), seed)
    a, b = random_symmetry(task, rng), random_symmetry(task, rng)
    assert (a.inverse().apply(a.apply(board)) == board).all()
    assert (a.compose(b).apply(board) == a.apply(b.apply(board))).all()
    assert (a.compose(a.inverse()).cells == np.arange(task.seq_len)).all()
    assert task.verify(a.apply(board), a.apply(full_board(*box))).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(2, 2), (2, 3), (3, 2), (3, 3), (1, 4)]), seeds)
def test_canonical_form_is_invariant_and_equivalent(box: tuple[int, int], seed: int):
    task, rng = Sudoku(*box), np.random.default_rng(seed)
    labels = full_board(*box)
    inputs = with_blanks(labels, seed)
    symmetry = random_symmetry(task, rng)
    form = canonical_form(task, inputs, labels)
    again = canonical_form(task, symmetry.apply(inputs), symmetry.apply(labels))
    assert (form[0] == again[0]).all()
    assert (form[1] == again[1]).all()
    assert task.verify(*form).all()
    assert (form[1][0, : task.side] == np.arange(task.side) + 2).all()
    fixed = canonical_form(task, *form)  # a class's representative represents itself
    assert (fixed[0] == form[0]).all()


def test_canonical_form_counts_the_two_kinds_of_4x4_board():
    """Known: the 288 boards with 2x2 boxes fall into exactly 2 classes."""
    from itertools import permutations, product

    task = Sudoku(2, 2)
    rows = list(permutations((2, 3, 4, 5)))
    boards = np.array(
        [sum(p, ()) for p in product(rows, repeat=4) if len({*zip(*p, strict=True)}) == 4], np.uint8
    )
    boards = boards[task.valid(boards)]
    assert len(boards) == 288
    assert len(np.unique(canonical_form(task, boards, boards)[1], axis=0)) == 2


def test_canonical_form_tells_clue_patterns_apart():
    """All 120 ways to blank 2 of 16 cells, against classes found by trying the whole group."""
    task, rng = Sudoku(2, 2), np.random.default_rng(0)
    board = full_board(2, 2)
    group = {}
    while len(group) < 128:
        symmetry = random_symmetry(task, rng)
        group[symmetry.cells.tobytes()] = symmetry.cells
    pairs = [(i, j) for i in range(16) for j in range(i)]
    puzzles = np.repeat(board, len(pairs), 0)
    for puzzle, pair in zip(puzzles, pairs, strict=True):
        puzzle[list(pair)] = 1
    solved = np.repeat(board, len(pairs), 0)
    keys = {}
    for index in range(len(pairs)):
        images = []
        for cells in group.values():  # brute force: relabel by the solution's first row, take the least
            relabel = np.zeros(6, np.uint8)
            relabel[1], relabel[solved[index, cells][:4]] = 1, np.arange(2, 6)
            images.append(bytes(relabel[solved[index, cells]]) + bytes(relabel[puzzles[index, cells]]))
        keys[index] = min(images)
    forms = canonical_form(task, puzzles, solved)[0]
    same = (forms[:, None] == forms[None]).all(2)
    expected = np.array([[keys[i] == keys[j] for j in keys] for i in keys])
    assert (same == expected).all()
    assert 1 < len(set(keys.values())) < len(pairs)


def test_canonical_form_refuses_what_it_cannot_do():
    board = full_board(4, 4)
    with pytest.raises(UserError, match="too many"):
        canonical_form(Sudoku(4, 4), board, board)
    with pytest.raises(UserError, match="puzzle 0"):
        canonical_form(Sudoku(2, 2), full_board(2, 2), np.ones((1, 16), np.uint8))


def test_importing_tasks_does_not_load_numba():
    code = "import sys, loopscope.tasks; sys.exit('numba' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
