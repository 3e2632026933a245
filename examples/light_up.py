"""An own task in some thirty lines: Light Up (Akari) on 5x5 cells, then a model that learns it.

Lamps go on free cells so that every free cell is lit, no lamp shines on another one, and every wall has as
many lamps beside it as its number says. Light goes along rows and columns until it meets a wall.

    python examples/light_up.py runs/light-up                        # a few minutes on two cores
    python examples/light_up.py runs/light-up-2 train.steps=600 train.seed=1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

import loopscope as ls
from loopscope.tasks import TASKS, GridTask, PuzzleSet

# -- the task: alphabet and rules; text, files and the eight symmetries come with GridTask

FREE, LAMP, ZERO = 1, 2, 3  # tokens follow the alphabet from 1 on; a wall with number n is ZERO + n


class LightUp(GridTask):
    kind = "lightup"
    alphabet = ".*01234"

    def verify(self, inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Whether each answer (B, L) solves its puzzle (B, L)."""
        light, beside = shine(answers.reshape(-1, *self.grid))
        kept = np.where(inputs == FREE, answers <= LAMP, answers == inputs)
        lit = (answers >= ZERO) | ((answers == LAMP) != (light > 0))
        counted = (inputs < ZERO) | (beside + ZERO == inputs)
        return (kept & lit & counted).all(1)


TASKS.register("lightup")(LightUp.square)


def shine(boards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every cell of boards (B, rows, columns) the lamps it sees and the lamps beside it, (B, L) each."""
    padded = np.pad(boards, [(0, 0), (1, 1), (1, 1)], constant_values=ZERO)  # a wall all around
    wall, lamp = padded >= ZERO, padded == LAMP
    light, beside = np.zeros(padded.shape, int), np.zeros(padded.shape, int)
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        beam = np.roll(lamp, step, axis)
        beside += beam
        while beam.any():
            beam = beam & ~wall
            light += beam
            beam = np.roll(beam, step, axis)
    return tuple(a[:, 1:-1, 1:-1].reshape(len(boards), -1) for a in (light, beside))


# -- the generator: random walls, a lamp wherever it is still dark; kept if no other answer is right


def generate(task: LightUp, count: int, rng: np.random.Generator) -> PuzzleSet:
    """`count` different puzzles with one answer each."""
    found: dict[bytes, np.ndarray] = {}
    while len(found) < count:
        answer = np.where(rng.random((1, task.seq_len)) < 0.35, ZERO, FREE).astype(np.uint8)
        for cell in rng.permutation(np.flatnonzero(answer[0] == FREE)):
            if shine(answer.reshape(-1, *task.grid))[0][0, cell] == 0:
                answer[0, cell] = LAMP
        beside = shine(answer.reshape(-1, *task.grid))[1]
        answer = np.where(answer == ZERO, ZERO + beside, answer).astype(np.uint8)
        question = np.where(answer == LAMP, FREE, answer)
        if len(solve(task, question)) == 1:
            found[question.tobytes()] = answer[0]
    questions = np.stack([np.frombuffer(key, np.uint8) for key in found])
    return PuzzleSet(task, questions, np.stack([*found.values()]), np.zeros(count, np.int32), name="light-up")


def solve(task: LightUp, question: np.ndarray) -> np.ndarray:
    """Every answer (S, L) of one puzzle (1, L): cell by cell with and without a lamp, clashes dropped."""
    boards = question
    for cell in np.flatnonzero(question[0] == FREE):
        light = shine(boards.reshape(-1, *task.grid))[0]
        more = boards[light[:, cell] == 0].copy()
        more[:, cell] = LAMP
        boards = np.concatenate([boards, more])
    return boards[task.verify(np.repeat(question, len(boards), 0), boards)]


def main(out: str, overrides: Sequence[str], count: int = 1000, new: int = 256) -> None:
    """Train on `count` puzzles with the recipe of the laptop model, then say how many new ones are solved."""
    puzzles = generate(LightUp(5, 5), count + new, np.random.default_rng(0))
    train, test = puzzles[:count], puzzles[count:]
    print(LightUp(5, 5).render(test.inputs[0]), LightUp(5, 5).render(test.labels[0]), sep="\n\n")
    settings = ["data.generate=null", "data.validation=128", *overrides]
    weights = ls.train("sudoku6-cpu", out, overrides=settings, puzzles=train)
    print(ls.evaluate(ls.load(weights), test, segments=16).scores[16])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("name a run folder: python examples/light_up.py runs/light-up")
    main(sys.argv[1], sys.argv[2:])
