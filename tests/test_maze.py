"""Maze: labels of the official data, paths against other libraries, symmetries, generator, files."""

from __future__ import annotations

import itertools
import re
from collections import deque
from functools import cache
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from scipy.stats import chisquare, ks_2samp

from loopscope.errors import UserError
from loopscope.reports.drawing import to_svg
from loopscope.reports.maze_boards import draw_maze
from loopscope.tasks import TASKS, GridTask, Maze, PuzzleSet, Task, read_puzzles, write_puzzles
from loopscope.tasks.dihedral import COUNT, INVERSE, transform
from loopscope.tasks.maze.board import FREE, GOAL, PATH, START, WALL
from loopscope.tasks.maze.generate import generate
from loopscope.tasks.maze.paths import check_paths, distances, shortest_paths
from loopscope.tasks.storage.csv_puzzles import TextTask
from shared import shared_path

sides = st.integers(2, 9)
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, max_examples=40)

# S..   The two shortest paths have five cells: over the top right or the bottom left corner.
# .#.
# ..G
RING = "S   #   G"
ROUND_LEFT, ROUND_RIGHT = "S  o# ooG", "Soo #o  G"


def random_mazes(rows: int, cols: int, count: int, seed: int, walls: float = 0.35) -> np.ndarray:
    """Random walls, one S and one G, often without a path between them; (count, L)."""
    rng = np.random.default_rng(seed)
    boards = np.where(rng.random((count, rows * cols)) < walls, WALL, FREE).astype(np.uint8)
    for board in boards:
        board[rng.choice(rows * cols, 2, replace=False)] = START, GOAL
    return boards


def graph(board: np.ndarray, rows: int, cols: int) -> nx.Graph:
    """Neighbouring cells that are no walls."""
    grid = nx.grid_2d_graph(rows, cols)
    grid.remove_nodes_from([divmod(int(i), cols) for i in np.flatnonzero(board == WALL)])
    return grid


def find(board: np.ndarray, cols: int, token: int) -> tuple[int, int]:
    row, col = divmod(int((board == token).argmax()), cols)
    return row, col


def textbook_label(board: np.ndarray, rows: int, cols: int) -> np.ndarray | None:
    """The tie-break rule in the plainest words: down, left, right, up; the first discoverer is the parent."""
    start, goal = find(board, cols, START), find(board, cols, GOAL)
    parent: dict[tuple[int, int], tuple[int, int]] = {start: start}
    queue = deque([start])
    while queue:
        r, c = queue.popleft()
        for at in [(r + 1, c), (r, c - 1), (r, c + 1), (r - 1, c)]:
            inside = 0 <= at[0] < rows and 0 <= at[1] < cols
            if inside and at not in parent and board[at[0] * cols + at[1]] != WALL:
                parent[at] = (r, c)
                queue.append(at)
    if goal not in parent:
        return None
    label, at = board.copy(), parent[goal]
    while at != start:
        label[at[0] * cols + at[1]] = PATH
        at = parent[at]
    return label


@cache
def official(split: str) -> PuzzleSet:
    return read_puzzles(shared_path(f"data/maze/maze_30x30_hard_{split}.csv.gz"), task="maze")


# -- shortest paths


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_rule_gives_every_label_of_maze_hard(split: str):
    puzzles = official(split)
    labels, cells = shortest_paths(puzzles.task, puzzles.inputs)
    assert puzzles.task == Maze(30, 30)
    assert len(puzzles) == 1000
    assert (labels == puzzles.labels).all()
    assert (cells == puzzles.facts["rating"]).all()
    assert (puzzles.facts["path_length"] == cells).all()
    assert puzzles.facts["walls"].min() >= 249
    assert puzzles.facts["walls"].max() <= 405
    assert puzzles.task.verify(puzzles.inputs, puzzles.labels).all()


@fast
@given(sides, sides, seeds)
def test_distances_equal_those_of_scipy(rows: int, cols: int, seed: int):
    for board, steps in zip(
        boards := random_mazes(rows, cols, 5, seed), distances(Maze(rows, cols), boards), strict=True
    ):
        edges = np.zeros((rows * cols, rows * cols))
        for (r, c), (i, j) in graph(board, rows, cols).edges:
            edges[r * cols + c, i * cols + j] = 1
        start = int((board == START).argmax())
        expected = shortest_path(csr_array(edges), directed=False, unweighted=True, indices=start)
        expected[np.isinf(expected)] = -1
        assert (steps == expected).all()


