"""The files of a puzzle folder, one by one: what each must hold, and one clear line when it does not.

Nothing in a file is trusted: a header may lie, an index may point anywhere, a JSON text may be anything.
Compiled code downstream checks no indices, so that every token is looked at here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.errors import UserError
from loopscope.tasks.base import PAD
from loopscope.tasks.storage.split_arrays import SplitArrays

FORMAT_VERSION = 1
MANIFEST, SUBSET, IDENTIFIERS, TEST_PUZZLES = (
    "manifest.json",
    "subset.json",
    "identifiers.json",
    "test_puzzles.json",
)
METADATA = "dataset.json"
REMEDY = "Build the folder again, or fetch it again."
FACTS_LIMIT = 500_000  # rows; of a larger set fewer facts are read
BLOCK = 1 << 24  # bytes looked at in one go


@dataclass(frozen=True)
class Metadata:
    """`dataset.json`, its keys in the official order."""

    pad_id: int
    ignore_label_id: int | None
    blank_identifier_id: int
    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int
    total_groups: int
    mean_puzzle_examples: float
    total_puzzles: int
    sets: list[str]


def wrong(path: Path, what: str, move: str = REMEDY) -> UserError:
    return UserError(f"{path}: {what}. {move}")


# -- JSON


def read_metadata(folder: Path) -> Metadata:
    """`dataset.json` of one split, checked in itself.

    Raises:
        UserError: a key is missing or has no sensible value.
    """
    file = folder / METADATA
    found = load_json(file)
    if not isinstance(found, dict):
        raise wrong(file, "expected an object")
    found = {"total_puzzles": -1, **found}  # HRM's builder does not write it
    wanted = [f.name for f in fields(Metadata)]
    if missing := [name for name in wanted if name not in found]:
        raise wrong(file, f"no key {', '.join(missing)}")
    found = {name: found[name] for name in wanted}
    for name, value in found.items():
        if not _sensible(name, value):
            raise wrong(file, f"{name} is {str(value)[:40]!r}, expected {_EXPECTED.get(name, 'a count')}")
    return Metadata(**{**found, "mean_puzzle_examples": float(found["mean_puzzle_examples"])})


_EXPECTED = {
    "pad_id": "0",
    "ignore_label_id": "0 or null",
    "blank_identifier_id": "0",
    "mean_puzzle_examples": "a positive number",
    "sets": "['all']",
    "vocab_size": "2 to 256",
}


def _sensible(name: str, value: Any) -> bool:
    number = isinstance(value, int) and not isinstance(value, bool)
    if name == "sets":
        return bool(value == ["all"])
    if name == "mean_puzzle_examples":
        return (number or isinstance(value, float)) and 0 < value < 2**63
    if name in ("pad_id", "ignore_label_id", "blank_identifier_id"):
        return (number and value == 0) or (value is None and name == "ignore_label_id")
    if name == "vocab_size":
        return number and 2 <= value <= 256
    return number and value >= (-1 if name == "total_puzzles" else 1)


def read_identifiers(path: str | Path) -> list[str]:
    """The name of every puzzle identifier, `<blank>` first.

    Raises:
        UserError: `identifiers.json` is missing or is no list of texts.
    """
    file = Path(path) / IDENTIFIERS
    found = load_json(file)
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise wrong(file, "expected a list of names")
    return found


def read_manifest(path: str | Path) -> dict[str, Any]:
    """`manifest.json` of a folder written here; empty for one of the official builders.

    Raises:
        UserError: it is damaged or of a later version.
    """
    file = Path(path) / MANIFEST
    if not file.exists():
        return {}
    found = load_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise wrong(file, "expected an object with the key task")
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        raise wrong(file, f"format version {version!r}, expected {FORMAT_VERSION}", "Update loopscope.")
    return found


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise wrong(path, "no such file") from None
    except OSError as error:
        raise wrong(path, f"cannot be read ({error.strerror})", "Check the path.") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested without end
        raise wrong(path, f"is not JSON ({' '.join(str(error).split())[:80]})") from None


# -- arrays


def load_array(path: Path, axes: int) -> np.ndarray:
    """A memory-mapped array of whole numbers or bytes; never unpickles anything.

    Pages are shared until someone writes to them (copy on write): compiled code would be compiled a second
    time for arrays that are read-only.

    Raises:
        UserError: no such file, damaged, or another dtype or number of axes.
    """
    if not path.is_file():
        raise wrong(path, "no such file")
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # a damaged header fails in a dozen ways inside numpy
        what = " ".join(str(error).split())[:80]
        raise wrong(path, f"cut off or not a .npy file ({what})") from None
    if array.dtype.kind not in "iuS":
        raise wrong(path, f"dtype {array.dtype}, expected whole numbers")
    if array.ndim != axes or not array.size:
        raise wrong(path, f"shape {array.shape}, expected {axes} axes, none empty")
    return array


def read_arrays(folder: Path) -> SplitArrays:
    """The five arrays of a split, tokens memory-mapped, the others int64; call `check_structure` next."""
    found = {}
    for name in SplitArrays._fields:
        path = folder / f"all__{name}.npy"
        array = load_array(path, 2 if name in ("inputs", "labels") else 1)
        if array.dtype.kind == "S":
            raise wrong(path, f"dtype {array.dtype}, expected whole numbers")
        found[name] = array if array.ndim == 2 else np.asarray(array, np.int64)
    return SplitArrays(**found)


def check_structure(folder: Path, meta: Metadata, arrays: SplitArrays) -> None:
    """Check shapes, index arrays, identifiers, and what `dataset.json` says of them.

    Raises:
        UserError: `FILE: row N` what contradicts what.
    """
    rows, puzzles = len(arrays.inputs), len(arrays.puzzle_identifiers)
    for name in ("inputs", "labels"):
        if (shape := getattr(arrays, name).shape) != (rows, meta.seq_len):
            expected = (rows, meta.seq_len)
            raise wrong(folder / f"all__{name}.npy", f"shape {shape}, expected {expected}")
    _check_index(folder / "all__puzzle_indices.npy", arrays.puzzle_indices, puzzles, rows, "examples")
    groups = len(arrays.group_indices) - 1
    _check_index(folder / "all__group_indices.npy", arrays.group_indices, groups, puzzles, "puzzles")
    ids = arrays.puzzle_identifiers
    outside = np.flatnonzero((ids < 0) | (ids >= meta.num_puzzle_identifiers))
    if len(outside):
        raise wrong(
            folder / "all__puzzle_identifiers.npy",
            f"row {outside[0]} is {ids[outside[0]]}, expected 0 to {meta.num_puzzle_identifiers - 1}",
        )
    said = {
        "total_groups": ({groups}, meta.total_groups),
        "total_puzzles": ({-1, groups, puzzles}, meta.total_puzzles),
    }
    for name, (possible, value) in said.items():
        if value not in possible:
            raise wrong(folder / METADATA, f"{name} is {value}, but the arrays hold {max(possible)}")
    if not math.isclose(meta.mean_puzzle_examples, rows / puzzles, rel_tol=1e-3):
        mean = meta.mean_puzzle_examples
        raise wrong(
            folder / METADATA, f"mean_puzzle_examples is {mean}, but the arrays hold {rows / puzzles:g}"
        )


def _check_index(path: Path, index: np.ndarray, length: int, end: int, what: str) -> None:
    """`length + 1` numbers from 0 up to `end`, each greater than the one before."""
    if len(index) != length + 1 or length < 1:
        raise wrong(path, f"{len(index)} numbers, expected {max(length, 1) + 1}")
    if index[0] != 0:
        raise wrong(path, f"starts with {index[0]}, expected 0")
    falls = np.flatnonzero(index[1:] <= index[:-1])
    if len(falls):
        raise wrong(path, f"row {falls[0] + 1} is not greater than the row before")
    if index[-1] != end:
        raise wrong(path, f"ends with {index[-1]}, but there are {end} {what}")


def read_tokens(folder: Path, name: str, tokens: np.ndarray, meta: Metadata) -> np.ndarray:
    """The tokens as uint8, all checked; a uint8 file stays memory-mapped."""
    mapped = tokens.dtype == np.uint8
    result = tokens if mapped else np.empty(tokens.shape, np.uint8)
    least = PAD + 1 if name == "labels" and meta.ignore_label_id is None else PAD
    for start, stop in row_blocks(tokens):
        block = tokens[start:stop]
        if block.max() >= meta.vocab_size or block.min() < least:
            row, cell = np.argwhere((block >= meta.vocab_size) | (block < least))[0]
            raise wrong(
                folder / f"all__{name}.npy",
                f"row {start + row} has {block[row, cell]} in cell {cell}, "
                f"expected {least} to {meta.vocab_size - 1}",
            )
        if not mapped:
            result[start:stop] = block
    return result


def row_blocks(array: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of rows of about 16 MB."""
    step = max(1, BLOCK // (array.shape[1] * array.itemsize))
    return [(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def read_facts(folder: Path, arrays: SplitArrays) -> dict[str, np.ndarray]:
    """Facts kept per group, by name, one value for each row of the group.

    Texts are left out of sets above `FACTS_LIMIT`: they would take more room than the puzzles.
    """
    rows = np.diff(arrays.puzzle_indices[arrays.group_indices])
    facts = {}
    for path in sorted(folder.glob("facts__*.npy")):
        values = load_array(path, 1)
        if len(values) != len(rows):
            raise wrong(path, f"{len(values)} values, but there are {len(rows)} groups")
        if values.dtype.kind == "S":
            if rows.sum() > FACTS_LIMIT:
                continue
            try:
                values = np.char.decode(values, "utf-8")
            except UnicodeDecodeError:
                raise wrong(path, "holds text that is not UTF-8") from None
        facts[path.stem.removeprefix("facts__")] = np.repeat(values, rows)
    return facts


def sizes(split: SplitArrays) -> dict[str, int]:
    """Groups, puzzles and examples of a split."""
    return {
        "groups": len(split.group_indices) - 1,
        "puzzles": len(split.puzzle_identifiers),
        "examples": len(split.inputs),
    }
