"""Settings: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loopscope.config import (
    DataSettings,
    GenerateSettings,
    ModelSettings,
    Recipe,
    Settings,
    TrainSettings,
    load_recipe,
    parse_value,
    recipe_names,
    validated,
)
from loopscope.errors import UserError

SHIPPED = "sudoku6-cpu"


def message(*overrides: str, name: str = SHIPPED) -> str:
    """The one line that refuses these overrides."""
    with pytest.raises(UserError) as caught:
        load_recipe(name, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert (recipe.train.steps is None) != (recipe.train.epochs is None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lrr=1", "train.lrr: unknown key. Did you mean train.lr?"),
        ("trian.lr=1", "trian.lr: unknown key. Did you mean train.lr?"),
        ("lr=1", "lr: unknown key. Did you mean train.lr?"),
        ("arch.L_cycles=4", "arch.L_cycles: unknown key. Did you mean model.L_cycles?"),
        ("data.generate.cout=3", "data.generate.cout: unknown key. Did you mean data.generate.count?"),
        ("modle.width=3", "modle.width: unknown key. Known: data, model, name, train."),
        ("nothing=1", "nothing: unknown key. Known: data, model, name, train."),
    ],
)
def test_unknown_keys_suggest_the_nearest(override: str, said: str) -> None:
    assert message(override) == said


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lr=fast", "train.lr", "'fast'"),
        ("train.lr=-1", "train.lr", "-1"),
        ("train.lr=.nan", "train.lr", "nan"),
        ("train.lr=true", "train.lr", "True"),
        ("train.steps=1.5", "train.steps", "1.5"),
        ("train.steps=0", "train.steps", "0"),
        ("train.steps=yes", "train.steps", "True"),
        ("train.batch_size=none", "train.batch_size", "'none'"),
        ("train.loss=hinge", "train.loss", "'hinge'"),
        ("train.compile=perhaps", "train.compile", "'perhaps'"),
        ("train.beta2=1", "train.beta2", "1"),
        ("train.keep_last=0", "train.keep_last", "0"),
        ("train.seed=-1", "train.seed", "-1"),
        ("train.max_minutes=0", "train.max_minutes", "0"),
        ("train=5", "train", "5"),
        ("model.halt_max_steps=0", "model.halt_max_steps", "0"),
        ("model.halt_exploration_prob=1.1", "model.halt_exploration_prob", "1.1"),
        ("data.path=[3,a]", "data.path", "[3, 'a']"),
        ("data.reveal=2", "data.reveal", "2"),
    ],
)
def test_wrong_values_name_the_key_and_the_value(override: str, key: str, value: str) -> None:
    said = message(override)
    assert said.startswith(f"{key}: ")
    assert said.endswith(f"got {value}.")


def test_a_missing_value_is_said() -> None:
    assert message("data.generate={givens: 7}") == "data.generate.count: is required. Set it to a value."


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.micro_batch=7"], ["micro_batch=7", "batch_size=128", "train.micro_batch"]),
        (["train.epochs=4"], ["steps=1200", "epochs=4", "train.steps=none"]),
        (["data.path=a.csv"], ["path and generate", "data.generate=none"]),
        (["data.task=maze"], ["task=maze", "data.path=FILE"]),
        (["model.arch=hrm"], ["arch=hrm", "model.H_layers"]),
        (["model.puzzle_emb_len=2"], ["puzzle_emb_len=2", "model.puzzle_emb_ndim"]),
        (["model.puzzle_emb_ndim=300", "model.puzzle_emb_len=2"], ["puzzle_emb_ndim=300", "128"]),
        (
            ["model.mlp_t=false", "model.pos_encodings=rope", "model.num_heads=128"],
            ["num_heads=128", "model.num_heads"],
        ),
    ],
)
def test_contradictions_name_both_settings(overrides: list[str], words: list[str]) -> None:
    said = message(*overrides)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("7", 7),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[a,b]", ["a", "b"]),
        ("[1e-3, 2]", [1e-3, 2]),
        ("runs/1e5.csv", "runs/1e5.csv"),
        ("3e", "3e"),
        ("word", "word"),
        ("", None),
    ],
)
def test_values_are_read_as_typed(text: str, value: Any) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_overrides_reach_the_recipe() -> None:
    recipe = load_recipe(
        SHIPPED,
        [
            "train.lr=3e-4",
            "train.steps=2e4",
            "train.max_minutes=none",
            "train.compile=false",
            "model.pos_encodings=none",
            "data.generate=none",
            "data.path=[a.csv,b.csv]",
        ],
    )
    assert recipe.train.lr == 3e-4
    assert recipe.train.steps == 20000
    assert recipe.train.max_minutes is None
    assert recipe.train.compile is False
    assert recipe.model.pos_encodings == "none"  # here the word is a value
    assert recipe.data.path == ["a.csv", "b.csv"]
    assert recipe.data.generate is None


@pytest.mark.parametrize("override", ["train.lr", "=3", "train.lr.x=4", "data.path=[a,b", "name={"])
def test_malformed_overrides(override: str) -> None:
    assert message(override).startswith((f"{override}: ", "train.lr.x: "))


def test_an_override_may_open_an_empty_section(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\ndata:\n  generate: null\n")
    recipe = load_recipe(file, ["train.steps=3", "data.generate.count=5", "data.generate.givens=7"])
    assert (recipe.name, recipe.train.steps) == ("mine", 3)
    assert recipe.data.generate is not None
    assert recipe.data.generate.count == 5


def test_missing_recipe() -> None:
    assert message(name="sudoku6-cpuu") == "sudoku6-cpuu: no such recipe or file. Did you mean sudoku6-cpu?"


@pytest.mark.parametrize("text", ["train: [1\n", "a: b: c\n", "\x00", "- 1\n- 2\n", "just words\n"])
def test_broken_recipe_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(text.encode())
    assert message(name=str(file)).startswith(str(file))


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    file = tmp_path / "weights.yaml"
    file.write_bytes(bytes(range(256)))
    assert message(name=str(file)).startswith(str(file))


def test_mistakes_in_a_file_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lrr: 1}\n")
    assert message(name=str(file)) == f"{file}: train.lrr: unknown key. Did you mean train.lr?"


def test_a_number_with_exponent_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lr: 3e-4, steps: 10}\n")
    assert load_recipe(file).train.lr == 3e-4


@pytest.mark.parametrize("name", recipe_names())
def test_round_trip_through_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["train.lr=1e-05", "train.max_minutes=0.1"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    assert load_recipe(file) == recipe


def test_settings_are_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", [ModelSettings, TrainSettings, DataSettings, GenerateSettings])
def test_every_setting_is_explained(kind: type[Settings]) -> None:
    assert not [name for name, field in kind.model_fields.items() if not field.description]


def test_prefix_and_tokens() -> None:
    sizes = {"seq_len": 81, "vocab_size": 11}
    derived = validated(ModelSettings, {**sizes, "puzzle_emb_ndim": 513, "hidden_size": 512})
    assert (derived.prefix_len, derived.num_tokens) == (2, 83)
    given = validated(ModelSettings, {**sizes, "puzzle_emb_ndim": 512, "puzzle_emb_len": 16})
    assert (given.prefix_len, given.num_tokens) == (16, 97)
    assert validated(ModelSettings, sizes).prefix_len == 0
