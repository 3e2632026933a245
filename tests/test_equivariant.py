"""The equivariant TRM commutes with the symmetries of Sudoku; the plain one does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import loopscope as ls
from loopscope.config import ModelSettings, Recipe
from loopscope.dynamics.system import check_system
from loopscope.errors import UserError
from loopscope.models import RecursiveModel, build_model
from loopscope.models.folder import save_model
from loopscope.tasks import PuzzleSet, Sudoku
from loopscope.tasks.sudoku.generate import generate
from loopscope.tasks.sudoku.symmetry import random_symmetry
from loopscope.training.setup import make_trainer, resolve

BOARDS = [Sudoku(2, 2), Sudoku(2, 3), Sudoku(3, 3)]


def model_for(task: Sudoku, arch: str = "trm-equivariant", **more: object) -> RecursiveModel:
    """A model with random weights, in float64, that reads and writes boards of `task`."""
    values = {
        "arch": arch,
        "seq_len": task.seq_len,
        "vocab_size": task.vocab_size,
        "hidden_size": 8 * task.side,
        "expansion": 2,
        "mlp_t": True,
        "pos_encodings": "none",
        "H_cycles": 1,
        "L_cycles": 2,
        "forward_dtype": "float64",
        **more,
    }
    return build_model(ModelSettings(**values), seed=3).double()


def boards(task: Sudoku, givens: int | None = None) -> PuzzleSet:
    return generate(task, 6, givens or task.seq_len // 2, np.random.default_rng(1))


def answers(model: RecursiveModel, inputs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and halting after two segments."""
    ids = np.zeros(len(inputs), np.int32)
    task = ls.tasks.sudoku_for(inputs.shape[1])
    batch = PuzzleSet(task, inputs, None, ids).batch()
    with torch.no_grad():
        ctx = model.encode(batch)
        z = model.initial_state(ctx)
        for _ in range(2):
            z = model.segment(z, ctx)
        out = model.readout(z, ctx)
    return out.logits, out.halt_logit


def deviation(model: RecursiveModel, task: Sudoku) -> float:
    """How far the logits of a transformed board are from the transformed logits, relative to their size."""
    puzzles, rng = boards(task), np.random.default_rng(0)
    plain, _ = answers(model, puzzles.inputs)
    worst = 0.0
    for _ in range(5):
        symmetry = random_symmetry(task, rng)
        moved, _ = answers(model, symmetry.apply(puzzles.inputs))
        expected = torch.empty_like(plain)
        expected[:, :, torch.from_numpy(symmetry.digits)] = plain[:, torch.from_numpy(symmetry.cells)]
        worst = max(worst, float((moved - expected).abs().max() / plain.abs().max()))
    return worst


def test_other_boxes_are_refused() -> None:
    """Boards of 3x2 boxes have as many cells as those of 2x3, and other rules."""
    model, puzzles = model_for(Sudoku(2, 3)), generate(Sudoku(3, 2), 2, 18, np.random.default_rng(0))
    with pytest.raises(UserError, match="is built for sudoku-2x3, not sudoku-3x2"):
        ls.evaluate(model, puzzles)
    with pytest.raises(UserError, match="is built for sudoku-2x3, not sudoku-3x2"):
        ls.measure(model, puzzles)
    data = {"generate": {"count": 4, "givens": 18, "box_rows": 3, "box_cols": 2}, "validation": 0}
    recipe = resolve(
        Recipe(model=model.settings.model_copy(update={"seq_len": 0, "vocab_size": 0}), data=data), puzzles
    )
    with pytest.raises(UserError, match="is built for sudoku-2x3, not sudoku-3x2"):
        make_trainer(recipe, puzzles, "nowhere")


@pytest.mark.parametrize("task", BOARDS, ids=lambda task: task.name)
def test_a_transformed_board_gives_the_transformed_answer(task: Sudoku) -> None:
    assert deviation(model_for(task), task) < 1e-5  # the loss of float32 in the norm and the heads


def test_a_plain_trm_has_to_learn_that() -> None:
    assert deviation(model_for(Sudoku(2, 2), arch="trm"), Sudoku(2, 2)) > 0.1


def test_halting_is_invariant() -> None:
    task = Sudoku(3, 3)
    model, symmetry = model_for(task), random_symmetry(task, np.random.default_rng(2))
    with torch.no_grad():
        model.q_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    puzzles = boards(task)
    plain, moved = (answers(model, x)[1] for x in (puzzles.inputs, symmetry.apply(puzzles.inputs)))
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-4)
    assert plain.std() > 0.01


@pytest.mark.parametrize("task", BOARDS, ids=lambda task: task.name)
def test_work_is_counted_as_torch_counts_it(task: Sudoku) -> None:
    model = model_for(task)
    with FlopCounterMode(display=False) as counter:
        ctx = model.encode(boards(task).batch())
        model.segment(model.initial_state(ctx), ctx)
    assert counter.get_total_flops() == 6 * len(model.schedule) * model.application_flops


def test_it_can_be_measured_and_saved(tmp_path: Path) -> None:
    task = Sudoku(2, 3)
    model = model_for(task, forward_dtype="float32").float()
    assert all(check.passed for check in check_system(model, boards(task).batch()))
    save_model(model, tmp_path / "saved")
    again = ls.load(tmp_path / "saved")
    for before, after in zip(
        answers(model, boards(task).inputs), answers(again, boards(task).inputs), strict=True
    ):
        assert before.equal(after)


@pytest.mark.parametrize(
    "wrong", [{"hidden_size": 30}, {"puzzle_emb_ndim": 8}, {"seq_len": 30}, {"vocab_size": 7}]
)
def test_other_boards_and_widths_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"hidden_size=|no Sudoku board"):
        model_for(Sudoku(2, 2), **wrong)
