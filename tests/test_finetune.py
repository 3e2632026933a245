"""Starting from a trained model, and several seeds of one recipe."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from loopscope.cli import main
from loopscope.config import load_recipe
from loopscope.errors import UserError
from loopscope.models.folder import save_model
from loopscope.models.load import load
from loopscope.models.official import save_official
from loopscope.tasks.base import PuzzleSet
from loopscope.training import train
from loopscope.training.finetune import load_source, start_from
from loopscope.training.seeds import last_scores, spread_of, train_seeds
from small_runs import recipe, score, small_puzzles
from tiny import tiny_model

# -- fine-tuning


def some_model(ids: int = 5, ndim: int = 16, **settings: Any) -> Any:
    """A model whose table is not zero."""
    model = tiny_model(num_puzzle_identifiers=ids, puzzle_emb_ndim=ndim, **settings)
    for tensor in model.state_dict().values():
        tensor.normal_(generator=torch.Generator().manual_seed(len(tensor)))
    return model


def test_everything_is_taken_over() -> None:
    source, model = some_model(), tiny_model(num_puzzle_identifiers=5, puzzle_emb_ndim=16)
    start_from(model, source)
    assert all(value.equal(source.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.content_hash == source.content_hash


@pytest.mark.parametrize("ids", [3, 9])
def test_another_number_of_identifiers_starts_at_the_mean(ids: int) -> None:
    source, model = some_model(), tiny_model(num_puzzle_identifiers=ids, puzzle_emb_ndim=16)
    start_from(model, source)
    mean = source.puzzle_emb.weights.numpy().astype(np.float64).mean(0)
    np.testing.assert_allclose(model.puzzle_emb.weights.numpy(), np.tile(mean, (ids, 1)), atol=1e-6)
    assert model.lm_head.weight.equal(source.lm_head.weight)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden_size": 32}, r"H_init is \(16,\), the recipe says \(32,\)"),
        ({"seq_len": 20}, r"is \("),
        ({"ndim": 12, "puzzle_emb_len": 1}, r"puzzle_emb.weights is \(5, 16\), the recipe says \(5, 12\)"),
        ({"ndim": 12, "ids": 7}, r"puzzle_emb.weights is \(5, 16\), the recipe says \(7, 12\)"),
        ({"ndim": 0}, r"has the tensor puzzle_emb.weights, unlike"),
        ({"L_layers": 2}, r"has no tensor L_level.layers.1"),
    ],
)
def test_other_shapes_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    model = some_model(**settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=said) as caught:
        start_from(model, some_model())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("train.init_from=")
    for name, value in model.state_dict().items():  # refused whole, not half done
        assert value.equal(before[name])


def trained(folder: Path, **changes: Any) -> Path:
    return train(recipe("puzzle_emb", **changes), folder, puzzles=small_puzzles(), progress=False)


def test_a_run_starts_from_another(tmp_path: Path) -> None:
    """Its weights are the averaged ones of the source, and its recipe tells where they came from."""
    source = trained(tmp_path / "a").parent
    still = {"init_from": str(source), "lr": 0.0, "puzzle_emb_lr": 0.0, "ema": False, "steps": 1}
    last = trained(tmp_path / "b", train=still)
    a, b = (load_file(folder / "last" / "model.safetensors") for folder in (source, tmp_path / "b"))
    for name in a:  # a rate of zero: nothing moves
        assert a[name].equal(b[name]), name
    kept = load_recipe(tmp_path / "b" / "config.yaml").train
    assert (kept.init_from, kept.init_hash) == (str(source), load(source).content_hash)
    assert json.loads((last / "config.json").read_text())["recipe"]["train"]["init_hash"] == kept.init_hash
    assert trained(tmp_path / "fresh", train={**still, "init_from": None}).is_dir()
    fresh = load_file(tmp_path / "fresh" / "last" / "model.safetensors")
    assert not fresh["lm_head.weight"].equal(a["lm_head.weight"])


def test_a_resumed_run_does_not_need_its_source(tmp_path: Path) -> None:
    source = trained(tmp_path / "a").parent
    settings = recipe("puzzle_emb", train={"init_from": str(source), "steps": 4})
    more = {"puzzles": small_puzzles(), "progress": False}
    train(settings, tmp_path / "whole", **more)
    train(settings, tmp_path / "parts", overrides=(), **more)
    shutil.rmtree(source)
    longer = ["train.steps=6"]
    for name in ("whole", "parts"):
        train(None, tmp_path / name, overrides=longer, resume=True, **more)
    a, b = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(a[name].equal(b[name]) for name in a)


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    save_model(some_model(), tmp_path / "m", {})
    settings, source = load_source(recipe(train={"init_from": str(tmp_path / "m")}))
    assert source is not None
    assert settings.train.init_hash == source.content_hash
    assert load_source(settings)[0] == settings
    save_model(some_model(ids=6), tmp_path / "m", {})
    with pytest.raises(UserError, match=r"its hash is .* in the recipe") as caught:
        load_source(settings)
    assert "\n" not in str(caught.value)
    assert load_source(recipe()) == (recipe(), None)
    with pytest.raises(UserError, match="no such model"):
        load_source(recipe(train={"init_from": "nowhere"}))


def test_official_checkpoints_are_a_start_too(tmp_path: Path) -> None:
    model = some_model()
    save_official(model, tmp_path)
    _, source = load_source(recipe(train={"init_from": str(tmp_path)}))
    fresh = tiny_model(num_puzzle_identifiers=8, puzzle_emb_ndim=16)
    start_from(fresh, source)  # type: ignore[arg-type]
    assert fresh.lm_head.weight.equal(model.lm_head.weight)


# -- several seeds


def scoring(held_out: PuzzleSet, settings: Any) -> Any:
    return score


def test_seeds_are_separate_runs_with_a_summary(tmp_path: Path) -> None:
    settings = recipe(train={"steps": 4, "eval_every": 2})
    how: dict[str, Any] = {"puzzles": small_puzzles(), "on_eval": scoring, "progress": False}
    summary = train_seeds(settings, tmp_path / "all", [0, 3], **how)
    alone = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 3})})
    train(alone, tmp_path / "alone", **how)
    a, b = (tmp_path / name / "last" / "model.safetensors" for name in ("all/seed3", "alone"))
    assert a.read_bytes() == b.read_bytes()
    assert json.loads((tmp_path / "all" / "summary.json").read_text()) == summary
    assert list(summary["seeds"]) == ["0", "3"]
    assert summary["seeds"]["3"]["best_exact_accuracy"] >= summary["seeds"]["3"]["exact_accuracy"]
    losses = [found["train_loss"] for found in summary["seeds"].values()]
    spread = summary["spread"]["train_loss"]
    assert (spread["mean"], spread["sd"]) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
    assert (spread["lowest"], spread["highest"], spread["n"]) == (min(losses), max(losses), 2)
    assert losses[0] != losses[1]

    # the same command again goes on: the new seed is trained, the finished ones stay
    before = (tmp_path / "all" / "seed0" / "checkpoints" / "step_00000004" / "state.json").read_bytes()
    again = train_seeds(settings, tmp_path / "all", [0, 3, 5], **how)
    assert again["seeds"]["0"] == summary["seeds"]["0"]
    assert list(again["seeds"]) == ["0", "3", "5"]
    after = (tmp_path / "all" / "seed0" / "checkpoints" / "step_00000004" / "state.json").read_bytes()
    assert after == before
    for path in (tmp_path / "all" / "seed5" / "checkpoints").iterdir():  # killed before its first checkpoint
        shutil.rmtree(path)
    assert train_seeds(settings, tmp_path / "all", [0, 3, 5], **how)["seeds"]["5"] == again["seeds"]["5"]
    other = recipe(train={"steps": 4, "eval_every": 2, "lr": 1e-3})
    with pytest.raises(UserError, match="seed0: holds a run with other settings"):
        train_seeds(other, tmp_path / "all", [0], **how)


def test_seeds_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(recipe(train={"steps": 2}).model_dump(exclude_none=True)))
    words = ["train", str(file), "train.eval_segments=1", "--seeds", "4,7"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(out)])
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    assert sorted(f.name for f in out.iterdir()) == ["seed4", "seed7", "summary.json"]
    assert load_recipe(out / "seed7" / "config.yaml").train.seed == 7
    row = next(line.split() for line in said.out.splitlines() if line.startswith("train_loss"))
    spread = json.loads((out / "summary.json").read_text())["spread"]["train_loss"]
    assert [float(cell) for cell in row[1:3]] == pytest.approx([spread["mean"], spread["sd"]], rel=1e-3)
    for more in ([], ["--out", str(out), "--dry-run"]):
        with pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        assert stopped.value.code == 2
        assert "--seeds 4,7: needs a recipe and --out" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_differ(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected different ones"):
        train_seeds(recipe(), tmp_path, seeds)


def test_scores_of_a_run(tmp_path: Path) -> None:
    lines = [
        {"kind": "eval", "step": 2, "minutes": 1.0, "exact_accuracy": 0.5, "n": 9},
        {"kind": "train", "step": 3, "minutes": 1.0, "loss": 2.0, "lr": 1e-4, "halted": 0, "accuracy": None},
        {"kind": "eval", "step": 4, "minutes": 1.0, "exact_accuracy": 0.25, "n": 9},
        {"kind": "eval", "step": 6, "minutes": 1.0, "exact_accuracy": 0.5, "n": 9},
        {"kind": "eval", "step": 7, "minutes": 1.0, "exact_accuracy": None, "n": 9},
        {"kind": "eval", "step": 7, "minutes": 1.0, "a_score": 1.0},
        {"kind": "eval", "step": 8, "minutes": 1.0, "exact_accuracy": 0.375, "n": 9},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = last_scores(tmp_path)
    expected = {"exact_accuracy": 0.375, "best_exact_accuracy": 0.5, "best_step": 2}
    assert found == {"step": 8, "train_loss": 2.0, **expected}


def test_spread_of_one_run_has_no_deviation() -> None:
    spread = spread_of([{"a": 1.0, "step": 3, "b": 2.0}])
    assert spread["a"] == {"mean": 1.0, "sd": None, "lowest": 1.0, "highest": 1.0, "n": 1}
    assert set(spread) == {"a", "b"}
    both = spread_of([{"a": 1.0, "b": 2.0}, {"a": 4.0}])
    assert set(both) == {"a"}
    assert both["a"]["sd"] == pytest.approx(3 / math.sqrt(2))