@fast
@given(sides, sides, seeds)
def test_labels_equal_the_rule_in_plain_words(rows: int, cols: int, seed: int):
    boards = random_mazes(rows, cols, 10, seed)
    labels, cells = shortest_paths(Maze(rows, cols), boards)
    for board, label, number in zip(boards, labels, cells, strict=True):
        expected = textbook_label(board, rows, cols)
        if expected is None:
            assert number == 0
            assert not label.any()
        else:
            assert number == (expected == PATH).sum() + 2
            assert (label == expected).all()


@pytest.mark.parametrize("seed", range(6))
def test_of_all_ways_to_mark_cells_exactly_the_shortest_paths_are_accepted(seed: int):
    rows, cols = (3, 4) if seed % 2 else (4, 3)
    board = random_mazes(rows, cols, 1, seed, walls=0.15)[0]
    free = np.flatnonzero(board == FREE)
    answers = np.tile(board, (2 ** len(free), 1))
    answers[:, free] = np.where(list(itertools.product([0, 1], repeat=len(free))), PATH, FREE)
    check = check_paths(Maze(rows, cols), np.broadcast_to(board, answers.shape), answers)

    whole = graph(board, rows, cols)
    start, goal = find(board, cols, START), find(board, cols, GOAL)
    for answer, is_path, is_shortest in zip(answers, check.is_path, check.is_shortest, strict=True):
        kept = [divmod(int(i), cols) for i in np.flatnonzero(answer >= START)]
        marks = whole.subgraph(kept)
        degrees = {at: 1 if at in (start, goal) else 2 for at in kept}
        assert is_path == (nx.is_connected(marks) and dict(marks.degree) == degrees)
        if is_path:
            assert is_shortest == (len(kept) == nx.shortest_path_length(whole, start, goal) + 1)
    if nx.has_path(whole, start, goal):
        assert check.is_shortest.sum() == len(list(nx.all_shortest_paths(whole, start, goal))) > 0
        assert (check.shortest == nx.shortest_path_length(whole, start, goal) + 1).all()


def test_an_answer_that_changes_the_maze_is_never_right():
    task, rng = Maze(5, 6), np.random.default_rng(0)
    boards = random_mazes(5, 6, 200, 1)
    labels, cells = shortest_paths(task, boards)
    boards, labels = boards[cells > 0], labels[cells > 0]
    assert task.verify(boards, labels).all()
    changed, rows = labels.copy(), np.arange(len(labels))
    at = rng.integers(0, 30, len(labels))
    changed[rows, at] = (changed[rows, at] + rng.integers(0, 4, len(labels))) % 5 + 1
    assert (changed != labels).sum(1).all()
    assert not task.verify(boards, changed).any()


# -- symmetry


@fast
@given(sides, sides, st.integers(0, COUNT - 1), seeds)
def test_every_symmetry_has_its_inverse_and_keeps_solutions(rows: int, cols: int, number: int, seed: int):
    boards = random_mazes(rows, cols, 5, seed)
    labels, cells = shortest_paths(Maze(rows, cols), boards)
    boards, labels = (tokens[cells > 0].reshape(-1, rows, cols) for tokens in (boards, labels))
    turned = transform(boards, number)
    assert (transform(turned, INVERSE[number]) == boards).all()
    task, flat = Maze(*turned.shape[1:]), (len(boards), rows * cols)
    turned_labels = transform(labels, number).reshape(flat)
    assert task.verify(turned.reshape(flat), turned_labels).all()
    assert (shortest_paths(task, turned.reshape(flat))[1] == cells[cells > 0]).all()


