"""Long evaluations: chunk by chunk, shared out among processes, gone on with after a kill.

A chunk is always the same puzzles in the same batches, whichever process works on it and whether it is
worked on now or was before, so several processes and resumed runs give the same columns, byte for byte.
Of a finished chunk only its columns are kept; its activations are gone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch.distributed as dist
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.evaluation.subject import blocks
from loopscope.files import write_json, written_whole
from loopscope.training.distributed import agreeing, num_processes, on_main, rank

CHUNK = 16  # batches
Chunk = dict[str, np.ndarray]


class Parts:
    """Finished chunks beside the file that is to be written, until it is.

    Args:
        folder: for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, manifest: dict[str, Any]) -> None:
        """Check that the folder belongs to this evaluation.

        Raises:
            UserError: it holds another one.
        """
        known = self.folder / "manifest.json"
        wanted = json.loads(json.dumps(manifest))
        if not known.exists():
            write_json(known, wanted)
            return
        try:
            held = json.loads(known.read_text(encoding="utf-8"))
        except ValueError:
            held = {}
        if other := [key for key in wanted if key not in held or held[key] != wanted[key]]:
            raise UserError(
                f"{self.folder}: begun by another evaluation ({other[0]} differs). Remove it, or choose "
                "another --out."
            )

    def read(self, chunk: slice) -> Chunk | None:
        """The columns of a chunk, None where it is not finished."""
        try:
            with np.load(self._path(chunk)) as held:
                return {name: held[name] for name in held.files}
        except (FileNotFoundError, BadZipFile, ValueError, EOFError):
            return None

    def write(self, chunk: slice, columns: Chunk) -> None:
        """Keep a finished chunk."""
        with written_whole(self._path(chunk)) as beside, beside.open("wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]

    def remove(self) -> None:
        """All of them, once the file is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, chunk: slice) -> Path:
        return self.folder / f"{chunk.start:09d}-{chunk.stop:09d}.npz"


def parts_of(answers: str | Path) -> Parts:
    """Where the finished chunks of a file of answers are."""
    return Parts(Path(f"{answers}.parts"))


def run_chunks(
    n: int,
    batch_size: int,
    work: Callable[[slice], Chunk],
    manifest: dict[str, Any],
    parts: Parts | None = None,
    progress: bool = False,
) -> Chunk:
    """Columns of n puzzles: every process works on its share of the chunks, all get the whole.

    Args:
        n: puzzles.
        batch_size: of which `CHUNK` make a chunk.
        work: gives the columns of a chunk, all along puzzles or all of one row.
        manifest: what is evaluated, in plain values; parts of another one are refused.
        parts: keeps finished chunks on disk; None: a kill loses them.
        progress: show a bar with an estimate, of the share of the first process.
    Raises:
        UserError: the parts are of another evaluation, or `work` finds a mistake.
    """
    if parts is not None:
        on_main(lambda: parts.begin(manifest))
    chunks = blocks(n, batch_size * CHUNK)
    mine = chunks[rank() :: num_processes()]
    with agreeing():
        done = {chunk.start: columns for chunk, columns in finished(mine, work, parts, progress)}
    done = gathered(done)
    ordered = [done[chunk.start] for chunk in chunks]
    return {name: np.concatenate([columns[name] for columns in ordered]) for name in ordered[0]}


def finished(
    chunks: Sequence[slice], work: Callable[[slice], Chunk], parts: Parts | None, progress: bool = False
) -> Iterator[tuple[slice, Chunk]]:
    """Each chunk with its columns: read where it was finished before, else worked on and kept.

    Args:
        chunks: those of this process.
        work, parts, progress: as for `run_chunks`.
    """
    total = sum(chunk.stop - chunk.start for chunk in chunks)
    with tqdm(total=total, disable=not progress or rank() > 0, leave=None) as bar:
        for chunk in chunks:
            columns = None if parts is None else parts.read(chunk)
            if columns is None:
                columns = work(chunk)
                if parts is not None:
                    parts.write(chunk, columns)
            yield chunk, columns
            bar.update(chunk.stop - chunk.start)


def gathered(mine: dict[int, Any]) -> dict[int, Any]:
    """The entries of all processes."""
    if not dist.is_initialized():
        return mine
    every: list[Any] = [None] * num_processes()
    dist.all_gather_object(every, mine)
    return {key: value for one in every for key, value in sorted(one.items())}


@contextmanager
def casts_kept(models: list[Any]) -> Any:
    """Cast the weights of all models once for the block, where they offer it."""
    with ExitStack() as stack:
        for model in models:
            if hasattr(model, "casts_kept"):
                stack.enter_context(model.casts_kept())
        yield
