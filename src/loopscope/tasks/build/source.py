"""Where puzzles come from: files and folders here, or a data set of the Hugging Face Hub.

A source is a path or `hf:owner/name[@revision]`. What a manifest records of a file is its name, size and
hash, never where it lies on this machine, so that a build gives the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from loopscope.errors import UserError

MARK = "hf:"
CARD = "README.md"
NOT_STATED = "not stated by the files; ask where they come from"
ENDINGS = (".csv", ".csv.gz")


class SourceFile(NamedTuple):
    """One file to read.

    Attributes:
        path: where it lies.
        name: what it is called in a manifest: `train.csv`, `hf:owner/name@<commit>/train.csv`.
    """

    path: Path
    name: str

    def record(self) -> dict[str, Any]:
        """Name, size in bytes and sha256.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            with open(self.path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return {"name": self.name, "bytes": self.path.stat().st_size, "sha256": digest}
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}). Check the path.") from None


class Sources(NamedTuple):
    """The files of the two splits, and what their cards say of the licence; "" without a card."""

    train: list[SourceFile]
    test: list[SourceFile]
    licence: str


def find_sources(sources: Sequence[str | Path], test: Sequence[str | Path] = ()) -> Sources:
    """The puzzle files that sources name.

    Args:
        sources: files; or a folder, or `hf:owner/name[@revision]`, that holds `train.csv` and mostly
            `test.csv` (either may end in `.gz`).
        test: files for the test split; without them those beside `train.csv` are taken.
    Raises:
        UserError: a file is missing, or the Hub gave none.
    """
    train, beside, licences = [], [], []
    for source in sources:
        if is_hub(source) or Path(source).is_dir():
            folder, name = local_folder(source, [f"{s}{e}" for s in ("train", "test") for e in ENDINGS])
            train.append(_split_file(folder, name, "train", str(source)))
            beside += [_split_file(folder, name, "test", str(source))] if _found(folder, "test") else []
            licences.append(licence_of(folder))
        else:
            train.append(_file(source))
    tests = [_test_file(source) for source in test]
    return Sources(train, tests or beside, "; ".join(sorted({licence for licence in licences if licence})))


def is_hub(source: str | Path) -> bool:
    """Whether a source is `hf:...`."""
    return str(source).startswith(MARK)


def local_folder(source: str | Path, patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder of a source, and what goes before a file's name in a manifest.

    Args:
        source: a folder, or `hf:owner/name[@revision]`, which is downloaded (an interrupted download is
            taken up again, and files already here are not fetched twice).
        patterns: the files to download; the data set's card comes along.
    Raises:
        UserError: `huggingface_hub` is missing, or the Hub does not answer or has no such data set.
    """
    if not is_hub(source):
        return Path(source), ""
    repo, _, revision = str(source).removeprefix(MARK).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"{source}: expected hf:owner/name or hf:owner/name@revision. Check the name.")
    try:
        hub = import_module("huggingface_hub")
    except ImportError:
        raise UserError(f"{source}: the Hub needs a package. Run pip install huggingface_hub.") from None
    try:
        folder = hub.snapshot_download(
            repo, repo_type="dataset", revision=revision or None, allow_patterns=[*patterns, CARD]
        )
    except Exception as error:  # the error classes differ between versions and network libraries
        first = " ".join(str(error).split())[:120]
        raise UserError(
            f"{source}: the Hub gave nothing ({type(error).__name__}: {first}). Check the name and the "
            "network, or download the files and pass their folder."
        ) from None
    commit = Path(folder).name  # snapshots lie in folders named by commit
    return Path(folder), f"{MARK}{repo}@{commit}/"


def licence_of(folder: Path) -> str:
    """What the data set's card, if there is one, says of its licence."""
    card = folder / CARD
    if not card.is_file():
        return ""
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    line = re.search(r"^license:\s*(\S.*?)\s*$", head[1], re.MULTILINE) if head else None
    return line[1] if line else "the data set's card names no licence"


def _found(folder: Path, split: str) -> Path | None:
    return next((folder / f"{split}{e}" for e in ENDINGS if (folder / f"{split}{e}").is_file()), None)


def _split_file(folder: Path, name: str, split: str, source: str) -> SourceFile:
    path = _found(folder, split)
    if path is None:
        raise UserError(f"{source}: holds no {split}.csv or {split}.csv.gz. Name the puzzle files instead.")
    return SourceFile(path, name + path.name)


def _test_file(source: str | Path) -> SourceFile:
    if is_hub(source) or Path(source).is_dir():
        folder, name = local_folder(source, [f"test{ending}" for ending in ENDINGS])
        return _split_file(folder, name, "test", str(source))
    return _file(source)


def _file(source: str | Path) -> SourceFile:
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder. Give a .csv file, a folder or hf:owner/name.")
    return SourceFile(path, path.name)
