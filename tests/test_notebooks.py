"""The notebooks equal their sources, run from top to bottom, and say what is known; puzzles from the Hub."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from checkpoints import FOLDER, one_line
from loopscope.models.hub import puzzles_beside
from shared import shared_path
from test_hub import fake_hub

HERE = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.stem for path in HERE.glob("*.ipynb"))
LAYOUT = f"{FOLDER}/huggingface_layout"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_notebooks", HERE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebooks_are_those_of_their_sources(build: ModuleType) -> None:
    assert [source.stem for source in build.sources()] == NAMES
    assert len(NAMES) == 3
    for source in build.sources():
        kept = source.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert kept == build.as_notebook(source), f"{source.name} changed; run python notebooks/build.py"
        nbformat.validate(nbformat.reads(kept, as_version=4))


def executed(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, first: str = "") -> str:
    """Run a notebook in fast mode; all that it says. `first` is put at the end of its settings cell."""
    monkeypatch.setenv("LOOPSCOPE_FAST", "1")
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    settings.source += f"\n{first}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "stream" and out.name == "stderr"]
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 1
    data = [out.get("data", {}) for out in outputs]
    return "\n".join(
        kind for one in data for key, kind in one.items() if key in ("text/plain", "text/markdown")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = executed(name, monkeypatch, tmp_path)
    known = {
        "recursive_reasoning_chaos": "0.6227",  # solved after 16 segments: .62271, simulation of 4e6 orbits
        "measure_your_own_model": "no solved puzzle among 8",
        "train_the_laptop_model": "exact_accuracy",
    }
    assert known[name] in said


@pytest.mark.slow
def test_the_chaos_notebook_takes_the_published_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(shared_path(LAYOUT), tmp_path / "repo") / "trm_sudoku"
    settings = f"MODEL, PUZZLES, COUNT, LENGTH, SIGMAS = {str(model)!r}, None, 2, 1, [1.0]"
    said = executed("recursive_reasoning_chaos", monkeypatch, tmp_path, settings)
    assert "2 puzzles of `sudoku-3x3`" in said
    assert "no solved puzzle among 2" in said


def test_puzzles_beside_a_model_come_from_disk_and_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_path(LAYOUT)
    found = puzzles_beside(source / "trm_sudoku", limit=3)
    assert found.task.name == "sudoku-3x3"
    for name, array in (("inputs", found.inputs), ("labels", found.labels), ("pid", found.puzzle_ids)):
        assert np.array_equal(array, np.load(source / f"data/sudoku_test_{name}.npy")[:3])
    asked = fake_hub(monkeypatch, shutil.copytree(source, tmp_path / "repo"))
    monkeypatch.chdir(tmp_path)
    module = __import__("huggingface_hub")
    files = [f"data/sudoku_test_{name}.npy" for name in ("inputs", "labels", "pid")]
    plain = module.snapshot_download
    monkeypatch.setattr(module, "snapshot_download", lambda repo, allow_patterns: plain(repo, files))
    fetched = puzzles_beside("owner/name/hrm_sudoku")
    assert asked == [files]
    assert fetched.content_hash == puzzles_beside(source / "hrm_sudoku").content_hash
    one_line(lambda: puzzles_beside(tmp_path / "repo" / "data"), "Name a puzzle file")
    labels, model = tmp_path / "repo" / "data" / "sudoku_test_labels.npy", tmp_path / "repo" / "trm_sudoku"
    right = np.load(labels).astype(int)
    np.save(labels, np.where(right == 2, -100, right))  # not supervised, as a batch says it
    assert not puzzles_beside(model).labels[right == 2].any()
    np.save(labels, right + 250)
    one_line(lambda: puzzles_beside(model), "labels.npy: tokens from 252 to 260, expected 0 to 10")
    np.save(labels, right[:-1])
    one_line(lambda: puzzles_beside(model), "do not go together. Fetch the files again.")
    one_line(lambda: puzzles_beside("nowhere"), "nowhere", "nor a hub id")
