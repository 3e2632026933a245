"""Training from a recipe: settings, evaluation, cost, and that it learns."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopscope.cli.train import validation_scores
from loopscope.config import DataSettings, Recipe, load_recipe, validated
from loopscope.errors import UserError
from loopscope.evaluation import stream
from loopscope.models import build_model
from loopscope.models.layers import SwiGLU, by_columns, swiglu_width
from loopscope.tasks import write_puzzles
from loopscope.tasks.base import PuzzleSet
from loopscope.tasks.build import Options, build_sudoku
from loopscope.tasks.sudoku import Sudoku
from loopscope.tasks.sudoku.generate import generate
from loopscope.training import checkpoint, loop, plan, setup, train
from loopscope.training.optim import make_optimizers
from loopscope.training.setup import resolve, split
from small_runs import GENERATED, contents, recipe, small_puzzles, trainer
from together import together

# -- evaluation


def test_best_is_the_best_and_holds_averaged_weights(puzzles: PuzzleSet, tmp_path: Path) -> None:
    marks = iter([0.1, 0.5, 0.3, 0.4, 0.2])
    seen = []

    def on_eval(model: Any) -> dict[str, float]:
        seen.append(model.lm_head.weight.detach().clone())
        return {"exact_accuracy": next(marks), "empty": math.nan}

    made = trainer(recipe(train={"eval_every": 2}), puzzles, tmp_path, on_eval)
    made.run(progress=False)
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert (config["step"], config["weights"], config["validation"]["exact_accuracy"]) == (4, "ema", 0.5)
    best = checkpoint.load_bytes((tmp_path / "best" / "model.safetensors").read_bytes())
    assert best["lm_head.weight"].equal(seen[1])
    assert seen[-1].equal(made.ema.shadow["lm_head.weight"])  # type: ignore[union-attr]
    last = checkpoint.load_bytes((tmp_path / "last" / "model.safetensors").read_bytes())
    assert last["lm_head.weight"].equal(made.ema.shadow["lm_head.weight"])  # type: ignore[union-attr]
    assert not last["lm_head.weight"].equal(made.model.lm_head.weight)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evals = [line for line in lines if line["kind"] == "eval"]
    assert [line["exact_accuracy"] for line in evals] == [0.1, 0.5, 0.3, 0.4, 0.2]
    assert evals[0]["empty"] is None


def with_validation(folder: Path) -> None:
    """As the command line trains."""
    settings = recipe(train={"eval_every": 5, "eval_segments": 2, "keep_best": 1, "micro_batch": 4})
    train(settings, folder, puzzles=small_puzzles(), on_eval=validation_scores, progress=False)


def in_halves(folder: Path) -> None:
    """The same with a batch of evaluation to a chunk, so that there is work for two."""
    stream.CHUNK = 1
    with_validation(folder)


def test_processes_validate_together(tmp_path: Path) -> None:
    """`evaluate` waits for all processes, so none may be left out of it."""
    together(2, in_halves, tmp_path / "two")
    with_validation(tmp_path / "one")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    evaluations = [[line for line in run["lines"] if line["kind"] == "eval"] for run in (one, two)]
    assert [line["step"] for line in evaluations[0]] == [5, 10]
    assert evaluations[0] == evaluations[1]
    tensors = {name for name in one if name.endswith(".safetensors")}
    assert {"best/model.safetensors", "last/model.safetensors"} < tensors
    assert all(one[name] == two[name] for name in tensors)


# -- from a recipe


OVERRIDES = ["train.steps=4", "train.compile=false", "data.generate.count=40", "data.validation=10"]


def recipe_file(folder: Path) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(loop.yaml.safe_dump(recipe().model_dump(exclude_none=True)))
    return file


def test_train_from_a_recipe_and_resume(tmp_path: Path) -> None:
    sizes = []

    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        sizes.append((len(held_out), settings.eval_segments))
        return lambda model: {"exact_accuracy": 0.5}

    file, out = recipe_file(tmp_path), tmp_path / "run"
    best = train(file, out, overrides=OVERRIDES, on_eval=factory, progress=False, device="cpu")
    assert best == out / "best"
    assert sizes == [(10, 16)]
    assert load_recipe(out / "config.yaml").model.seq_len == 16
    with pytest.raises(UserError, match="already holds a run"):
        train(file, out, overrides=OVERRIDES, progress=False, device="cpu")
    train(None, out, overrides=["train.steps=6"], resume=True, progress=False, device="cpu")
    assert checkpoint.latest(out / "checkpoints").name == "step_00000006"  # type: ignore[union-attr]
    assert load_recipe(out / "config.yaml").train.steps == 6


def test_train_without_validation_returns_the_last_weights(tmp_path: Path) -> None:
    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        raise AssertionError("nothing to score on")

    settings = recipe(data={"validation": 0}, train={"steps": 2})
    assert train(settings, tmp_path / "r", on_eval=factory, progress=False) == tmp_path / "r" / "last"


def test_a_run_that_was_never_saved_or_never_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"not a run folder \(no config.yaml\)"):
        train(None, tmp_path / "nothing", resume=True)
    with pytest.raises(UserError, match="no recipe given"):
        train(None, tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text(loop.yaml.safe_dump(recipe().model_dump()))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    train(None, tmp_path, resume=True, progress=False, device="cpu")
    assert "stopped before its first checkpoint, begins again at step 0" in caplog.text
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 10]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"validation": 60}}, "data.validation=60 leaves nothing of 60 puzzles"),
        ({"data": {"generate": None}}, "data.path is not set"),
        ({"model": {"seq_len": 81}}, "model.seq_len=81, but sudoku-2x2 generated has 16"),
        ({"train": {"steps": None}}, "neither train.steps nor train.epochs"),
        ({"train": {"steps": None, "epochs": 1, "batch_size": 64}}, "less than one step"),
        ({"model": {"arch": "trn"}}, "trn: unknown architecture. Did you mean trm?"),
    ],
)
def test_recipes_that_cannot_run(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(recipe(**changes), tmp_path / "r", progress=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_easy_puzzles_alone(puzzles: PuzzleSet, tmp_path: Path) -> None:
    rated = replace(
        puzzles, facts={"rating": np.arange(len(puzzles)) % 7, "source": np.full(len(puzzles), "a")}
    )
    write_puzzles(rated, tmp_path / "rated.csv")
    data = DataSettings(path=str(tmp_path / "rated.csv"), max_difficulty=2)
    easy = setup.training_puzzles(data)
    assert easy.inputs.tolist() == puzzles.inputs[np.arange(len(puzzles)) % 7 <= 2].tolist()
    write_puzzles(replace(puzzles, facts={}), tmp_path / "unrated.csv")
    with pytest.raises(UserError, match="no ratings to select by"):
        setup.training_puzzles(DataSettings(path=str(tmp_path / "unrated.csv"), max_difficulty=2))
    write_puzzles(rated[np.arange(len(puzzles)) % 7 > 3], tmp_path / "hard.csv")
    with pytest.raises(UserError, match=r"no puzzle of hard\.csv is that easy"):
        setup.training_puzzles(DataSettings(path=str(tmp_path / "hard.csv"), max_difficulty=2))


def test_easy_puzzles_with_all_their_versions(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """The rows of a folder are versions: its groups are chosen, not its rows."""
    rated = replace(puzzles, facts={"rating": np.where(np.arange(len(puzzles)) == 3, 0, 9)})
    write_puzzles(rated, tmp_path / "train.csv")
    build_sudoku([str(tmp_path / "train.csv")], tmp_path / "set", options=Options(augmentations=2))
    easy = setup.training_puzzles(DataSettings(path=str(tmp_path / "set"), max_difficulty=0))
    groups = easy.groups
    assert len(groups) == 1
    rows = np.concatenate([np.arange(*ends) for ends in zip(groups.first, groups.stop, strict=True)])
    assert easy.facts["rating"][rows].tolist() == [0, 0, 0]


def test_puzzles_without_answers(puzzles: PuzzleSet) -> None:
    bare = PuzzleSet(puzzles.task, puzzles.inputs, None, puzzles.puzzle_ids, name="bare.csv")
    with pytest.raises(UserError, match=r"bare\.csv: no answers to learn from"):
        split(recipe(), bare)


def test_muon_takes_the_matrices_of_the_blocks_alone(puzzles: PuzzleSet) -> None:
    settings = recipe("muon")
    model = build_model(resolve(settings, puzzles).model, seed=0)
    adam, muon = make_optimizers(model, settings.train)
    names = {p: name for name, p in model.named_parameters()}
    taken, left = ({names[p] for g in o.param_groups for p in g["params"]} for o in (muon, adam))
    products = [f"{where}.{part}_proj.weight" for where in ("mlp_t", "mlp") for part in ("gate_up", "down")]
    assert taken == {f"L_level.layers.0.{product}" for product in products}
    assert left == {"embed_tokens.embedding_weight", "lm_head.weight", "q_head.weight", "q_head.bias"}
    assert [g["base_lr"] for o in (adam, muon) for g in o.param_groups] == [settings.train.lr, 1e-2]


def test_epochs_count_as_officially() -> None:
    """models.md section 5: 1000 puzzles, 50k epochs, batch 768 make 65,104 steps."""
    official = recipe(train={"steps": None, "epochs": 50_000, "batch_size": 768})
    assert loop.num_steps(official, 1000.0) == 65_104


@pytest.mark.parametrize(("name", "said"), [("mps", "float64"), ("tpu", "expected auto, cpu or cuda")])
def test_devices_that_cannot_train(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        setup.pick_device(name)


def test_no_compiler_means_eager_and_one_warning(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    made = trainer(recipe(train={"compile": True, "steps": 2}), puzzles, tmp_path)
    made.run(progress=False)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "no-such-compiler" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_triton_needs_a_c_compiler_and_everything_pythons_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("CC", "no-such-compiler")
    assert setup.missing_for_compile(torch.device("cuda")) == "a C compiler (no-such-compiler)"
    monkeypatch.setenv("CC", "sh")  # some program that is there
    assert setup.missing_for_compile(torch.device("cuda")) == ""
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda name: str(tmp_path))
    for device in ("cpu", "cuda"):
        assert "Python.h" in setup.missing_for_compile(torch.device(device))


def test_the_number_of_threads_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise AssertionError("the library set the number of threads")

    monkeypatch.setattr(torch, "set_num_threads", refuse)
    train(recipe(train={"steps": 1}), tmp_path / "r", progress=False)


def plan_of(**model: Any) -> dict[str, Any]:
    """The plan for nine 9x9 puzzles."""
    made = generate(Sudoku(3, 3), 9, 40, np.random.default_rng(0))
    values = {
        "model": {"hidden_size": 512, "puzzle_emb_ndim": 512, **model},
        "train": {"steps": 100, "batch_size": 768},
        "data": {"validation": 2},
    }
    return plan(validated(Recipe, values), made)


def test_plan_gives_the_published_sizes() -> None:
    """models.md section 6: parameters, GFLOP per application; section 2: applications."""
    trm = plan_of(mlp_t=True, pos_encodings="none", puzzle_emb_len=16, H_cycles=3, L_cycles=6)
    assert trm["parameters"] == 5_028_866
    assert (trm["training puzzles"], trm["validation puzzles"], trm["slots"]) == (7, 2, 768)
    assert trm["applications per segment"] == 21
    assert trm["FLOPs per step"] == pytest.approx(768 * (21 + 2 * 7) * 1.221e9, rel=1e-3)
    assert trm["FLOPs"] == pytest.approx(100 * trm["FLOPs per step"])
    assert trm["settings"]["model"]["seq_len"] == 81
    kept = 5 * 4 * 5_028_866 + 4 * (512 * 3) + 768 * (2 * 97 * 512 * 2 + 2 * 8 * 81)
    assert trm["state bytes"] == kept
    hrm = plan_of(arch="hrm", H_layers=4, L_layers=4, H_cycles=2, L_cycles=2, no_ACT_continue=False)
    assert hrm["parameters"] == 27_275_266
    assert hrm["FLOPs per step"] == pytest.approx(768 * (6 + 2 * 2 + 6) * 2.291e9, rel=1e-3)


# -- learning


def test_it_learns_to_solve_4x4(tmp_path: Path) -> None:
    """1000 puzzles, 250 held out: from chance (0 of 250) to most of them in 100 steps of 64."""
    exact = []

    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        def on_eval(model: Any) -> dict[str, float]:
            batch = held_out.batch()
            ctx = model.encode(batch)
            z = model.initial_state(ctx)
            for _ in range(4):
                z = model.segment(z, ctx)
            right = (model.readout(z, ctx).logits.argmax(-1) == batch.labels).all(1)
            exact.append(right.float().mean().item())
            return {"exact_accuracy": exact[-1]}

        return on_eval

    settings = recipe(
        model={"hidden_size": 32, "halt_max_steps": 4},
        train={"steps": 100, "batch_size": 64, "lr_warmup_steps": 20, "log_every": 10, "ema_rate": 0.95},
        data={"generate": {**GENERATED, "count": 1250}, "validation": 250},
    )
    train(settings, tmp_path / "r", on_eval=factory, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["cell_loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert exact[-1] > 0.5


@pytest.mark.parametrize("rows", [97, 81])
def test_weights_by_columns_are_the_same_weights(rows: int) -> None:
    """What a GPU gets for the token mixer: aligned in memory, equal in value, product and gradient."""
    torch.manual_seed(0)
    mixers = [SwiGLU(rows, 4.0, over_tokens=True) for _ in range(2)]
    mixers[1].load_state_dict(mixers[0].state_dict())
    plain, aligned = mixers[0].gate_up_proj, mixers[1].gate_up_proj
    aligned.cast = lambda dtype: by_columns(aligned.weight, dtype)  # type: ignore[method-assign]
    cast = aligned.cast(torch.bfloat16)
    assert cast.equal(plain.cast(torch.bfloat16))
    assert cast.stride() == (1, 2 * swiglu_width(rows, 4.0))  # every column begins at a multiple of 16 bytes
    for dtype, off in ((torch.float64, 1e-12), (torch.bfloat16, 2e-2)):
        x = torch.randn(rows, 2, 16).to(dtype)
        out = [mixer(x) for mixer in mixers]
        torch.testing.assert_close(out[0], out[1], rtol=off, atol=off)
        grads = [
            torch.autograd.grad(o.square().sum(), m.gate_up_proj.weight)[0]
            for o, m in zip(out, mixers, strict=True)
        ]
        assert grads[0].dtype == grads[1].dtype == torch.float32
        torch.testing.assert_close(grads[0], grads[1], rtol=max(off, 1e-6), atol=max(off, 1e-6))
