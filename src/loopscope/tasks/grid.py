"""What a puzzle on a rectangular board needs when every cell holds one character.

A task of your own is a subclass with a `kind`, an `alphabet` and a `verify`; text, pictures, symmetries and
keys come from here. For example:

    class Lamps(GridTask):
        kind, alphabet = "lamps", "#. *"

        def verify(self, inputs, answers): ...

    TASKS.register("lamps")(Lamps.square)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from loopscope.errors import UserError
from loopscope.tasks import dihedral

Board = TypeVar("Board", bound="GridTask")
UNKNOWN = 255  # what `encode` writes for a character that means nothing here
KEEP_ANY_SHAPE = (0, 2, 4, 5)  # symmetries that map an oblong board to itself


@dataclass(frozen=True)
class GridTask(ABC):
    """A kind of puzzle on a board of `rows` by `cols` cells.

    Tokens: 0 PAD, 1 and up = place of the character in `alphabet`, counted from 1.

    Attributes:
        rows, cols: size of the board.
        kind: first part of the name: "maze" in "maze-30x30".
        alphabet: every character that a question or an answer may hold.
    """

    rows: int
    cols: int
    kind: ClassVar[str]
    alphabet: ClassVar[str]

    def __post_init__(self) -> None:
        assert 0 < len(set(self.alphabet)) == len(self.alphabet) < UNKNOWN, "alphabet: characters repeat"
        if min(self.rows, self.cols) < 1:
            raise UserError(f"{self.name}: expected at least 1 row and 1 column. Choose a larger board.")

    @classmethod
    def square(cls: type[Board], cells: int) -> Board:
        """The square board with that many cells.

        Raises:
            UserError: the number of cells is not a square.
        """
        side = math.isqrt(cells)
        if cells < 1 or side * side != cells:
            raise UserError(
                f"no square {cls.kind} has {cells} cells, expected a square number such as "
                f"{(side + 1) ** 2}. Check the row length."
            )
        return cls(side, side)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.rows}x{self.cols}"

    @property
    def seq_len(self) -> int:
        return self.rows * self.cols

    @property
    def vocab_size(self) -> int:
        return 1 + len(self.alphabet)

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows, self.cols

    # -- rules

    @abstractmethod
    def verify(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> Bool[np.ndarray, "B"]:
        """Whether each answer obeys the rules and keeps what the question gives; needs no labels."""

    # -- text

    @cached_property
    def _token_of_code(self) -> np.ndarray:
        """Token by code point; the last entry stands for every greater one."""
        codes = [ord(symbol) for symbol in self.alphabet]
        table = np.full(max(codes) + 2, UNKNOWN, np.uint8)
        table[codes] = np.arange(1, self.vocab_size)
        return table

    def encode(self, texts: Sequence[str]) -> UInt8[np.ndarray, "N L"]:
        """Texts of exactly `seq_len` characters to tokens; a foreign character becomes 255."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens = self._token_of_code[np.minimum(codes, len(self._token_of_code) - 1)]
        return tokens.reshape(len(texts), self.seq_len)

    def parse(self, text: str) -> UInt8[np.ndarray, "L"]:
        """One board from text, row by row, without line ends.

        Raises:
            UserError: wrong length or a foreign character.
        """
        if problem := self.misspelt(text):
            raise UserError(f"{self.name}: text {problem}. Give {self.seq_len} characters, row by row.")
        return self.encode([text])[0]

    def format(self, tokens: Integer[np.ndarray, "L"]) -> str:
        """Inverse of `parse`; PAD becomes `?`."""
        symbols = "?" + self.alphabet
        return "".join(symbols[t] for t in tokens)

    def render(self, tokens: Integer[np.ndarray, "L"]) -> str:
        """One board as text, a line for each row."""
        text = self.format(tokens)
        return "\n".join(text[i : i + self.cols] for i in range(0, self.seq_len, self.cols))

    def place(self, cell: int) -> str:
        """Where a cell is, in words, counted from 1."""
        row, col = divmod(int(cell), self.cols)
        return f"row {row + 1}, column {col + 1}"

    # -- puzzle files

    def misspelt(self, text: str) -> str | None:
        """Whether a text has the wrong length or a foreign character, in a few words."""
        if len(text) != self.seq_len:
            return f"has {len(text)} characters, expected {self.seq_len}"
        for cell, symbol in enumerate(text):
            if symbol not in self.alphabet:
                return f"has {symbol!r} in {self.place(cell)}, expected one of {self.alphabet!r}"
        return None

    def complaint(self, question: str, answer: str = "") -> str | None:
        """What is wrong with a puzzle given as text, in a few words; an empty answer is not checked."""
        for what, text in [("question", question), ("answer", answer)][: 2 if answer else 1]:
            if problem := self.misspelt(text):
                return f"{what} {problem}"
        if answer and not self.verify(self.encode([question]), self.encode([answer]))[0]:
            return "answer breaks the rules"
        return None

    def facts(
        self, inputs: Integer[np.ndarray, "B L"], labels: Integer[np.ndarray, "B L"]
    ) -> dict[str, np.ndarray]:
        """What can be counted on each solved puzzle, by name, (B,) each; nothing unless a task says so."""
        return {}

    def solutions(
        self, inputs: Integer[np.ndarray, "B L"], limit: int = 2
    ) -> tuple[UInt8[np.ndarray, "B L"], Int[np.ndarray, "B"]]:
        """A solution of each puzzle and their number up to `limit`; a task without a solver refuses.

        Raises:
            UserError: always, unless the task brings a solver.
        """
        raise UserError(
            f"{self.name}: has no solver. Give every puzzle its answer, and do not count solutions."
        )

    # -- symmetry

    @property
    def symmetries(self) -> tuple[int, ...]:
        """Numbers (see `dihedral`) of the symmetries that keep the rules and the shape of the board."""
        return tuple(range(dihedral.COUNT)) if self.rows == self.cols else KEEP_ANY_SHAPE

    @cached_property
    def cell_orders(self) -> Int[np.ndarray, "S L"]:
        """The cell that each new cell takes its content from, one row per entry of `symmetries`."""
        board = np.arange(self.seq_len).reshape(self.grid)
        return np.stack([dihedral.transform(board, number).ravel() for number in self.symmetries])

    def augment(
        self,
        inputs: Integer[np.ndarray, "B L"],
        labels: Integer[np.ndarray, "B L"],
        rng: np.random.Generator,
        puzzle_ids: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A uniformly random symmetry for every row, the same for input and label.

        Args:
            inputs, labels: tokens, (B, L).
            puzzle_ids: not looked at.
        Returns:
            Two arrays (B, L) of the dtypes given.
        """
        drawn = rng.integers(len(self.cell_orders), size=len(inputs))
        cells = self.cell_orders[drawn]
        return np.take_along_axis(inputs, cells, 1), np.take_along_axis(labels, cells, 1)

    def views(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Integer[np.ndarray, "K V"], Integer[np.ndarray, "K L"]]:
        """Different symmetries in random order, the identity first: `new[i] = tokens[old[cells[i]]]`.

        Returns:
            The new token of each token, and the cell each new cell takes its content from, a row per view.
        Raises:
            UserError: the board has fewer symmetries.
        """
        turns = [i for i, number in enumerate(self.symmetries) if number != 0]
        if count > 1 + len(turns):
            raise UserError(
                f"views={count}: {self.name} has {1 + len(turns)} symmetries. Ask for that many at most."
            )
        cells = self.cell_orders[rng.permutation(turns)[: count - 1].astype(int)]
        tokens = np.arange(self.vocab_size)
        return np.tile(tokens, (count, 1)), np.concatenate([np.arange(self.seq_len)[None], cells])

    def canonical(
        self, inputs: Integer[np.ndarray, "B L"], labels: Integer[np.ndarray, "B L"]
    ) -> list[bytes]:
        """A key for every puzzle, equal if and only if a symmetry maps one question to the other.

        It is the least of all symmetric copies of the question, cell by cell. Labels are not looked at:
        a question that comes twice is the same puzzle whatever its answers are.
        """
        least = np.ascontiguousarray(inputs, np.uint8)
        rows = np.arange(len(least))
        for cells in self.cell_orders:
            copy = inputs[:, cells].astype(np.uint8)
            first = (copy != least).argmax(1)  # 0 where they agree: then nothing is less
            less = copy[rows, first] < least[rows, first]
            least = np.where(less[:, None], copy, least)
        return [row.tobytes() for row in least]
