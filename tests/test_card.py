"""What is told about a model: descriptions and cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from checkpoints import FOLDER, SMALL, command, same_weights
from loopscope.config import load_recipe
from loopscope.models import build_model
from loopscope.models.card import card, compact, describe, without_local_paths
from loopscope.models.folder import save_model
from loopscope.models.load import list_shipped
from loopscope.models.load import load as load_model
from shared import shared_path


@pytest.mark.parametrize(
    ("schedule", "short"),
    [
        ((("L",) * 6 + ("H",)) * 3, "(6 L, H) x 3"),
        ((("L",) * 2 + ("H",)) * 2, "(2 L, H) x 2"),
        (("L", "H"), "L, H"),
        (("H",), "H"),
    ],
)
def test_schedules_in_short(schedule: tuple[str, ...], short: str) -> None:
    assert compact(schedule) == short


def test_description_is_plain_and_complete(tmp_path: Path) -> None:
    told = describe(load_model(shared_path(f"{FOLDER}/hrm"), dtype="float32", seq_len=16))
    assert json.loads(json.dumps(told)) == told
    assert (told["latent_size"], told["schedule"], told["budget"]) == (2 * 17 * 32, "(2 L, H) x 2", 16)
    assert (told["trained_in"], told["computes_in"]) == ("bfloat16", "float32")
    assert told["flops_per_segment"] == 6 * told["flops_per_application"]
    assert told["puzzle_table"] == [5, 32]


RECIPE = {
    "name": "mine",
    "train": {"seed": 3, "lr": 1e-3, "batch_size": 64},
    "data": {"task": "sudoku", "path": ["/home/me/rows.csv.gz"], "validation": 400, "max_difficulty": 9},
}


def test_card_tells_what_was_recorded(tmp_path: Path) -> None:
    """By hand, q = z^2: (0.75 + q/800 -+ z sqrt(0.1875/400 + q/640000)) / (1 + q/400), 300 in 400."""
    facts = {"recipe": RECIPE, "step": 7, "minutes": 2.0, "weights": "ema"}
    facts |= {"validation": {"exact_accuracy": 0.75, "cell_accuracy": 0.9}}
    text = card(build_model(SMALL, seed=0), facts)
    assert text.startswith("---\nlibrary_name: loopscope\ntags: [recursive-reasoning, trm]\n---\n")
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "loopscope"
    for words in (
        "# mine",
        "exact_accuracy: 75.0 % [70.5, 79.0] (n=400)",
        "cell_accuracy: 0.9000",
        "after 7 steps (2 minutes)",
        "rows.csv.gz; 400 held out",
        "lr 0.001, batch_size 64, seed 3",
        "All settings are under `recipe` in `config.json`.",
        "difficulty up to 9 only",
        "boards of 16 cells and 6 tokens",
    ):
        assert words in text, text
    assert "/home/me" not in text


def test_card_repeats_a_shipped_recipe_with_what_was_changed() -> None:
    changed = ["train.lr=0.5", "train.steps=3", "train.init_from=/home/me/first"]
    changed += ["data.path=[/home/me/a b.csv]", "data.generate=null"]
    recipe = load_recipe("sudoku6-cpu", changed).model_dump()
    recipe["model"]["seq_len"] = 36  # as the puzzles decide
    text = card(build_model(SMALL, seed=0), {"recipe": recipe})
    words = "data.path=DIR train.steps=3 train.lr=0.5 train.init_from=first data.generate=null"
    assert f"```\nloopscope train sudoku6-cpu {words} --out RUN\n```" in text
    plain = {"recipe": load_recipe("sudoku6-cpu").model_dump()}
    assert "```\nloopscope train sudoku6-cpu --out RUN\n```" in card(build_model(SMALL, seed=0), plain)


def test_card_without_records_says_so() -> None:
    text = card(build_model(SMALL, seed=0), {})
    assert text.count("Not recorded.") == 1
    assert "None recorded: `loopscope eval` measures them." in text


def test_export_of_a_run_carries_its_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(build_model(SMALL, seed=1), tmp_path / "run" / "best", {"step": 5})
    score = {"value": 0.5, "low": 0.31, "high": 0.69, "n": 24}
    found = {"data": "set/a.csv", "n": 24, "dtype": "float32", "segments": {"16": {"exact_accuracy": score}}}
    (tmp_path / "run" / "scores.json").write_text(json.dumps(found))
    (tmp_path / "run" / "other.json").write_text('{"a": 1}')
    (tmp_path / "run" / "broken.json").write_text("{")
    said = command(capsys, "models", "export", str(tmp_path / "run"), str(tmp_path / "out"))
    assert "written to" in said
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| a.csv | 24 | float32 | 16 | 50.0 % [31.0, 69.0] | - | - |" in text
    assert same_weights(load_model(tmp_path / "out"), build_model(SMALL, seed=1))


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("path", "/home/me/a/rows.csv.gz", "rows.csv.gz"),
        ("path", ["secret/b.csv", "c.csv"], ["b.csv", "c.csv"]),
        ("path", "hf:owner/name", "hf:owner/name"),
        ("init_from", "runs/mine/", "mine"),
        ("data_paths", ["data/sudoku-1k"], ["sudoku-1k"]),
        ("name", "/home/me/run", "run"),
        ("note", "C:\\Users\\me\\run", "run"),
        ("name", "owner/name", "owner/name"),
        ("path", None, None),
        ("lr", 1e-3, 1e-3),
    ],
)
def test_no_folder_of_the_trainer_is_published(key: str, value: object, kept: object) -> None:
    assert without_local_paths({"a": {"b": [{key: value}]}}) == {"a": {"b": [{key: kept}]}}


def test_export_holds_no_local_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"recipe": RECIPE, "step": 5, "first_part": {"recipe": RECIPE}}
    save_model(build_model(SMALL, seed=1), tmp_path / "run" / "best", facts)
    for name, words in (("out", ["export"]), ("new", ["convert"])):
        command(capsys, "models", *words, str(tmp_path / "run"), str(tmp_path / name))
        for file in ("config.json", "README.md"):
            text = (tmp_path / name / file).read_text()
            assert "/home/me" not in text, text
            assert str(tmp_path) not in text, text
            assert "rows.csv.gz" in text


@pytest.mark.parametrize("name", list_shipped())
def test_shipped_models_hold_no_local_path(name: str) -> None:
    facts = {k: v for k, v in load_model(name).facts.items() if k != "source"}
    assert without_local_paths(facts) == facts
