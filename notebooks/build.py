"""Make the notebooks from their text sources; `--check` only tells whether they are up to date.

python notebooks/build.py

The sources are the percent scripts beside this file. The notebooks hold no outputs, and the ids of
their cells are numbers, so that equal sources give equal bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """The text sources, without this script."""
    return sorted(path for path in HERE.glob("*.py") if path != Path(__file__).resolve())


def as_notebook(source: Path) -> str:
    """The notebook of a source, as the text of its `.ipynb`."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return jupytext.writes(notebook, fmt="ipynb")


def main() -> None:
    stale = []
    for source in sources():
        target, text = source.with_suffix(".ipynb"), as_notebook(source)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
            if "--check" not in sys.argv:
                target.write_text(text, encoding="utf-8")
    print("out of date:" if "--check" in sys.argv else "written:", ", ".join(stale) or "none")
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
