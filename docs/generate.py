"""Pages that are made from the code, so that they cannot go stale: Markdown files in `_generated`.

A file is rewritten only where its text changed; otherwise Sphinx would read its pages anew every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import loopscope

AREAS = ("dynamics", "evaluation", "models", "training", "tasks", "reports", "config")
MARKS = re.compile(r"`[^`]*`|\*\*?\w[^*]*[\w.]\*\*?|[|*]")  # code, emphasis, or a lone bar or star
OPTIONS = re.compile(r"`[^`]*`|(?<![\w-])--[a-z][\w-]*")  # code as it is, or an option that should be code
GROUND = ("latent", "files", "registry", "provenance", "errors")  # modules of their own


def write_all(folder: Path) -> None:
    """Write every generated page into `folder`."""
    folder.mkdir(exist_ok=True)
    makers = {
        "verification": verification,
        "settings": settings,
        "recipes": recipes,
        "commands": commands,
        "top": top_namespace,
        "results": results,
        **{f"api_{area}": partial(api, area) for area in AREAS},
    }
    for name, make in makers.items():
        path, text = folder / f"{name}.md", "\n".join(make()) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", " ") for cell in row) + " |"


def stacked(lines: Iterable[str]) -> Iterator[str]:
    """A table whose rows stand as cards on a phone (`site.css`)."""
    yield from (":::{container} stack", *lines, ":::")


def verification() -> Iterator[str]:
    """What `loopscope verify` prints, run now."""
    from loopscope.dynamics.verify import verify_estimators

    checks = verify_estimators()
    failed = [check.name for check in checks if not check.passed]
    assert not failed, f"estimators off their exact values: {failed}"
    numbers = [(c.name, f"{c.expected:.6g}", f"{c.obtained:.6g}", f"{c.tolerance:.1g}") for c in checks]
    yield from table(["what", "exact", "obtained", "tolerance"], numbers)


def settings() -> Iterator[str]:
    """Every field of a recipe with its default and its docstring."""
    from loopscope.config.settings import DataSettings, GenerateSettings, ModelSettings, TrainSettings

    sections = {
        "model": ModelSettings,
        "train": TrainSettings,
        "data": DataSettings,
        "data.generate": GenerateSettings,
    }
    for prefix, kind in sections.items():
        yield from ("", f"## {prefix}", "", plain(kind.__doc__), "")
        fields = kind.model_fields.items()
        rows = [(f"`{prefix}.{name}`", _default(field), plain(field.description)) for name, field in fields]
        yield from stacked(table(["setting", "default", "meaning"], rows))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    return "" if field.default == "" else f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    """A default as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value)


def recipes() -> Iterator[str]:
    """The shipped recipes: what each trains, and the comment at its head."""
    from loopscope.config import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        m, t = recipe.model, recipe.train
        length = f"{t.steps:,} steps" if t.steps else f"{t.epochs:,} epochs"
        cycles = "" if m.arch == "transformer" else f", {m.H_cycles} x {m.L_cycles} cycles"
        mixer = "token mixer" if m.mlp_t else "attention"
        yield from ("", f"## {name}", "")
        yield (
            f"{recipe.data.task}: {m.arch}, {mixer}, width {m.hidden_size}{cycles}, budget "
            f"{m.halt_max_steps} segments; {length} of {t.batch_size} puzzles, lr {t.lr:g}."
        )
        file = resources.files("loopscope") / "recipes" / f"{name}.yaml"
        head = re.match(r"(?:#.*\n)*", file.read_text(encoding="utf-8"))
        lines = [line.removeprefix("#").removeprefix(" ") for line in head[0].splitlines()] if head else []
        yield from ("", *_head(lines))


def _head(lines: Sequence[str]) -> Iterator[str]:
    """The comment of a recipe as Markdown: its commands a listing, its lists lists, all else sentences."""
    command = re.compile(r"(Data|Train):\s+|\s{4,}")  # or a command that goes on
    listing = [command.sub(_indent, line, count=1) for line in lines if command.match(line)]
    if listing:
        yield from ("```text", *listing, "```", "")
    previous = ""
    for line in lines:
        if command.match(line):
            continue
        if line.startswith("- ") and not previous.startswith("- "):
            yield ""
        yield plain(line)
        previous = line


def _indent(found: re.Match[str]) -> str:
    return "" if found[1] else "    "


