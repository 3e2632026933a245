"""A measurement as a file: Zarr, filled block by block, that can be read while it grows, and resumed.

The file appears whole, with the first block in it, at its full length. `measured(puzzle)` is written
after everything else of a block, so a run that is cut off goes on at the first block that is missing.
Memory is that of one block. Several processes share the blocks: the first makes the file, then each
writes its own, which are chunks of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.files import written_whole
from loopscope.training.distributed import num_processes, on_main, rank

FORMAT = "loopscope-measurement-1"
SAME = ("plan", "model_hash", "data_hash")  # attributes that make two runs one measurement


class OtherMeasurement(UserError):
    """The path holds a measurement of another plan, model or data."""


def open_measurement(path: str | Path) -> xr.Dataset:
    """Open a result written by `measure`, complete or not; puzzles not yet measured are left out.

    Raises:
        UserError: no such folder, or something else.
    """
    runs = _open(Path(path), "Expected a .zarr folder written by loopscope measure.")
    measured = runs["measured"].to_numpy()
    runs = runs.drop_vars("measured")
    return runs if measured.all() else runs.isel(puzzle=np.flatnonzero(measured))


def stream(
    path: Path,
    blocks: Sequence[slice],
    measure_block: Callable[[slice], xr.Dataset],
    attrs: dict[str, Any],
    progress: bool = False,
) -> None:
    """Measure the blocks that `path` does not hold yet and write each as it is done.

    Args:
        path: the .zarr folder; one of the same measurement is gone on with.
        blocks: slices of the puzzle axis, in order; together they cover it. Of another size than those
            of an earlier run they are allowed, and measure again what was begun but not complete.
        measure_block: gives the dataset of one block, with the dimension `puzzle`.
        attrs: of the result, with the keys `format` and those of `SAME`.
        progress: show a bar with an estimate, of the share of this process.
    Raises:
        OtherMeasurement: `path` holds another one.
        UserError: `path` is something else.
    """
    missing = on_main(lambda: _begin(path, blocks, measure_block, attrs))
    mine = missing[rank() :: num_processes()]
    with tqdm(total=len(mine), disable=not progress or rank() > 0, unit="block") as bar:
        for block in mine:
            _write(path, measure_block(block), block)
            bar.update()
    on_main(lambda: None)  # the file is complete when the last has written


def _begin(
    path: Path, blocks: Sequence[slice], measure_block: Callable[[slice], xr.Dataset], attrs: dict[str, Any]
) -> list[slice]:
    """See to it that the file is there; the blocks that it lacks."""
    fresh = not path.exists()
    if fresh:
        _create(path, measure_block(blocks[0]).assign_attrs(attrs), blocks[-1].stop)
    done = _held(path, attrs, fresh)
    chunk = zarr.open_group(path, mode="r")["measured"].chunks[0]  # type: ignore[union-attr]
    if num_processes() > 1 and blocks[0].stop not in (chunk, blocks[-1].stop):
        raise UserError(
            f"{path}: begun with batch_size={chunk}, here {blocks[0].stop}; two processes must not share a "
            f"chunk. Go on with batch_size={chunk}, or with one process."
        )
    return [block for block in blocks if not done[block].all()]


def _create(path: Path, first: xr.Dataset, total: int) -> None:
    """A file with the first block in it, `total` puzzles long, in chunks of one block."""
    first = first.assign(measured=("puzzle", np.ones(first.sizes["puzzle"], bool), {"units": "1"}))
    along = [str(name) for name in first.variables if "puzzle" in first[name].dims]
    encoding = {name: {"chunks": (total,) if name == "puzzle" else first[name].shape} for name in along}
    with written_whole(path) as beside:
        first.to_zarr(beside, mode="w", consolidated=False, encoding=encoding)
        group: Any = zarr.open_group(beside, mode="r+")
        for name in along:  # a longer array costs nothing until it is written to
            group[name].resize((total, *group[name].shape[1:]))
        group["puzzle"][:] = np.arange(total)  # xarray never writes the axis of a region


def _write(path: Path, runs: xr.Dataset, block: slice) -> None:
    """One block into its place, the mark that it is complete last."""
    runs = runs.drop_vars([name for name in runs.variables if "puzzle" not in runs[name].dims])
    runs.to_zarr(path, region={"puzzle": block}, consolidated=False)
    mark = xr.Dataset({"measured": ("puzzle", np.ones(runs.sizes["puzzle"], bool))})
    mark.to_zarr(path, region={"puzzle": block}, consolidated=False)


def _held(path: Path, attrs: dict[str, Any], fresh: bool) -> np.ndarray:
    """Which puzzles `path` holds already, (N,) bool, if it is the same measurement."""
    runs = _open(path, "Choose another --out.")
    if not fresh and not attrs["model_hash"]:
        raise OtherMeasurement(
            f"{path}: exists, and nothing tells whether it is of this model. Give the model a content_hash, "
            "choose another --out, or remove the file."
        )
    for key in SAME:
        if runs.attrs.get(key) != attrs[key]:
            difference = _difference(key, str(runs.attrs.get(key)), attrs[key])
            raise OtherMeasurement(
                f"{path}: holds another measurement ({difference}). Choose another --out, or remove it."
            )
    return runs["measured"].to_numpy()


def _difference(key: str, held: str, asked: str) -> str:
    """What differs, in words; of two plans the first setting."""
    if key != "plan":
        return "of another model" if key == "model_hash" else "of other puzzles"
    old, new = json.loads(held), json.loads(asked)
    name = next(name for name in {**new, **old} if old.get(name) != new.get(name))
    values = (plan.get(name, "the default") for plan in (old, new))  # a plan names only what has an effect
    return "{} is {} there, {} here".format(name, *values)


def _open(path: Path, move: str) -> xr.Dataset:
    try:
        runs = xr.open_zarr(path, consolidated=False, chunks=None)
    except (OSError, KeyError, ValueError, TypeError):
        raise UserError(
            f"{path}: {'not a measurement' if path.exists() else 'no such folder'}. {move}"
        ) from None
    if runs.attrs.get("format") != FORMAT:
        raise UserError(
            f"{path}: not a measurement (format {runs.attrs.get('format')}, not {FORMAT}). {move}"
        )
    return runs
