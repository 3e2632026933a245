"""Models from and to the Hugging Face Hub, through `huggingface_hub` when it is installed.

Only the files of one model are fetched: repositories also hold data sets and older checkpoints.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from loopscope.errors import UserError
from loopscope.models.official import FILES, step_of
from loopscope.tasks import PuzzleSet
from loopscope.tasks.base import IGNORE, PAD
from loopscope.tasks.storage.folder import task_named
from loopscope.tasks.storage.layout import load_array

MARK = "hf:"
INPUTS = "_test_inputs.npy"
LOCAL = {
    "assets",
    "checkpoints",
    "data",
    "models",
    "out",
    "output",
    "outputs",
    "results",
    "run",
    "runs",
    "src",
}


def is_hub_id(source: str) -> bool:
    """Whether `source` can be meant as `owner/name[/subfolder]`, and not as a path that is missing.

    A first part that is a folder here, or a usual folder name, means a path; so does a weights file at
    the end. `hf:` in front settles the matter.
    """
    parts = source.removeprefix(MARK).split("/")
    named = len(parts) >= 2 and all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", part) for part in parts)
    if source.startswith(MARK) or not named:
        return named
    is_file = PurePosixPath(source).suffix in {".pt", ".pth", ".safetensors", ".yaml", ".json"} or parts[
        -1
    ].startswith("step_")
    return not (is_file or parts[0] in LOCAL or Path(parts[0]).exists())


def fetch(source: str) -> Path:
    """Download the model `owner/name[/subfolder]` and return its local folder.

    Raises:
        UserError: `huggingface_hub` is missing, the Hub does not answer, or there is no model.
    """
    owner, name, *rest = source.removeprefix(MARK).split("/")
    repo, folder = f"{owner}/{name}", "/".join(rest)
    huggingface_hub = _package(f"{source}: no such path, and")
    try:
        wanted = choose(huggingface_hub.list_repo_files(repo), folder, source)
        local = Path(huggingface_hub.snapshot_download(repo, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # the error classes differ between versions and network libraries
        raise UserError(
            f"{source}: no such path, and the Hub gave no model ({_in_short(error)}). "
            "Check the name and the network, or download the folder and pass its path."
        ) from None
    return local / folder


def puzzles_beside(source: str | Path, limit: int | None = None) -> PuzzleSet:
    """The test puzzles that some repositories keep beside their models.

    They are `data/<task>_test_inputs.npy`, `_labels.npy` and `_pid.npy`, one row per puzzle, the task
    being named in the model's folder: `trm_sudoku`.

    Args:
        source: the model, a local folder or `owner/name/folder`.
        limit: take the first rows only.
    Raises:
        UserError: no such puzzles, or damaged ones.
    """
    path = Path(source).expanduser()
    data = path.absolute().parent / "data" if path.exists() else _fetch_data(str(source))
    inputs = next((f for f in sorted(data.glob(f"*{INPUTS}")) if _task_in(f) in path.name), None)
    if inputs is None:
        raise UserError(f"{source}: no data/<task>{INPUTS} beside the model. Name a puzzle file instead.")
    task = _task_in(inputs)
    tokens, labels, ids = (
        load_array(data / f"{task}_test_{kind}.npy", axes)[:limit]
        for kind, axes in (("inputs", 2), ("labels", 2), ("pid", 1))
    )
    board, name = task_named(task, tokens.shape[1]), f"{path.parent.name}/{task}_test"
    labels = np.where(labels == IGNORE, PAD, labels)
    if tokens.shape != labels.shape or len(ids) != len(tokens):
        sizes = f"inputs {tokens.shape}, labels {labels.shape}, pid {ids.shape}"
        raise UserError(f"{data}/{task}_test: {sizes} do not go together. Fetch the files again.")
    for kind, found in (("inputs", tokens), ("labels", labels)):
        if found.min() < 0 or found.max() >= board.vocab_size:
            told = f"tokens from {found.min()} to {found.max()}, expected 0 to {board.vocab_size - 1}"
            raise UserError(f"{data}/{task}_test_{kind}.npy: {told}. Fetch the file again.")
    return PuzzleSet(board, tokens.astype("u1"), labels.astype("u1"), ids.astype("i4"), name=name)


def _task_in(inputs: Path) -> str:
    return inputs.name.removesuffix(INPUTS)


def _fetch_data(source: str) -> Path:
    if not is_hub_id(source):
        raise UserError(f"{source}: neither an existing path nor a hub id owner/name/folder. Check the name.")
    repo = "/".join(source.removeprefix(MARK).split("/")[:2])
    huggingface_hub = _package(f"{source}: no such path, and")
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=["data/*_test_*.npy"])) / "data"
    except Exception as error:  # as in `fetch`
        raise UserError(
            f"{source}: the Hub gave no puzzles ({_in_short(error)}). Check the name and the network."
        ) from None


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a model folder as the repository `owner/name`, made when missing; its address.

    Raises:
        UserError: no such name can be, `huggingface_hub` is missing, or the Hub refuses.
    """
    repo = repo.removeprefix(MARK)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise UserError(f"{repo}: not a repository name. Expected owner/name.")
    huggingface_hub = _package(f"{repo}:")
    try:
        huggingface_hub.create_repo(repo, private=private, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repo, folder_path=str(folder))
    except Exception as error:  # as in `fetch`
        raise UserError(
            f"{repo}: the Hub did not take the model ({_in_short(error)}). "
            "Check the name, the network, and that you are logged in (hf auth login)."
        ) from None
    return f"https://huggingface.co/{repo}"


def _package(reason: str) -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise UserError(f"{reason} the Hub needs a package. Run pip install huggingface_hub.") from None


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def choose(files: list[str], folder: str, source: str) -> list[str]:
    """The files of one model: its settings, its weights (the latest step) and the sizes beside it.

    Raises:
        UserError: no weights in that folder; names the folders that hold some.
    """
    paths = [PurePosixPath(file) for file in files]
    here = [path for path in paths if path.parent == PurePosixPath(folder)]
    steps = sorted((path for path in here if step_of(path) is not None), key=step_of)  # type: ignore[arg-type]
    weights = steps[-1:] or [path for path in here if path.name in FILES]
    if not weights:
        others = sorted(
            {str(path.parent) for path in paths if path.name in FILES or step_of(path) is not None}
        )
        there = f" Models are in: {', '.join(others)}." if others else ""
        raise UserError(f"{source}: no model there. Expected {', '.join(FILES)} or step_<N>.{there}")
    meta = [path for path in paths if path.parent.name == "data" and path.name.endswith("_meta.json")]
    settings = [path for path in here if path.name in ("all_config.yaml", "config.json")]
    return [str(path) for path in (*weights, *settings, *meta)]