def commands() -> Iterator[str]:
    """Every command: what it does, its examples, its arguments and options."""
    for words, command in walk(command_group()):
        if hasattr(command, "commands"):
            yield from ("", f"## {' '.join(words)}", "", plain(command.help))
            continue
        text, _, examples = (command.help or "").partition("\b")
        block, _, more = examples.replace("\\[", "[").strip("\n").partition("\n\n")
        level = "##" if len(words) == 2 else "###"
        yield from ("", f"{level} {' '.join(words)}", "", plain(text), "", "```", block, "```", "")
        yield from (plain(more), "")
        yield from stacked(table(["", "default", ""], map(_parameter, command.params)))


def command_group() -> Any:
    """The command line as one click group, all commands in it."""
    import typer

    from loopscope import cli

    for name in cli.COMMANDS:
        import_module(f"loopscope.cli.{name}")
    return typer.main.get_command(cli.app)


def walk(group: Any, words: tuple[str, ...] = ("loopscope",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group below `group` with the words that call it."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if hasattr(command, "commands"):
            yield from walk(command, (*words, name))


def _parameter(parameter: Any) -> tuple[str, str, str]:
    names = [*parameter.opts, *parameter.secondary_opts]
    is_option = parameter.opts[0].startswith("-")
    shown = ", ".join(f"`{name}`" for name in names) if is_option else f"`{parameter.name.upper()}`"
    default = parameter.default
    plain_default = (
        ""
        if callable(default) or default is None or default is False or default == ()
        else f"`{_yaml(default)}`"
    )
    return shown, "required" if parameter.required else plain_default, plain(parameter.help)


def top_namespace() -> Iterator[str]:
    """The names of `import loopscope as ls`, each with the first line of its docstring."""
    rows = []
    for name in loopscope.__all__:
        thing = getattr(loopscope, name)
        first = (thing.__doc__ or "").strip().split("\n\n")[0]
        rows.append((f"{{py:obj}}`ls.{name} <{thing.__module__}.{thing.__qualname__}>`", plain(first)))
    yield from table(["name", ""], rows)


def api(area: str) -> Iterator[str]:
    """The docstrings of all modules of a package."""
    package = import_module(f"loopscope.{area}")
    found = walk_packages(package.__path__, f"loopscope.{area}.")
    names = [name for _, name, is_package in found if not is_package]
    names += [f"loopscope.{name}" for name in GROUND] if area == "config" else []
    for name in names:
        yield from ("", f"## {name.removeprefix('loopscope.')}", "")
        yield from ("```{eval-rst}", f".. automodule:: {name}", "   :members:", "```")


def results() -> Iterator[str]:
    """The toctree of the log and of the measured results, as far as there are any."""
    here = Path(__file__).parent
    pages = sorted(path.relative_to(here).with_suffix("") for path in here.glob("results/**/*.md"))
    yield from (
        "```{toctree}",
        ":hidden:",
        ":caption: Results",
        "",
        "/log",
        *(f"/{page}" for page in pages),
        "```",
    )


def plain(text: str | None) -> str:
    """Text of a docstring on one line, safe in Markdown."""
    line = re.sub(r"\s+", " ", (text or "").replace(r"\[", "[").replace("*", r"\*").strip())
    return OPTIONS.sub(lambda found: f"`{found[0].strip('`')}`", line)


def as_markup(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: bars stand for norms, and a block set off by blank lines is code."""
    found: list[str] = []
    margin, inside = "", False  # the last line that was not blank begins at the margin; inside such a block
    for number, line in enumerate(lines):
        indented = line.startswith(" ")
        line = re.sub(r"^ +\w+(, \w+)+:", lambda names: names[0].replace(", ", ","), line)  # napoleon's types
        starts = indented and not margin.startswith(" ") and number > 0 and not lines[number - 1].strip()
        inside = starts or (inside and (indented or not line.strip()))
        found += ["::", ""] if starts else []
        found.append(line if inside else MARKS.sub(_protect, line))
        margin = line if line.strip() else margin
    lines[:] = found


def leave_out(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples, which the text of their class tells already; None leaves it to others."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


def _protect(found: re.Match[str]) -> str:
    """A lone bar or star would begin a substitution or an emphasis in reStructuredText."""
    return f"\\{found[0]}" if found[0] in ("|", "*") else found[0]