@fast
@given(sides, sides, seeds, st.booleans())
def test_augmented_mazes_are_the_same_up_to_symmetry_and_solved(
    rows: int, cols: int, seed: int, relabel: bool
):
    task = Maze(rows, cols, relabel)
    boards = random_mazes(rows, cols, 8, seed)
    labels, cells = shortest_paths(task, boards)
    boards, labels = boards[cells > 0], labels[cells > 0]
    new, answers = task.augment(boards, labels, np.random.default_rng(seed))
    assert task.verify(new, answers).all()
    assert task.canonical(new, answers) == task.canonical(boards, labels)
    again = task.augment(boards, labels, np.random.default_rng(seed))
    assert (again[0] == new).all()
    if relabel:
        assert (answers == shortest_paths(task, new)[0]).all()


@pytest.mark.parametrize(("rows", "cols", "group"), [(4, 4, 8), (3, 4, 4)])
def test_symmetries_are_drawn_uniformly(rows: int, cols: int, group: int):
    cells = np.arange(rows * cols, dtype=np.uint8) % 251
    boards = np.tile(cells, (8000, 1))
    new, _ = Maze(rows, cols, relabel=False).augment(boards, boards, np.random.default_rng(5))
    kinds, counts = np.unique(new, axis=0, return_counts=True)
    assert len(kinds) == group
    assert chisquare(counts).pvalue > 0.01


def test_turned_labels_break_the_rule():
    """The caveat of `relabel=False`: valid paths, but only exchanging left and right leaves most as ruled."""
    puzzles = official("test")[:200]
    kept = []
    for cells in puzzles.task.cell_orders:
        mazes, turned = puzzles.inputs[:, cells], puzzles.labels[:, cells]
        assert puzzles.task.verify(mazes, turned).all()
        kept.append((shortest_paths(puzzles.task, mazes)[0] == turned).all(1).mean())
    assert kept[0] == 1
    assert 0.8 < kept[4] < 1
    assert max(kept[1:4] + kept[5:]) < 0.02


def test_turned_labels_are_those_of_the_official_builder():
    saved = np.load(shared_path("fixtures/official_format/maze_aug8.npz"))
    task = Maze(30, 30, relabel=False)
    for name in ("inputs", "labels"):
        tokens = saved[f"train/all__{name}"].reshape(10, 8, 900)
        ours = np.stack([tokens[:, 0][:, cells] for cells in task.cell_orders], axis=1)
        assert (ours == tokens).all()


def test_canonical_keys_tell_all_boards_apart():
    """Two-coloured 3x3 boards fall into 102 classes (OEIS A054247), 2x3 boards into 24 (Burnside)."""
    for rows, cols, classes in [(3, 3, 102), (2, 3, 24)]:
        boards = np.array(list(itertools.product([1, 2], repeat=rows * cols)), np.uint8)
        assert len(set(Maze(rows, cols).canonical(boards, boards))) == classes


def test_no_official_maze_comes_twice():
    keys = [k for split in ("train", "test") for k in official(split).task.canonical(*_tokens(split))]
    assert len(set(keys)) == 2000


def _tokens(split: str) -> tuple[np.ndarray, np.ndarray]:
    puzzles = official(split)
    assert puzzles.labels is not None
    return puzzles.inputs, puzzles.labels


# -- generator


def test_generated_mazes_are_solved_long_and_all_different():
    task = Maze(12, 15)
    puzzles = generate(task, 60, 30, np.random.default_rng(0))
    assert puzzles.labels is not None
    assert task.verify(puzzles.inputs, puzzles.labels).all()
    assert (shortest_paths(task, puzzles.inputs)[0] == puzzles.labels).all()
    assert (puzzles.facts["path_length"] >= 30).all()
    assert (puzzles.facts["rating"] == puzzles.facts["path_length"]).all()
    assert len(set(task.canonical(puzzles.inputs, puzzles.labels))) == 60
    share = puzzles.facts["walls"] / task.seq_len
    assert share.min() > 0.2
    assert share.max() < 0.6


def test_one_seed_repeats_and_two_differ():
    draw = lambda seed, count: generate(Maze(8, 8), count, 15, np.random.default_rng(seed))  # noqa: E731
    assert draw(1, 40).content_hash == draw(1, 40).content_hash != draw(2, 40).content_hash


