"""What README and documentation tell a person to type: commands, settings, names and Python all exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import loopscope as ls
from loopscope.cli import main
from loopscope.config import load_recipe, recipe_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_generated" not in page.parts and "_build" not in page.parts]
CHEAP = ("models list", "data show sudoku9-demo", "solve sudoku9-cpu", "data overlap sudoku6-test")


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        yield found[1].strip(), found[2]


def commands_in(text: str) -> Iterator[str]:
    """The `loopscope` commands of a block: what follows the name, comments and line ends taken away."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:loopscope|torchrun .*-m loopscope) (.+)", line)
        if found:
            yield re.sub(r"\s+#.*", "", found[1]).strip()


def all_commands() -> list[str]:
    """Every different command in blocks and, where it has options or a model, in running text."""
    found = set()
    for page in PAGES:
        for language, text in fences(page):
            if language in ("", "bash", "console", "sh"):
                found |= set(commands_in(text))
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        spans = [span for span in re.findall(r"`(loopscope [^`\n]+)`", prose) if "..." not in span]
        found |= {command for span in spans for command in commands_in(span)}
    return sorted(found)


@pytest.fixture(scope="module")
def command_line() -> Any:
    """The whole command line as a click group."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate.command_group()


def parsed(group: Any, words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command that the words call and its parameters, parsed and checked but not run."""
    command, name = group, "loopscope"
    while hasattr(command, "commands"):
        if not words:
            return command, {}
        name, command, words = words[0], command.commands[words[0]], words[1:]
    if is_bare_mention(command, words):
        return command, {}
    return command, command.make_context(name, list(words)).params


def is_bare_mention(command: Any, words: list[str]) -> bool:
    """Prose such as `loopscope eval` or `loopscope report RUN`, which names the command alone."""
    return all(word.isupper() for word in words)


def test_there_is_something_to_check() -> None:
    commands = all_commands()
    assert len(commands) > 40
    assert {command.split()[0] for command in commands} >= {
        "train",
        "eval",
        "solve",
        "measure",
        "report",
        "data",
    }


@pytest.mark.parametrize("command", all_commands())
def test_command_parses(command: str, command_line: Any) -> None:
    words = shlex.split(command)
    _, params = parsed(command_line, words)
    if words[0] == "train":
        names = [word for word in (params.get("recipe"), *(params.get("overrides") or [])) if word]
        recipe = "sudoku6-cpu" if params.get("resume") else names.pop(0)
        load_recipe(recipe if recipe in recipe_names() else "sudoku6-cpu", names)
        assert recipe in recipe_names() or recipe.endswith(".yaml")


@pytest.mark.parametrize(
    "wrong", ["eval sudoku9-cpu --dato x", "measure --data a", "train sudoku6-cpu --steps 3"]
)
def test_a_wrong_command_would_be_noticed(wrong: str, command_line: Any) -> None:
    with pytest.raises(typer.BadParameter.__mro__[1]):  # the usage errors of click
        parsed(command_line, shlex.split(wrong))


@pytest.mark.parametrize("command", [c for c in all_commands() if c.startswith(CHEAP) and "--gif" not in c])
def test_cheap_command_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    assert stopped.value.code == 0, capsys.readouterr().err


def python_blocks() -> list[Any]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(fences(page))
        if language == "python"
    ]


@pytest.mark.parametrize("text", python_blocks())
def test_python_names_and_arguments_exist(text: str) -> None:
    """Every `ls.name` is there, and every call of one has arguments it takes."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ls":
            assert node.attr in ls.__all__
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ls."):
            function = getattr(ls, ast.unparse(node.func).removeprefix("ls."))
            keywords: dict[str, Any] = {k.arg: None for k in node.keywords if k.arg}
            inspect.signature(function).bind_partial(*node.args, **keywords)


def test_the_adapter_of_the_documentation_works(capsys: pytest.CaptureFixture[str]) -> None:
    text = next(t for kind, t in fences(ROOT / "docs/howto/your-model.md") if kind == "python")
    exec(compile(text, "your-model.md", "exec"), {"__name__": "your_model"})
    assert "ftle" in capsys.readouterr().out


def test_settings_named_in_prose_exist() -> None:
    """`train.lr` and its like, in backticks, are keys of a recipe."""
    recipe = load_recipe("sudoku6-cpu")
    for page in PAGES:
        for section, key in re.findall(
            r"`(model|train|data)\.(\w+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")
        ):
            assert key in type(getattr(recipe, section)).model_fields, f"{page.name}: {section}.{key}"
