"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success fsync it and rename it into place.

    Works for a file or a folder. When the block raises, `path` keeps its former content and the
    half-written copy is removed. A link is followed: what it points to is written.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        for file in [beside, *beside.rglob("*")] if beside.is_dir() else [beside]:
            _fsync(file)
        if path.is_dir() and beside.is_dir():  # a folder that is not empty cannot be replaced in one move
            former = path.with_name(f".{path.name}.former")
            shutil.rmtree(former, ignore_errors=True)
            os.replace(path, former)
            try:
                os.replace(beside, path)
            except BaseException:
                os.replace(former, path)
                raise
            shutil.rmtree(former)
        else:
            os.replace(beside, path)
        _fsync(path.parent)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def restore_former(folder: Path) -> None:
    """Put back what a killed `written_whole` had moved away in `folder`, and remove half-written copies."""
    for former in folder.glob(".*.former"):
        path = folder / former.name.removeprefix(".").removesuffix(".former")
        if path.exists():
            shutil.rmtree(former)
        else:
            os.replace(former, path)
    for left in folder.glob(".*.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN is written as null."""
    write_text(path, json.dumps(_no_nan(value), indent=2, default=default, allow_nan=False) + "\n")


def _no_nan(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(k): _no_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(v) for v in value]
    return value


def sha256(*parts: bytes) -> str:
    """Hex digest of the concatenated parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