def test_generated_mazes_are_distributed_as_by_trial_and_error():
    task, least, rng = Maze(8, 8), 19, np.random.default_rng(3)
    draws = [random_mazes(8, 8, 100, seed, walls) for seed, walls in enumerate(rng.uniform(0.3, 0.5, 2000))]
    boards = np.concatenate(draws)
    labels, cells = shortest_paths(task, boards)
    tried = task.facts(boards[cells >= least], labels[cells >= least])
    made = generate(task, 500, least, rng).facts
    assert len(tried["walls"]) > 300
    for fact in ("walls", "path_length"):
        assert ks_2samp(tried[fact], made[fact]).pvalue > 0.01


def test_all_mazes_of_a_kind_are_found_and_no_more():
    """Paths of 7 cells on a 3x3 board: around the middle, with one wall in an edge or in a corner."""
    assert len(generate(Maze(3, 3), 2, 7, np.random.default_rng(0))) == 2
    with pytest.raises(UserError, match="only 2 different mazes with paths of 7 cells"):
        generate(Maze(3, 3), 3, 7, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("count", "length", "density", "message"),
    [
        (0, 5, (0.3, 0.5), "0 mazes"),
        (1, 1, (0.3, 0.5), "paths of 1 cells"),
        (1, 17, (0.3, 0.5), "expected at least 1 maze and 2 to 16"),
        (1, 5, (0.5, 0.3), "density 0.5 to 0.3"),
        (1, 5, (0.3, 1.0), "density 0.3 to 1.0"),
        (1, 15, (0.3, 0.5), "no maze with a path of 15 cells in 500,000 random boards"),
    ],
)
def test_impossible_wishes_are_refused(count: int, length: int, density: tuple[float, float], message: str):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        generate(Maze(4, 4), count, length, np.random.default_rng(0), density)
    assert "\n" not in str(error.value)


# -- text, files, pictures


def test_names_sizes_and_tokens():
    task = TASKS["maze"](900)
    assert isinstance(task, Maze)
    assert isinstance(task, TextTask)
    assert (task.name, task.seq_len, task.vocab_size, task.grid) == ("maze-30x30", 900, 6, (30, 30))
    assert Maze(2, 3).parse("S o #G").tolist() == [3, 2, 5, 2, 1, 4]
    assert Maze(2, 3).format(np.array([3, 2, 5, 0, 1, 4])) == "S o?#G"
    for wrong in (0, 899):
        with pytest.raises(UserError, match=f"no square maze has {wrong} cells"):
            TASKS["maze"](wrong)
    for rows, cols in [(0, 4), (1, 1)]:
        with pytest.raises(UserError, match=f"maze-{rows}x{cols}"):
            Maze(rows, cols)


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        (RING, ROUND_LEFT, None),
        (RING, ROUND_RIGHT, None),
        (RING, "", None),
        (RING[:-1], "", "question has 8 characters, expected 9"),
        (RING, ROUND_LEFT + " ", "answer has 10 characters, expected 9"),
        ("S   x   G", "", "question has 'x' in row 2, column 2, expected one of '# SGo'"),
        ("S   \U0001f600   G", "", "question has '\U0001f600' in row 2, column 2"),
        ("So  #   G", "", "question has a path mark 'o' in row 1, column 2"),
        ("S   # S G", "", "question has 2 cells S, expected 1"),
        ("S   #    ", "", "question has 0 cells G, expected 1"),
        ("S #  ## G", "", None),
        ("S # ### G", "", "G cannot be reached from S"),
        (RING, "S  oo ooG", "answer changes '#' in row 2, column 2 to 'o'"),
        (RING, "SooS#o  G", "answer changes ' ' in row 2, column 1 to 'S'"),
        (RING, RING, "answer's path from S ends in row 1, column 1"),
        (RING, "Soo #   G", "answer's path from S ends in row 1, column 3"),
        (RING, "Soo #oo G", "answer has path marks beside the path from S to G"),
        (RING, "Sooo#oooG", "answer's path branches in row 1, column 1"),
        ("S#G      ", "S#Gooo   ", None),
        ("S#G      ", "S#Go oooo", "answer's path has 7 cells, the shortest 5"),
    ],
)
def test_complaints(question: str, answer: str, words: str | None):
    found = Maze(3, 3).complaint(question, answer)
    assert found == words if words is None else found is not None and words in found


