"""ARC: grids of up to 30 x 30 colours on a canvas of 900 cells.

Tokens: 0 PAD, 1 end mark (EOS), 2 to 11 = colour + 2. The end mark stands in the row below the grid and
in the column right of it, as far as these lie on the canvas; their common corner stays PAD.

Unusual: which symmetry and which colours a row gets is not drawn, it is what its puzzle identifier
names; only the place on the canvas is random. ARC has no rule that an answer could be checked against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from loopscope.errors import UserError
from loopscope.tasks.arc.files import COLOURS, SIDE
from loopscope.tasks.arc.versions import Versions
from loopscope.tasks.base import PAD, TASKS

EOS, FIRST_COLOUR = 1, 2
# The colours of the ARC web page, 0 to 9, as red, green, blue.
PALETTE = (
    (0, 0, 0),
    (0, 116, 217),
    (255, 65, 54),
    (46, 204, 64),
    (255, 220, 0),
    (170, 170, 170),
    (240, 18, 190),
    (255, 133, 27),
    (127, 219, 255),
    (135, 12, 37),
)


def encode_grid(grid: UInt8[np.ndarray, "h w"], top: int = 0, left: int = 0) -> UInt8[np.ndarray, "L"]:
    """One grid on a canvas, its upper left cell at (top, left)."""
    height, width = grid.shape
    bottom, right = top + height, left + width
    assert 0 <= top < bottom <= SIDE, (grid.shape, top)
    assert 0 <= left < right <= SIDE, (grid.shape, left)
    canvas = np.full((SIDE, SIDE), PAD, np.uint8)
    canvas[top:bottom, left:right] = grid + FIRST_COLOUR
    canvas[bottom : bottom + 1, left:right] = EOS
    canvas[top:bottom, right : right + 1] = EOS
    return canvas.reshape(-1)


@dataclass(frozen=True)
class Arc:
    """The ARC task.

    Attributes:
        versions: the version each puzzle identifier names (`parse_names(identifiers).versions`), for
            sets that hold plain rows only. None where the rows are versions already: then `augment`
            only moves grids about.
        untranslated: share of the rows that `augment` leaves in the upper left corner, where all test
            examples are. The official builder leaves one example of every puzzle there, so the share is
            1 / (mean number of examples of a puzzle), about a quarter.
    """

    versions: Versions | None = field(default=None, compare=False, repr=False)
    rules_known: ClassVar[bool] = False  # the rule is what the solver has to find
    untranslated: float = 0.25

    @property
    def name(self) -> str:
        return f"arc-{SIDE}x{SIDE}"

    @property
    def seq_len(self) -> int:
        return SIDE * SIDE

    @property
    def vocab_size(self) -> int:
        return FIRST_COLOUR + COLOURS

    @property
    def grid(self) -> tuple[int, int]:
        return SIDE, SIDE

    # -- grids

    def encode(self, grids: Sequence[UInt8[np.ndarray, "_ _"] | None]) -> UInt8[np.ndarray, "N L"]:
        """Grids to canvases, all in the upper left corner; None (unknown) becomes an empty canvas."""
        tokens = np.full((len(grids), self.seq_len), PAD, np.uint8)
        for row, grid in zip(tokens, grids, strict=True):
            if grid is not None:
                row[:] = encode_grid(grid)
        return tokens

    def crop(self, tokens: Integer[np.ndarray, "B L"]) -> Integer[np.ndarray, "B 2"]:
        """Height and width of the answer on each canvas, (0, 0) where there is none.

        The answer is the largest rectangle from the upper left corner that holds colours only; of
        several equally large ones the flattest. So an answer anywhere else on the canvas is lost.
        """
        return self._crops(self._checked(tokens))[:, 2:]

    def decode(
        self, tokens: Integer[np.ndarray, "B L"], puzzle_ids: Integer[np.ndarray, "B"] | None = None
    ) -> list[UInt8[np.ndarray, "_ _"]]:
        """The answers as grids of colours; an empty one is (0, 0) and equals no grid of a task.

        Args:
            puzzle_ids: when given, each grid is turned back from the version that its identifier names.
        """
        tokens = self._checked(tokens)
        found = self._crops(tokens)
        versions = self._plain(len(tokens)) if puzzle_ids is None else self._named(puzzle_ids)
        back = self._placed(tokens, found, versions.inverse(), np.zeros((len(tokens), 2), np.int64))
        sizes = np.where(versions.turned()[:, None], found[:, :1:-1], found[:, 2:]).tolist()
        colours = (back - FIRST_COLOUR).reshape(-1, SIDE, SIDE)  # wraps around outside the grid
        return [canvas[:h, :w].copy() for canvas, (h, w) in zip(colours, sizes, strict=True)]

    # -- symmetries (numba, imported on first use)

    def augment(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        puzzle_ids: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The version that each identifier names, moved to a random place of the canvas.

        The move is the same for input and label, and uniform over those that keep both grids on the
        canvas; with probability `untranslated` a row stays in the corner.

        Args:
            inputs, labels: canvases, (B, L); a label may be empty (all PAD).
            puzzle_ids: (B,); needed when the task has `versions`.
        Returns:
            Two arrays (B, L) uint8.
        """
        return self._moved(inputs, labels, puzzle_ids, rng)

    def as_named(
        self, inputs: np.ndarray, labels: np.ndarray, puzzle_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The version that each identifier names, in the upper left corner: how tests are shown."""
        return self._moved(inputs, labels, puzzle_ids, None)

    def _moved(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        puzzle_ids: np.ndarray | None,
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(inputs)
        inputs, labels = self._checked(inputs), self._checked(labels)
        found = [self._boxes(tokens) for tokens in (inputs, labels)]
        if self.versions is None:
            versions = self._plain(count)
        else:
            assert puzzle_ids is not None, "versions are named by puzzle identifiers: give them"
            versions = self._named(puzzle_ids)
        shifts = np.zeros((count, 2), np.int64)
        if rng is not None:
            room = np.where(versions.turned()[:, None], _room(*found)[:, ::-1], _room(*found))
            shifts = rng.integers(0, room + 1)
            shifts[rng.random(count) < self.untranslated] = 0
        pairs = zip((inputs, labels), found, strict=True)
        new_inputs, new_labels = (self._placed(tokens, box, versions, shifts) for tokens, box in pairs)
        return new_inputs, new_labels

    def canonical(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes]:
        """A key for every pair; equal if and only if a symmetry and an exchange of colours 1 to 9 (and
        a move on the canvas) map one pair to the other."""
        from loopscope.tasks.arc.kernels import canonical_pairs

        inputs, labels = self._checked(inputs), self._checked(labels)
        keys = np.empty((len(inputs), 2, self.seq_len), np.uint8)
        canonical_pairs(inputs, labels, self._boxes(inputs), self._boxes(labels), keys)
        return [key.tobytes() for key in keys]

    def verify(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> Bool[np.ndarray, "B"]:
        """Whether each answer is a grid at all. That is all that can be said without the label: the
        rule of an ARC task is what the solver has to find."""
        return self.crop(answers)[:, 0] > 0

    def _plain(self, count: int) -> Versions:
        return Versions.numbered(np.zeros(count, np.int64))

    def _named(self, puzzle_ids: np.ndarray) -> Versions:
        assert self.versions is not None, "this task knows no versions"
        assert puzzle_ids.max(initial=0) < len(self.versions.tids), "identifier without a name"
        return self.versions.rows(puzzle_ids)

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes for the compiled loops, which do not check their indices."""
        assert tokens.shape == (len(tokens), self.seq_len), tokens.shape
        assert tokens.max(initial=0) < self.vocab_size, tokens.max()
        assert tokens.min(initial=0) >= 0, tokens.min()
        return np.ascontiguousarray(tokens, np.uint8)

    def _boxes(self, tokens: np.ndarray) -> np.ndarray:
        from loopscope.tasks.arc.kernels import boxes

        found = np.empty((len(tokens), 4), np.int64)
        boxes(tokens, found)
        return found

    def _crops(self, tokens: np.ndarray) -> np.ndarray:
        from loopscope.tasks.arc.kernels import crops

        found = np.empty((len(tokens), 4), np.int64)
        crops(tokens, found)
        return found

    def _placed(
        self, tokens: np.ndarray, box: np.ndarray, versions: Versions, shifts: np.ndarray
    ) -> np.ndarray:
        from loopscope.tasks.arc.kernels import place

        new = np.empty_like(tokens)
        place(tokens, np.arange(len(tokens)), box, *versions, shifts, new)
        return new

    # -- text

    def render(self, tokens: Integer[np.ndarray, "L"]) -> str:
        """The canvas as text up to its last coloured row and column: digits on their colours.

        End marks are `.`, PAD is a space. The colours are ANSI codes, which `click.echo` drops when the
        output is no terminal; the digits stay.
        """
        canvas = np.asarray(tokens).reshape(SIDE, SIDE)
        rows, cols = np.nonzero(canvas >= FIRST_COLOUR)
        if not len(rows):
            return "(no grid)"
        shown = canvas[: rows.max() + 1, : cols.max() + 1].tolist()
        return "\n".join("".join(map(_painted, row)) for row in shown)


def _painted(token: int) -> str:
    if token < FIRST_COLOUR:
        return " ."[token] + " "
    red, green, blue = PALETTE[token - FIRST_COLOUR]
    ink = 30 if red + green + blue > 380 else 97  # black or white, whichever can be read
    return f"\033[48;2;{red};{green};{blue};{ink}m{token - FIRST_COLOUR} \033[0m"


def _room(box_in: np.ndarray, box_out: np.ndarray) -> Integer[np.ndarray, "B 2"]:
    """How far a pair can be moved down and right."""
    return SIDE - np.maximum(box_in[:, 2:], box_out[:, 2:])


@TASKS.register("arc")
def arc_for(cells: int) -> Arc:
    """The one canvas there is, 30 x 30.

    Raises:
        UserError: another number of cells.
    """
    if cells != SIDE * SIDE:
        raise UserError(f"an ARC canvas has {SIDE * SIDE} cells, not {cells}. Check the task and the file.")
    return Arc()
