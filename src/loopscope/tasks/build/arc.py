"""From ARC files to a puzzle folder: tasks/arc/arrays.py makes the arrays, this reads, records and writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.tasks.arc import Arc
from loopscope.tasks.arc.arrays import arc_arrays
from loopscope.tasks.arc.files import read_subset
from loopscope.tasks.build.source import NOT_STATED, SourceFile, licence_of, local_folder
from loopscope.tasks.storage.folder import DRAWN, check_target, write_folder
from loopscope.tasks.storage.layout import sizes

IN_MEMORY = 1 << 29  # bytes; larger arrays are made on disk


def build_arc(
    source: str | Path,
    out: str | Path,
    *,
    subsets: Sequence[str] = ("training", "evaluation", "concept"),
    test_sets: Sequence[str] = ("evaluation",),
    augmentations: int = 1000,
    seed: int = 0,
    bake: bool = False,
    compat: str | None = None,
    allow_leak: bool = False,
    licence: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Build an ARC folder.

    Args:
        source: a folder or the beginning of file names (`data/arc-agi`), see `arc.files.read_subset`; or
            `hf:owner/name[@revision]` with such files.
        out: the folder to make.
        subsets, test_sets, augmentations, seed, bake, compat, allow_leak: see `tasks.arc.arrays.arc_arrays`.
        licence, overwrite, progress: as for the other builders.
    Returns:
        The manifest.
    Raises:
        UserError: `out` exists, a file is missing or faulty, or a test set leaks.
    """
    check_target(out, overwrite)
    folder, prefix = local_folder(source, [f"*{subset}*.json*" for subset in subsets])
    tasks = {subset: read_subset(folder, subset) for subset in subsets}
    made = arc_arrays(
        tasks,
        test_sets,
        augmentations=augmentations,
        seed=seed,
        bake=bake,
        compat=compat,
        allow_leak=allow_leak,
        allocate=_room(Path(out).parent),
        progress=progress,
    )
    found = made.leaks
    leaks = found and {"by_id": len(found.by_id), "answers_given": found.answers_given}
    manifest = {
        "builder": "arc",
        "seed": seed,
        "options": {
            "subsets": list(subsets),
            "test_sets": list(test_sets),
            "augmentations": augmentations,
            "compat": compat,
            "allow_leak": allow_leak,
        },
        "versions": "baked" if bake or compat else DRAWN,
        "licence": licence or licence_of(folder) or NOT_STATED,
        "sources": {subset: [f.record() for f in _arc_files(folder, prefix, subset)] for subset in subsets},
        "counts": {name: sizes(split) for name, split in made.splits.items()},
        "leaks": {name: count for name, count in leaks.items() if count} if leaks else None,
    }
    write_folder(
        out,
        Arc(),
        made.splits,
        identifiers=made.identifiers,
        manifest=manifest,
        test_puzzles=made.test_puzzles,
        overwrite=overwrite,
    )
    return manifest


def _arc_files(source: Path, prefix: str, subset: str) -> list[SourceFile]:
    """The files that `read_subset` reads for this subset."""
    folder, start = (source, "*") if source.is_dir() else (source.parent, source.name)
    kinds = ("challenges", "solutions")
    found: Iterable[Path] = [p for k in kinds for p in sorted(folder.glob(f"{start}_{subset}_{k}.json*"))]
    if not found:
        folder = next(f for f in (source / subset, source / "data" / subset) if f.is_dir())
        found = sorted(folder.rglob("*.json*"))
    return [SourceFile(path, f"{prefix}{path.relative_to(folder).as_posix()}") for path in found]


def _room(folder: Path) -> Callable[[tuple[int, int]], np.ndarray]:
    """Gives arrays of tokens: small ones in memory, large ones in a file of `folder` that has no name."""

    def allocate(shape: tuple[int, int]) -> np.ndarray:
        if shape[0] * shape[1] <= IN_MEMORY:
            return np.empty(shape, np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.uint8, "w+", shape=shape)

    return allocate