def test_mazes_survive_a_file(tmp_path: Path):
    """Also a board that is not square, whose rows begin and end with free cells."""
    task = Maze(4, 7)
    puzzles = generate(task, 30, 6, np.random.default_rng(0))
    assert (puzzles.inputs[:, [0, -1]] == FREE).any(0).all()
    write_puzzles(puzzles, tmp_path / "mazes.csv.gz")
    again = read_puzzles(tmp_path / "mazes.csv.gz", task=task)
    assert again.content_hash == puzzles.content_hash
    assert sorted(again.facts) == sorted(puzzles.facts)
    assert all((again.facts[name] == puzzles.facts[name]).all() for name in again.facts)


def maze_file(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["question,answer", *rows]) + "\n")
    return path


def test_a_maze_without_answer_is_labelled_by_the_rule(tmp_path: Path):
    puzzles = read_puzzles(maze_file(tmp_path / "m.csv", f"{RING},"), task="maze")
    assert puzzles.task.format(puzzles.labels[0]) == ROUND_LEFT  # down comes first


def test_any_shortest_path_is_read_unless_the_rule_is_asked_for(tmp_path: Path):
    path = maze_file(tmp_path / "m.csv", f"{RING},{ROUND_LEFT}", f"{RING},{ROUND_RIGHT}")
    assert len(read_puzzles(path, task="maze")) == 2
    with pytest.raises(UserError, match="line 3: the answer is not the one that the solver gives"):
        read_puzzles(path, task="maze", check_unique=True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f"{RING},{RING}", "answer's path from S ends in row 1, column 1"),
        ("S # ### G,", "G cannot be reached from S"),
        (f"{RING.rstrip('G')},", "question has 8 characters"),
    ],
)
def test_a_bad_row_of_a_maze_file_is_named(tmp_path: Path, row: str, words: str):
    path = maze_file(tmp_path / "m.csv", f"{RING},", row, f"{RING},")
    with pytest.raises(UserError, match=f"line 3: {words}"):
        read_puzzles(path, task="maze")


def test_render_draws_two_characters_a_cell():
    drawn = Maze(2, 3).render(Maze(2, 3).parse("S #ooG"))
    plain = re.sub("\033\\[[0-9;]*m", "", drawn)
    assert plain.splitlines() == ["┌──────┐", "│S   ██│", "│• • G │", "└──────┘"]


def test_a_drawn_maze_shows_walls_path_letters_and_changes():
    task = Maze(3, 3)
    question, answer = task.encode([RING, ROUND_LEFT])
    answer[4] = PATH  # through the wall

    def drawn() -> tuple[list[int], list[str], int, str]:
        figure = Figure()
        ax = figure.subplots()
        draw_maze(ax, task, question, answer)
        walls, path, crosses = ax.collections
        squares = [len(walls.get_paths()), len(path.get_paths())]
        letters = [text.get_text() for text in ax.texts]
        return squares, letters, len(crosses.get_offsets()), to_svg(figure, "a maze")

    assert drawn()[:3] == ([1, 3], ["S", "G"], 1)
    assert drawn()[3] == drawn()[3]


# -- a task of one's own


class Lamps(GridTask):
    """Every free cell becomes a lamp: the least a task can say."""

    kind, alphabet = "lamps", "#. ★"

    def verify(self, inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return (answers == np.where(inputs == 2, 4, inputs)).all(1)


def test_a_task_of_ones_own_needs_only_a_verifier(tmp_path: Path):
    task = Lamps.square(9)
    assert isinstance(task, Task)
    assert (task.name, task.vocab_size, task) == ("lamps-3x3", 5, Lamps(3, 3))
    path = maze_file(tmp_path / "lamps.csv", "#. ...  #,#★ ★★★  #")
    puzzles = read_puzzles(path, task=task)
    assert puzzles.labels is not None
    assert task.render(puzzles.labels[0]) == "#★ \n★★★\n  #"
    new = task.augment(puzzles.inputs, puzzles.labels, np.random.default_rng(0))
    assert task.verify(*new).all()
    with pytest.raises(UserError, match="line 2: answer breaks the rules"):
        read_puzzles(maze_file(path, "#. ...  #,#★ ★★.  #"), task=task)
    with pytest.raises(UserError, match="lamps-3x3: has no solver"):
        read_puzzles(maze_file(path, "#. ...  #,"), task=task)
