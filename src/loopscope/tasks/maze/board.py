"""Mazes of any size: tokens, rules, symmetries, text boards.

Unusual: a maze has many shortest paths and the rules accept any of them; a fixed tie-break (see `paths`)
makes one of them *the* label. What needs numba is imported on first use, because loading numba costs more
than everything else here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from loopscope.errors import UserError
from loopscope.tasks.base import TASKS
from loopscope.tasks.grid import GridTask

if TYPE_CHECKING:
    from loopscope.tasks.maze.paths import PathCheck

WALL, FREE, START, GOAL, PATH = range(1, 6)  # tokens, in the order of the alphabet
DRAWN = ("??", "██", "  ", "S ", "G ", "• ")  # two characters a cell, so that cells look square
COLOURS = {START: "1;32", GOAL: "1;31", PATH: "34"}  # ANSI: bold green, bold red, blue


@dataclass(frozen=True)
class Maze(GridTask):
    """Find a shortest path from S to G.

    Tokens: 0 PAD, 1 wall `#`, 2 free (a space), 3 start `S`, 4 goal `G`, 5 path `o` (in answers only).

    Attributes:
        rows, cols: size of the board.
        relabel: what `augment` does with labels. True recomputes them, so that every label follows the
            tie-break rule that test labels follow too. False turns them with the maze, as the official
            builder does with `--aug`: a label that was turned is still a shortest path, but another than the
            rule's. On Maze-Hard 90 % of the labels keep the rule when left and right are exchanged, none
            under the six other symmetries: the model is taught tie-breaks that the test set contradicts.
    """

    relabel: bool = True
    kind: ClassVar[str] = "maze"
    alphabet: ClassVar[str] = "# SGo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seq_len < 2:
            raise UserError(f"{self.name}: has no room for S and G. Choose a larger board.")

    def render(self, tokens: Integer[np.ndarray, "L"]) -> str:
        """One maze as text in a frame; S, G and path in colour (ANSI codes, which `click.echo` drops
        when the output is no terminal)."""
        cells = [
            f"\033[{COLOURS[t]}m{DRAWN[t]}\033[0m" if t in COLOURS else DRAWN[t]
            for t in np.asarray(tokens).tolist()
        ]
        rows = ["".join(cells[i : i + self.cols]) for i in range(0, self.seq_len, self.cols)]
        rule = "─" * (2 * self.cols)
        return "\n".join([f"┌{rule}┐", *(f"│{row}│" for row in rows), f"└{rule}┘"])

    # -- rules

    def check_paths(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> PathCheck:
        """Whether each answer marks a path from S to G, of which length, and how long the shortest is."""
        from loopscope.tasks.maze.paths import check_paths

        return check_paths(self, inputs, answers)

    def verify(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> Bool[np.ndarray, "B"]:
        """Whether each answer keeps the maze and marks a shortest path, any of them; needs no labels."""
        return self.check_paths(inputs, answers).is_shortest

    def checks(
        self, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
    ) -> dict[str, Bool[np.ndarray, "B"]]:
        """What can be said of answers without labels: is S joined to G by marks (`valid_path`), are the
        marks one path and nothing else (`clean_path`), and is that as short as can be (`shortest_path`)."""
        found = self.check_paths(inputs, answers)
        return {
            "valid_path": found.is_joined,
            "clean_path": found.is_path,
            "shortest_path": found.is_shortest,
        }

    def unfilled(self, inputs: Integer[np.ndarray, "B L"]) -> Bool[np.ndarray, "B L"]:
        """Cells that the question leaves open: the free ones."""
        return inputs == FREE

    def solutions(
        self, inputs: Integer[np.ndarray, "B L"], limit: int = 2
    ) -> tuple[UInt8[np.ndarray, "B L"], Int[np.ndarray, "B"]]:
        """The label of each maze by the tie-break rule (PAD where G cannot be reached), and 1 or 0.

        Shortest paths are hardly ever unique, so they are not counted: the rule makes one of them the
        answer, and the number says only whether there is one.
        """
        from loopscope.tasks.maze.paths import shortest_paths

        labels, cells = shortest_paths(self, inputs)
        return labels, (cells > 0).astype(np.int32)

    def facts(
        self, inputs: Integer[np.ndarray, "B L"], labels: Integer[np.ndarray, "B L"]
    ) -> dict[str, np.ndarray]:
        """`path_length`: cells of the labelled path with S and G; `walls`: number of wall cells."""
        return {
            "path_length": (labels == PATH).sum(1, dtype=np.int32) + np.int32(2),
            "walls": (inputs == WALL).sum(1, dtype=np.int32),
        }

    # -- symmetry

    def augment(
        self,
        inputs: Integer[np.ndarray, "B L"],
        labels: Integer[np.ndarray, "B L"],
        rng: np.random.Generator,
        puzzle_ids: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A uniformly random turn or mirror image of every maze; its label as `relabel` says.

        Args:
            inputs, labels: tokens, (B, L); labels are shortest paths.
            puzzle_ids: not looked at.
        Returns:
            Two arrays (B, L) of the dtypes given.
        """
        mazes, turned = super().augment(inputs, labels, rng)
        return mazes, self.solutions(mazes)[0].astype(labels.dtype) if self.relabel else turned

    # -- what is wrong, in words

    def complaint(self, question: str, answer: str = "") -> str | None:
        """What is wrong with a maze given as text, in a few words; None when nothing is.

        An empty answer is not checked. Any shortest path is right, whatever its tie-break.
        """
        for what, text in [("question", question), ("answer", answer)][: 2 if answer else 1]:
            if problem := self.misspelt(text):
                return f"{what} {problem}"
        if "o" in question:
            return f"question has a path mark 'o' in {self.place(question.index('o'))}"
        for symbol in "SG":
            if question.count(symbol) != 1:
                return f"question has {question.count(symbol)} cells {symbol}, expected 1"
        if not self.solutions(self.encode([question]))[1][0]:
            return "G cannot be reached from S"
        return self._wrong_answer(question, answer) if answer else None

    def _wrong_answer(self, question: str, answer: str) -> str | None:
        for cell, (was, became) in enumerate(zip(question, answer, strict=True)):
            if was != became and (was, became) != (" ", "o"):
                return f"answer changes {was!r} in {self.place(cell)} to {became!r}"
        tokens = self.encode([question, answer])
        check = self.check_paths(tokens[:1], tokens[1:])
        if not check.is_path[0]:
            return self._broken_path(tokens[1])
        cells, shortest = int(check.cells[0]), int(check.shortest[0])
        return f"answer's path has {cells} cells, the shortest {shortest}" if cells > shortest else None

    def _broken_path(self, answer: np.ndarray) -> str:
        from loopscope.tasks.maze.paths import last_walked

        cell, branches = last_walked(self, answer)
        if branches:
            return f"answer's path branches in {self.place(cell)}"
        if answer[cell] != GOAL:
            return f"answer's path from S ends in {self.place(cell)}"
        return "answer has path marks beside the path from S to G"


TASKS.register("maze")(Maze.square)

__all__ = ["FREE", "GOAL", "PATH", "START", "WALL", "Maze"]
