"""Sudoku of any box shape: tokens, rules, symmetries, text boards.

Unusual: boxes may be oblong (2x3 boxes make a 6x6 board), rules are checked for whole batches with
bit masks, and what needs numba (augmentation, search) is imported on first use, because loading
numba costs more than everything else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK, PAD, TASKS

FIRST_DIGIT = BLANK + 1  # token of digit 1
DIGITS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNKNOWN = 255  # what `encode` writes for a character that means nothing here


@dataclass(frozen=True)
class Sudoku:
    """Sudoku on a board of side `box_rows * box_cols`.

    Tokens: 0 PAD, 1 blank, 2 and up = digit + 1.

    Attributes:
        box_rows: rows of one box; also the number of boxes side by side.
        box_cols: columns of one box; also the number of boxes above each other.
    """

    box_rows: int = 3
    box_cols: int = 3

    def __post_init__(self) -> None:
        if min(self.box_rows, self.box_cols) < 1 or not 2 <= self.side <= len(DIGITS):
            raise UserError(
                f"sudoku boxes of {self.box_rows}x{self.box_cols}: expected a side of 2 to {len(DIGITS)}. "
                "Choose box_rows and box_cols whose product lies there."
            )

    @property
    def name(self) -> str:
        return f"sudoku-{self.box_rows}x{self.box_cols}"

    @property
    def side(self) -> int:
        """Rows, columns and digits of the board, n."""
        return self.box_rows * self.box_cols

    @property
    def seq_len(self) -> int:
        return self.side**2

    @property
    def vocab_size(self) -> int:
        return self.side + FIRST_DIGIT

    @property
    def grid(self) -> tuple[int, int]:
        return self.side, self.side

    @cached_property
    def unit_of_cell(self) -> np.ndarray:
        """Row, column and box number of every cell, (3, L) int64."""
        row, col = np.divmod(np.arange(self.seq_len), self.side)
        box = row // self.box_rows * self.box_rows + col // self.box_cols
        return np.stack([row, col, box])

    # -- text

    @cached_property
    def _token_of_byte(self) -> np.ndarray:
        table = np.full(256, UNKNOWN, np.uint8)
        table[[ord("."), ord("0")]] = BLANK
        for token, digit in enumerate(DIGITS[: self.side], start=FIRST_DIGIT):
            table[ord(digit)] = token
        return table

    def encode(self, texts: Sequence[str]) -> UInt8[np.ndarray, "N L"]:
        """Texts of exactly `seq_len` characters to tokens; an unknown character becomes 255."""
        raw = "".join(texts).encode("latin-1", errors="replace")
        return self._token_of_byte[np.frombuffer(raw, np.uint8)].reshape(len(texts), self.seq_len)

    def parse(self, text: str) -> UInt8[np.ndarray, "L"]:
        """One board from text: `.` or `0` is blank, digits are 1-9, then A-Z.

        Raises:
            UserError: wrong length or an unknown character.
        """
        if problem := self._misspelt(text):
            raise UserError(f"{problem}. Give {self.seq_len} characters, row by row, `.` for a blank cell.")
        return self.encode([text])[0]

    def format(self, tokens: Integer[np.ndarray, "L"]) -> str:
        """Inverse of `parse`; PAD and blank become `.`."""
        symbols = ".." + DIGITS[: self.side]
        return "".join(symbols[t] for t in tokens)

    def render(self, tokens: Integer[np.ndarray, "L"], givens: Integer[np.ndarray, "L"] | None = None) -> str:
        """One board as text with box lines.

        With `givens`, the clues are set in bold (ANSI codes, which `click.echo` drops when the
        output is no terminal).
        """
        symbols = list(self.format(tokens))
        if givens is not None:
            bold = np.asarray(givens) >= FIRST_DIGIT
            symbols = [f"\033[1m{s}\033[0m" if b else s for s, b in zip(symbols, bold, strict=True)]
        rows = [self._framed(symbols[i : i + self.side]) for i in range(0, self.seq_len, self.side)]
        lines = [self._rule("┌┬┐")]
        for i, row in enumerate(rows):
            if i and i % self.box_rows == 0:
                lines.append(self._rule("├┼┤"))
            lines.append(row)
        return "\n".join([*lines, self._rule("└┴┘")])

    def _framed(self, symbols: list[str]) -> str:
        boxes = [" ".join(symbols[i : i + self.box_cols]) for i in range(0, self.side, self.box_cols)]
        return "│ " + " │ ".join(boxes) + " │"

    def _rule(self, joints: str) -> str:
        left, middle, right = list(joints)
        return left + middle.join(["─" * (2 * self.box_cols + 1)] * self.box_rows) + right

    # -- rules

    def conflicts(self, tokens: Integer[np.ndarray, "B L"]) -> Bool[np.ndarray, "B L"]:
        """Cells whose digit stands a second time in their row, column or box. Blanks never conflict."""
        digit = tokens >= FIRST_DIGIT
        clash = np.zeros(tokens.shape, bool)
        board = np.arange(len(tokens))[:, None]
        for unit in self.unit_of_cell:
            key = (board * self.side + unit) * self.vocab_size + tokens
            clash |= np.bincount(key.ravel())[key] > 1 if key.size else False
        return clash & digit

    def valid(self, answers: Integer[np.ndarray, "B L"]) -> Bool[np.ndarray, "B"]:
        """Whether every row, column and box holds each digit once; givens are not looked at."""
        n, r, c = self.side, self.box_rows, self.box_cols
        bit = np.zeros(256, np.uint64)
        bit[FIRST_DIGIT : n + FIRST_DIGIT] = np.uint64(1) << np.arange(n, dtype=np.uint64)
        board = bit[answers].reshape(-1, n // r, r, n // c, c)
        everything = np.uint64(2**n - 1)
        seen = (np.bitwise_or.reduce(board, axis) for axis in [(3, 4), (1, 2), (2, 4)])
        whole = [(units.reshape(-1, n) == everything).all(1) for units in seen]
        return np.logical_and.reduce(whole)

    def givens_kept(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> Bool[np.ndarray, "B"]:
        """Whether every clue stands unchanged in the answer."""
        return ((inputs < FIRST_DIGIT) | (inputs == answers)).all(1)

    def verify(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> Bool[np.ndarray, "B"]:
        """Whether each answer keeps the clues and obeys the rules; needs no labels."""
        return self.givens_kept(inputs, answers) & self.valid(answers)

    def checks(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> dict[str, Bool[np.ndarray, "B"]]:
        """What can be said of answers without labels: a full grid may be `valid` with other clues."""
        kept, valid = self.givens_kept(inputs, answers), self.valid(answers)
        return {"verified": kept & valid, "valid": valid, "givens_kept": kept}

    def unfilled(self, inputs: Integer[np.ndarray, "B L"]) -> Bool[np.ndarray, "B L"]:
        """Cells that the question leaves open."""
        return inputs == BLANK

    def givens(self, inputs: Integer[np.ndarray, "B L"]) -> Integer[np.ndarray, "B"]:
        """Number of clues of each puzzle."""
        return (inputs >= FIRST_DIGIT).sum(1, dtype=np.int32)

    def facts(
        self, inputs: Integer[np.ndarray, "B L"], labels: Integer[np.ndarray, "B L"]
    ) -> dict[str, np.ndarray]:
        """What a puzzle file does not say: the number of `givens`."""
        return {"givens": self.givens(inputs)}

    # -- what is wrong, in words

    def complaint(self, question: str, answer: str = "") -> str | None:
        """What is wrong with a puzzle given as text, in a few words; None when nothing is.

        An empty answer is not checked. Whether the puzzle has a solution is not looked at here.
        """
        for what, text in [("question", question), ("answer", answer)][: 2 if answer else 1]:
            if problem := self._misspelt(text):
                return f"{what} {problem}"
        if twice := self._twice(self.encode([question])[0]):
            return twice
        return self._wrong_answer(question, answer) if answer else None

    def _misspelt(self, text: str) -> str | None:
        if len(text) != self.seq_len:
            return f"has {len(text)} characters, expected {self.seq_len}"
        for i, symbol in enumerate(text):
            if symbol not in ".0" + DIGITS[: self.side]:
                row, col = divmod(i, self.side)
                return f"has {symbol!r} in row {row + 1}, column {col + 1}, expected . or {_span(self.side)}"
        return None

    def _twice(self, tokens: np.ndarray) -> str | None:
        for kind, unit in zip(("row", "column", "box"), self.unit_of_cell, strict=True):
            for number in range(self.side):
                counts = np.bincount(tokens[unit == number], minlength=self.vocab_size)[FIRST_DIGIT:]
                if counts.max() > 1:
                    return f"{_number(int(counts.max()))} {DIGITS[counts.argmax()]}s in {kind} {number + 1}"
        return None

    def _wrong_answer(self, question: str, answer: str) -> str | None:
        given, found = self.encode([question, answer])
        changed = np.flatnonzero((given >= FIRST_DIGIT) & (given != found))
        if len(changed):
            row, col = divmod(int(changed[0]), self.side)
            was, became = question[changed[0]], answer[changed[0]]
            return f"answer changes the given {was} in row {row + 1}, column {col + 1} to {became}"
        if blanks := int((found == BLANK).sum()):
            return f"answer leaves {blanks} cell{'s' if blanks > 1 else ''} blank"
        twice = self._twice(found)
        return f"answer has {twice}" if twice else None

    # -- search and symmetry (numba, imported on first use)

    def augment(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        puzzle_ids: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random symmetry for every row, the same for input and label; uniform over the whole group.

        Digits, bands, rows in a band, stacks, columns in a stack, and for square boxes transposition.

        Args:
            inputs, labels: tokens, (B, L).
            puzzle_ids: not looked at.
        Returns:
            Two arrays (B, L) uint8.
        """
        from loopscope.tasks.sudoku.symmetry import augment

        return augment(self, inputs, labels, rng)

    def views(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random symmetries, the identity first: `new[i] = tokens[old[cells[i]]]`.

        Returns:
            The new token of each token, (count, V), and the cell each new cell takes its content from,
            (count, L).
        """
        tokens, cells = [np.arange(self.vocab_size)], [np.arange(self.seq_len)]
        if count > 1:
            from loopscope.tasks.sudoku.symmetry import random_symmetry

            drawn = [random_symmetry(self, rng) for _ in range(count - 1)]
            tokens, cells = tokens + [s.digits for s in drawn], cells + [s.cells for s in drawn]
        return np.stack(tokens), np.stack(cells)

    def canonical(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes]:
        """A key for every solved puzzle; equal keys mean equal up to the whole symmetry group."""
        from loopscope.tasks.sudoku.symmetry import canonical_form

        clues, solved = canonical_form(self, inputs, labels)
        return [c.tobytes() + s.tobytes() for c, s in zip(clues, solved, strict=True)]

    def invariant(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """A number (N,) uint64 for every solved puzzle that no symmetry changes.

        Two rounds of colour refinement: a cell's colour is whether it is given, then what colours share its
        row, column, box and digit. Puzzles that are not symmetric nearly always differ in it.
        """
        cells = _mixed(inputs >= FIRST_DIGIT)
        for _ in range(2):
            row, col, box = (_summed(cells, np.broadcast_to(u, cells.shape)) for u in self.unit_of_cell)
            digit = _summed(cells, labels - FIRST_DIGIT)
            # Transposition exchanges rows and columns: their sum does not tell which is which.
            lines = row + col if self.box_rows == self.box_cols else row + np.uint64(3) * col
            cells = _mixed(cells ^ _mixed(lines) ^ _mixed(box + np.uint64(1)) ^ _mixed(digit + np.uint64(2)))
        return cells.sum(1)

    def solutions(self, inputs: np.ndarray, limit: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """A solution of each puzzle, (B, L) uint8, and their number counted up to `limit`, (B,)."""
        from loopscope.tasks.sudoku.solver import solve

        return solve(self, inputs, limit)[:2]


def _summed(colours: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """For every cell (N, L) the sum of the colours in its unit; unit numbers 0..n-1 are (N, L)."""
    side = round(colours.shape[1] ** 0.5)
    key = np.arange(len(colours))[:, None] * side + unit
    sums = np.zeros(len(colours) * side, np.uint64)
    np.add.at(sums, key.ravel(), colours.ravel())
    return sums[key]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Every number as a 64-bit hash of it (the finaliser of splitmix64)."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _span(side: int) -> str:
    return f"1-{side}" if side <= 9 else f"1-9 or A-{DIGITS[side - 1]}" if side > 10 else "1-9 or A"


def _number(count: int) -> str:
    return {2: "two", 3: "three"}.get(count, str(count))


_BOXES = {
    4: (2, 2),
    6: (2, 3),
    8: (2, 4),
    9: (3, 3),
    10: (2, 5),
    12: (3, 4),
    15: (3, 5),
    16: (4, 4),
    25: (5, 5),
}


@TASKS.register("sudoku")
def sudoku_for(cells: int) -> Sudoku:
    """The usual board with that many cells: 16 -> 2x2 boxes, 36 -> 2x3, 81 -> 3x3, 256 -> 4x4.

    Raises:
        UserError: no usual board has that many cells. Build `Sudoku(box_rows, box_cols)` yourself.
    """
    side = round(cells**0.5)
    if side * side != cells or side not in _BOXES:
        known = ", ".join(str(n * n) for n in _BOXES)
        raise UserError(f"no Sudoku board has {cells} cells, expected one of {known}. Check the row length.")
    return Sudoku(*_BOXES[side])


__all__ = ["BLANK", "DIGITS", "FIRST_DIGIT", "PAD", "UNKNOWN", "Sudoku", "sudoku_for"]
