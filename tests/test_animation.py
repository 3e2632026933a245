"""Films: the orbit is the model's, growth is exact on a known map, frames and strips show what is so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from loopscope.errors import UserError
from loopscope.evaluation.solve import solve
from loopscope.reports.animation import (
    LAST,
    STEP,
    Film,
    animate,
    film_strip,
    record,
    shown_segments,
    strip_segments,
)
from loopscope.reports.drawing import UNSOLVED
from loopscope.tasks import Arc, Maze
from loopscope.tasks.faults import broken_cells, is_right
from tiny import BOARD, Approach, tiny_model, tiny_puzzles


@pytest.fixture(scope="module")
def film() -> Film:
    """A 4x4 Sudoku that is filled in over three segments: with a clash, with another, right."""
    puzzles = tiny_puzzles(1)
    assert puzzles.labels is not None
    inputs, label = puzzles.inputs[0], puzzles.labels[0]
    blanks = np.flatnonzero(inputs == 1)
    boards = np.stack([label] * 3)
    boards[:2, blanks[0]] = 2 + (label[blanks[0]] - 1) % 4
    boards[0, blanks[1:]] = 1
    return Film(BOARD, inputs, boards, np.array([-4.0, 0, 4]), np.array([10, 1, 0.1]), np.zeros(3), 2, label)


def test_a_film_is_the_orbit_that_solve_follows():
    model, puzzles = tiny_model(), tiny_puzzles(3)
    answers = solve(model, puzzles, segments=5, trace=True)
    for growth in (True, False):
        film = record(model, puzzles, 1, 5, growth=growth)
        np.testing.assert_array_equal(film.boards, answers.trace[1])
        np.testing.assert_allclose(film.halt_logit, answers.trace_halt_logit[1], rtol=1e-4)
        assert (film.growth is None) is not growth
    assert len(record(model, puzzles)) == film.budget == 4


def test_drift_and_growth_of_a_known_map():
    """z' - target = rate (z - target): a tangent shrinks by ln rate, the step by rate."""
    film = record(Approach(0.5), tiny_puzzles(2), 0, 6)
    np.testing.assert_allclose(film.growth, np.log(0.5), rtol=1e-9)
    target = torch.as_tensor(tiny_puzzles(2).labels[0]).double()
    np.testing.assert_allclose(film.drift, float(target.norm()) * 0.5 ** np.arange(1, 7), rtol=1e-6)
    assert film.budget is None
    assert film.right.tolist() == [False, False, False, True, True, True]  # 5/2^4 < 1/2 for every token


@pytest.mark.parametrize("arguments", [{"index": 3}, {"index": -1}, {"segments": 0}])
def test_what_cannot_be_recorded(arguments):
    with pytest.raises(UserError, match="expected"):
        record(tiny_model(), tiny_puzzles(3), **arguments)


def test_what_a_segment_did(film):
    assert film.right.tolist() == [False, False, True]
    assert not film.changed(0).any()
    assert film.changed(1).sum() == 1
    assert film.changed(3).sum() == 1
    assert film.broken(2)[film.changed(3)].all()
    assert not film.broken(3).any()


def test_gif(film, tmp_path):
    path = animate(film, tmp_path / "film.gif")
    picture, waits, frames = Image.open(path), [], []
    for i in range(picture.n_frames):
        picture.seek(i)
        waits.append(picture.info["duration"])
        frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert waits == [STEP] * 3 + [LAST]
    assert path.stat().st_size < 1.5e6
    vermilion = np.array([round(255 * part) for part in to_rgb(UNSOLVED)])
    board = [frame[60:400] for frame in frames]
    marked = [int((abs(part - vermilion).max(-1) < 12).sum()) for part in board]
    assert marked[0] == marked[3] == 0  # nothing is wrong with the question and with the answer
    assert marked[2] > 100
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match=r"ends in \.gif"):
        animate(film, tmp_path / "film.png")


def test_same_film_same_bytes(film, tmp_path):
    assert animate(film, tmp_path / "a.gif").read_bytes() == animate(film, tmp_path / "b.gif").read_bytes()


def test_long_films_leave_segments_out():
    assert shown_segments(16) == list(range(17))
    many = shown_segments(1000)
    assert (many[0], many[1], many[-1]) == (0, 1, 1000)
    assert len(many) <= 41


def test_strip(film):
    figure = film_strip({"quick success": film, "failure": film}, shown=3)
    titles = [ax.get_title(loc="center") for ax in figure.get_axes()]
    assert [title for title in titles if title] == ["segment 1", "segment 2", "segment 3"] * 2
    names = [ax.get_title(loc="left") for ax in figure.get_axes()]
    assert [name for name in names if name] == [
        "drift (norm of the change per segment)",
        "growth (nats per segment)",
    ] * 2
    assert strip_segments(film, 2) == [1, 3]


def test_faults_of_mazes_and_arc():
    maze = Maze(2, 3)
    question = maze.parse("S# " + "  G")
    for answer, broken, right in [("S# ooG", [], True), ("So oGG", [1, 4], False), ("S# o G", [], False)]:
        tokens = maze.parse(answer)
        assert np.flatnonzero(broken_cells(maze, question, tokens)).tolist() == broken
        assert is_right(maze, question, tokens[None])[0] == right
    arc = Arc()
    plain, other, larger = arc.encode(
        [np.zeros((2, 2), np.uint8), np.eye(2, dtype=np.uint8), np.zeros((3, 2), np.uint8)]
    )
    assert np.flatnonzero(broken_cells(arc, plain, other, plain)).tolist() == [0, 31]
    assert is_right(arc, plain, np.stack([plain, other, larger]), plain).tolist() == [True, False, False]
    assert not broken_cells(arc, plain, other, np.zeros_like(plain)).any()  # no solution, no fault
    assert not is_right(arc, plain, plain[None], None).any()
