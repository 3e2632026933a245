"""Puzzle files: round trip, and one clear line for everything that can be wrong."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.tasks import Sudoku, read_puzzles, write_puzzles
from shared import shared_path

QUESTION = ".47.5....6.9.3.4..53..........9..6.....3.6.82.....5.4.79...4..64.37......56.9...."
ANSWER = "247659318689137425531482967874921653915346782362875149798514236423768591156293874"
HEADER = "source,question,answer,rating"
GOOD = f"mine,{QUESTION},{ANSWER},22"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def changed(text: str, cell: int, symbol: str) -> str:
    return text[:cell] + symbol + text[cell + 1 :]


BAD_ROWS = {
    f"mine,{QUESTION[:-1]},{ANSWER},1": "question has 80 characters, expected 81",
    f"mine,{QUESTION},{ANSWER}1,1": "answer has 82 characters, expected 81",
    f"mine, {QUESTION},{ANSWER},1": "question has 82 characters",  # never stripped
    f"mine,{changed(QUESTION, 9, 'x')},{ANSWER},1": "question has 'x' in row 2, column 1",
    f"mine,{changed(QUESTION, 0, 'é')},{ANSWER},1": "question has 'é' in row 1, column 1",
    f"mine,{changed(QUESTION, 8, '7')},{ANSWER},1": "two 7s in row 1",
    f"mine,{changed(QUESTION, 8, '7')},,1": "two 7s in row 1",
    f"mine,{QUESTION},{changed(ANSWER, 1, '5')},1": "answer changes the given 4 in row 1, column 2 to 5",
    f"mine,{QUESTION},{changed(ANSWER, 0, '.')},1": "answer leaves 1 cell blank",
    f"mine,{QUESTION},{changed(ANSWER, 0, '5')},1": "answer has two 5s in row 1",
    f"mine,{QUESTION},{ANSWER},hard": "rating is 'hard', expected a whole number",
    f"mine,{QUESTION},{ANSWER}": "has 3 fields, the header 4",
    f"mine,12345678.........9{'.' * 63},,1": "the puzzle has no solution",
    f"mine,{'.' * 81},,1": "the puzzle has several solutions",
}


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.items())
def test_a_bad_row_is_named_with_its_line_and_its_fault(tmp_path: Path, row: str, problem: str):
    path = write(tmp_path / "p.csv", GOOD, row, GOOD)
    with pytest.raises(UserError) as error:
        read_puzzles(path)
    message = str(error.value)
    assert message.startswith(f"{path} line 3: ")
    assert problem in message
    assert message.endswith("Fix the row or pass --skip-invalid.")
    assert "\n" not in message


def test_skip_invalid_leaves_the_bad_rows_out_and_says_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "p.csv", GOOD, *BAD_ROWS, GOOD)
    with caplog.at_level(logging.WARNING, logger="loopscope"):
        puzzles = read_puzzles(path, skip_invalid=True)
    assert len(puzzles) == 2
    assert (puzzles.labels == puzzles.task.parse(ANSWER)).all()
    assert f"skipped {len(BAD_ROWS)} of {len(BAD_ROWS) + 2} rows" in caplog.text


def test_all_rows_invalid_is_an_error(tmp_path: Path):
    path = write(tmp_path / "p.csv", f"mine,{QUESTION},{ANSWER},hard")
    with pytest.raises(UserError, match="all 1 rows are invalid"):
        read_puzzles(path, skip_invalid=True)


def test_check_unique_finds_a_second_solution(tmp_path: Path):
    path = write(tmp_path / "p.csv", GOOD, f"mine,{'.' * 81},{ANSWER},1")
    assert len(read_puzzles(path)) == 2
    with pytest.raises(UserError, match="line 3: the puzzle has several solutions"):
        read_puzzles(path, check_unique=True)


def test_an_empty_answer_is_solved(tmp_path: Path):
    puzzles = read_puzzles(write(tmp_path / "p.csv", f"mine,{QUESTION},,", GOOD[:-2]))
    assert (puzzles.labels == puzzles.task.parse(ANSWER)).all()
    assert "rating" not in puzzles.facts  # the column is empty


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.csv", b"", "is empty"),
        ("p.csv", b"source,question,answer,rating\n", "holds no rows"),
        ("p.csv", b"source,question,rating\na,b,1\n", "no column answer"),
        ("p.csv", f"{GOOD}\n".encode(), "no column question"),
        ("p.csv", b"question;answer\n1;2\n", "Put commas between the columns"),
        ("p.csv", b"question,answer\n1,2,3\n4,5,6\n", "line 2: has 3 fields, the header 2"),
        ("p.csv", gzip.compress(b"abc" * 100), "must end in .gz"),
        ("p.csv.gz", f"{HEADER}\n{GOOD}\n".encode(), "not readable as gzip"),
        ("p.csv.gz", gzip.compress(f"{HEADER}\n{GOOD}\n".encode())[:-12], "cut off"),
        ("p.csv", f"{HEADER}\nmine,123,321,1\n".encode(), "no Sudoku board has 3 cells"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, problem: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        read_puzzles(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="no such puzzle file"):
        read_puzzles(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="no puzzle folder"):
        read_puzzles(tmp_path)
    with pytest.raises(UserError, match="Did you mean sudoku"):
        read_puzzles(write(tmp_path / "p.csv", GOOD), task="sudko")


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_round_trip(tmp_path: Path, name: str):
    puzzles = read_puzzles(write(tmp_path / "in.csv", GOOD, GOOD.replace("22", "7")))
    write_puzzles(puzzles, tmp_path / name)
    again = read_puzzles(tmp_path / name)
    assert again.content_hash == puzzles.content_hash
    assert again.facts["rating"].tolist() == [22, 7]
    assert again.facts["source"].tolist() == ["mine", "mine"]
    assert again.facts["givens"].tolist() == [sum(c != "." for c in QUESTION)] * 2


def test_other_boards_follow_from_the_row_length(tmp_path: Path):
    path = write(tmp_path / "p.csv", "1234341221434321,1234341221434321", header="question,answer")
    puzzles = read_puzzles(path)
    assert puzzles.task == Sudoku(2, 2)
    assert set(puzzles.facts) == {"givens"}
    assert read_puzzles(path, task=Sudoku(2, 2)).content_hash == puzzles.content_hash


def test_written_bytes_are_the_same_twice(tmp_path: Path):
    puzzles = read_puzzles(write(tmp_path / "in.csv", GOOD))
    write_puzzles(puzzles, tmp_path / "a.csv.gz")
    write_puzzles(puzzles, tmp_path / "b.csv.gz")
    content = (tmp_path / "a.csv.gz").read_bytes()
    assert content == (tmp_path / "b.csv.gz").read_bytes()
    assert content[3:8] == bytes(5)  # gzip header: no file name, no time stamp


def test_real_files(tmp_path: Path):
    path = shared_path("data/sudoku/sudoku_extreme_1k_train.csv.gz")
    puzzles = read_puzzles(path)
    assert len(puzzles) == 1000
    assert puzzles.facts["rating"].mean() == pytest.approx(
        21.1, abs=0.05
    )  # as the data's own description says
    assert puzzles.facts["givens"].mean() == pytest.approx(25.28, abs=0.005)
    assert (puzzles.facts["source"][:2] == ["01_file1", "puzzles4_forum_hardest_1905"]).all()
    assert read_puzzles(path, limit=10).content_hash == puzzles[:10].content_hash
    write_puzzles(puzzles, tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == gzip.decompress(path.read_bytes())


def test_token_values_match_the_official_builder():
    """The recorded output of the official builder holds version 0 of each puzzle unchanged."""
    official = np.load(shared_path("fixtures/official_format/sudoku.npz"))
    for split, every in [("test", 1), ("train", 4)]:
        puzzles = read_puzzles(shared_path(f"fixtures/official_format/sudoku_source_{split}.csv"))
        assert (puzzles.inputs == official[f"{split}/all__inputs"][::every]).all()
        assert (puzzles.labels == official[f"{split}/all__labels"][::every]).all()
