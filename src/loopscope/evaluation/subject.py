"""What solving, scoring and measuring ask of a system beyond the one interface.

Our models tell their device, budget, size and hash. An adapter needs to offer none of them: what it
does not tell is looked for in its parameters, or left out of the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.files import sha256
from loopscope.latent import leaves
from loopscope.tasks.base import Batch, PuzzleSet


def check_fits(system: Any, puzzles: PuzzleSet, labels: bool = False) -> None:
    """Whether a system can work on these puzzles.

    Args:
        system: its size is known from `settings.seq_len` and `settings.vocab_size`, where it has them.
        puzzles: at least one.
        labels: whether the answers must be known.
    Raises:
        UserError: no puzzles, no answers, puzzles of another size or other rules than the model has built in,
            or identifiers beyond its table.
    """
    if len(puzzles) == 0:
        raise UserError(f"{puzzles.name}: no puzzles. Check the file and --limit.")
    if labels and puzzles.labels is None:
        raise UserError(
            f"{puzzles.name}: no answers, so nothing can be scored. Use solve, or a file with answers."
        )
    if (s := getattr(system, "settings", None)) is None:
        return
    cells, tokens = puzzles.task.seq_len, puzzles.task.vocab_size
    if (cells, tokens) != (s.seq_len, s.vocab_size):
        raise UserError(
            f"{puzzles.name}: puzzles of {cells} cells and {tokens} tokens, but the model was made for "
            f"{s.seq_len} and {s.vocab_size}. Use a model or a puzzle file of the same size."
        )
    if check_task := getattr(system, "check_task", None):
        check_task(puzzles.task)
    ids, table = puzzles.puzzle_ids, getattr(s, "num_puzzle_identifiers", None)
    if getattr(s, "puzzle_emb_ndim", 0) and table is not None and not 0 <= ids.min() <= ids.max() < table:
        raise UserError(
            f"{puzzles.name}: puzzle identifiers from {ids.min()} to {ids.max()}, but the table of the model "
            f"has the rows 0 to {table - 1}. Use the puzzles it was trained with."
        )


def check_numbers(batch_size: int, seed: int = 0) -> None:
    """Check that batches hold at least one puzzle and the seed is not negative.

    Raises:
        UserError: naming the number.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1 puzzle per batch.")
    if seed < 0:
        raise UserError(f"seed={seed}: expected 0 or more.")


def blocks(n: int, size: int) -> list[slice]:
    """The rows 0..n-1 in slices of `size`, the last one as short as it must be."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def batches(
    system: Any, puzzles: PuzzleSet, batch_size: int, progress: bool = False
) -> Iterator[tuple[np.ndarray, Batch]]:
    """The puzzles in order: the number of each in the set, and the batch on the system's device."""
    device = device_of(system)
    for block in tqdm(blocks(len(puzzles), batch_size), disable=not progress, unit="batch", leave=False):
        yield np.arange(block.start, block.stop), puzzles[block].batch(device)


def device_of(system: Any) -> torch.device:
    """Where a system computes: its `device`, else that of its parameters, else the CPU."""
    if hasattr(system, "device"):
        return torch.device(system.device)
    parameters = system.parameters() if isinstance(system, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def dtype_name(z: Any) -> str:
    """Dtype of a latent, such as "bfloat16"."""
    return str(leaves(z)[0].dtype).removeprefix("torch.")


def budget_of(system: Any) -> int | None:
    """Segments used in training; None for a system that does not tell."""
    return getattr(getattr(system, "settings", None), "halt_max_steps", None)


def segments_wanted(system: Any, segments: int | Sequence[int] | None) -> list[int]:
    """One or several numbers of segments, ascending; the training budget of the system for None.

    Raises:
        UserError: one of them is not positive, there is none, or no training budget is told.
    """
    if segments is None and (segments := budget_of(system)) is None:
        raise UserError(f"segments: {type(system).__name__} tells no training budget. Say how many to run.")
    wanted = sorted(set(np.ravel(segments).tolist()))
    if not wanted or wanted[0] < 1:
        raise UserError(f"segments={wanted}: expected positive numbers, for example --segments 16,64.")
    return wanted


def identity(system: Any) -> dict[str, Any]:
    """Name, hash, size and place of a system, for the record; an empty hash where not all can be hashed."""
    facts = getattr(system, "facts", {})
    kind = getattr(getattr(system, "settings", None), "arch", type(system).__name__)
    known = {
        "model": str(facts.get("name", kind)),
        "model_hash": getattr(system, "content_hash", None) or _hash(system),
        "num_parameters": getattr(system, "num_parameters", None),
        "applications_per_segment": int(system.applications_per_segment),
        "budget": budget_of(system),
        "device": _device_name(device_of(system)),
    }
    return {key: value for key, value in known.items() if value is not None}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _hash(system: Any) -> str:
    """Of weights and settings; empty when a system that is no module holds anything but modules, tensors,
    numbers and words, which this cannot see through."""
    held = {"": system} if isinstance(system, nn.Module) else getattr(system, "__dict__", {})
    raw = []
    for name, value in sorted(held.items()):
        if isinstance(value, nn.Module):
            tensors = value.state_dict()
        elif isinstance(value, torch.Tensor):
            tensors = {"": value}
        elif _is_plain(value):
            raw.append(f"{name}={value!r}".encode())
            continue
        else:
            return ""
        for key, tensor in tensors.items():
            raw.append(f"{name}.{key}".lstrip(".").encode())
            raw.append(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return sha256(*raw) if raw else ""


def _is_plain(value: Any) -> bool:
    """Whether its words tell a value: numbers, words, and rows of them."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
