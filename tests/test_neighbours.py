"""New puzzles by moved givens: one solution each, one step away, as hard as the source, all of them new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loopscope.cli.data import remarks
from loopscope.errors import UserError
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, write_puzzles
from loopscope.tasks.build import Options, build_maze, build_sudoku
from loopscope.tasks.overlap import overlap
from loopscope.tasks.sudoku.neighbours import BANDS, families, neighbours
from loopscope.tasks.sudoku.solver import solve
from loopscope.tasks.survey import survey
from loopscope.training.stream import split_validation
from small_sets import files_of, mazes, sudokus
from test_sudoku_solver import count_plainly


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def hard() -> PuzzleSet:
    return read_puzzles("sudoku9-hard")


@pytest.fixture(scope="module")
def of_hard(hard: PuzzleSet) -> PuzzleSet:
    return neighbours(hard, 1, rng())


def test_one_solution_each():
    new = neighbours(sudokus(Sudoku(2, 3), 6, 12), 2, rng())
    assert len(new) > 50
    for inputs, label in zip(new.inputs[:50], new.labels[:50], strict=True):  # type: ignore[index]
        assert count_plainly(inputs.tolist(), 2, 3) == 1
        assert new.task.verify(inputs[None], label[None]).all()


def test_one_given_is_moved(hard, of_hard):
    assert (of_hard.facts["givens"] == (of_hard.inputs > 1).sum(1)).all()
    for row in of_hard.inputs:
        differs = hard.inputs != row
        moved = (differs & (hard.inputs > 1) & (row == 1)).sum(1), (differs & (hard.inputs == 1)).sum(1)
        assert ((differs.sum(1) == 2) & (moved[0] == 1) & (moved[1] == 1)).any()


def test_as_hard_as_the_source(hard, of_hard):
    shares = [
        np.histogram(solve(hard.task, inputs, limit=1)[2], BANDS)[0] / len(inputs)
        for inputs in (hard.inputs, of_hard.inputs)
    ]
    assert len(of_hard) > 50
    assert np.abs(shares[0] - shares[1]).max() < 0.05
    # without the choice nearly all would be easy, so the choice is what this test sees
    assert shares[0][0] < 0.4


def test_nothing_twice_up_to_symmetry(hard, of_hard):
    forms = of_hard.task.canonical(of_hard.inputs, of_hard.labels)
    assert len(set(forms)) == len(of_hard)
    assert not set(forms) & set(hard.task.canonical(hard.inputs, hard.labels))


def test_each_tells_whose_neighbour_it_is(hard):
    """Two moves away at most, where the two generations lead."""
    few = hard[:6]
    new = neighbours(few, 2, rng())
    keys = families(few.inputs)
    assert len(set(keys)) == 6
    assert (families(hard.inputs)[:6] == keys).all()
    for row, family in zip(new.inputs, new.facts["family"], strict=True):
        (ancestor,) = few.inputs[keys == family]
        assert (row != ancestor).sum() <= 4


def test_same_state_same_puzzles(hard, of_hard):
    again, other = neighbours(hard, 1, rng()), neighbours(hard, 1, np.random.default_rng(6))
    assert again.inputs.tobytes() == of_hard.inputs.tobytes()
    assert other.inputs.tobytes() != of_hard.inputs.tobytes()


def test_a_full_board_has_none():
    solved = sudokus(Sudoku(2, 2), 2, 8)
    full = PuzzleSet(solved.task, solved.labels, solved.labels, solved.puzzle_ids, name="full")
    with pytest.raises(UserError, match=r"full: no puzzle as hard as these is one given away\. Leave out"):
        neighbours(full, 1, rng())


def test_a_folder_with_neighbours_holds_no_test_puzzle(tmp_path: Path):
    source = sudokus(Sudoku(2, 3), 8, 14)
    write_puzzles(source, tmp_path / "train.csv")
    plain = build_sudoku([tmp_path / "train.csv"], tmp_path / "plain", options=Options(neighbours=1))
    folder = read_puzzles(tmp_path / "plain", split="train")
    count = plain["counts"]["train"]["groups"]
    assert count == len(folder) > 8
    assert (folder.inputs[:8] == source.inputs).all()
    (told,) = (line for line in remarks(survey(tmp_path / "plain")) if "neighbours made" in line)
    assert told == f"train: 8 puzzles and {count - 8:,} neighbours made of them"
    train, held_out = split_validation(folder, 3, seed=0)
    assert (len(held_out), set(train.facts["family"]) & set(held_out.facts["family"])) == (3, set())
    assert (held_out.inputs[:, None] == source.inputs).all(2).any(1).all()  # the source, not its neighbours

    write_puzzles(folder[8:11], tmp_path / "test.csv")
    options = Options(neighbours=1)
    for out in ("a", "b"):
        built = build_sudoku(
            [tmp_path / "train.csv"], tmp_path / out, test=[tmp_path / "test.csv"], options=options
        )
    assert built["counts"]["train"]["groups"] == count - 3
    assert built["leaks"] is None
    assert built["options"]["neighbours"] == 1
    assert not len(overlap(read_puzzles(tmp_path / "a", split="train"), folder[8:11]))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_only_sudoku_has_neighbours(tmp_path: Path):
    write_puzzles(mazes(6, 6, 4), tmp_path / "mazes.csv")
    with pytest.raises(UserError, match=r"neighbours=2: maze-6x6 has none\. Leave it out"):
        build_maze([tmp_path / "mazes.csv"], tmp_path / "out", options=Options(neighbours=2))
    write_puzzles(sudokus(Sudoku(3, 3), 3, 40), tmp_path / "sudoku.csv")
    with pytest.raises(UserError, match=r"neighbours=2: compat=trm has none"):
        build_sudoku([tmp_path / "sudoku.csv"], tmp_path / "out", options=Options(neighbours=2, compat="trm"))
    assert not (tmp_path / "out").exists()
