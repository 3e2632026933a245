"""Several processes that train one model, each with its share of every batch.

Started by torchrun, which tells every process its number in the environment; without it nothing here
does anything. Tensors on the GPU travel by NCCL; everything else, messages and votes among them, by
gloo, so that agreeing never waits for a GPU. There is no wrapper around the model: with 1 to 30 million
weights one sum of all gradients at the end of a step is as fast, and nothing of the model changes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from loopscope.errors import UserError

# The others wait this long while the first process evaluates. Where a process has died they know at once.
PATIENCE = timedelta(hours=12)

Result = TypeVar("Result")


@contextmanager
def processes() -> Iterator[None]:
    """Within the block the processes that torchrun started are connected; inside another such block, or
    without torchrun, nothing happens.

    Only the first process logs more than errors.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    log = logging.getLogger("loopscope")
    level = log.level
    if not is_main():
        log.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        dist.destroy_process_group()
        raise
    else:  # after any other error the processes are not together: closing the group could wait forever
        dist.destroy_process_group()
    finally:
        log.setLevel(level)


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes, prints and evaluates."""
    return rank() == 0


def share(size: int) -> slice:
    """The rows of `size` that belong to this process: equal parts, in the order of the processes."""
    assert size % num_processes() == 0, (size, num_processes())
    part = size // num_processes()
    return slice(rank() * part, (rank() + 1) * part)


# -- numbers


@torch.no_grad()
def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype by their sums over all processes, in one message.

    All processes end with the same bytes. The order of the sum is fixed by the number of processes; of
    two there is only one.
    """
    if not dist.is_initialized() or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    assert flat.dtype == tensors[0].dtype, "one dtype, or some would be rounded"
    dist.all_reduce(flat)
    pieces = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(pieces, tensors, strict=True)])


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order; every process must bring as many."""
    if not dist.is_initialized():
        return rows
    plain = rows.contiguous()
    as_bytes = plain.view(torch.uint8)  # any dtype travels
    pieces = [torch.empty_like(as_bytes) for _ in range(num_processes())]
    dist.all_gather(pieces, as_bytes)
    return torch.cat(pieces).view(plain.dtype)


@torch.no_grad()
def copy_from_main(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


# -- agreement


def any_of(flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    if not dist.is_initialized():
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


@contextmanager
def agreeing() -> Iterator[None]:
    """A block that every process runs: what one finds wrong (UserError), all raise at its end."""
    if not dist.is_initialized():
        yield
        return
    message = None
    try:
        yield
    except UserError as error:
        message = str(error)
    said: list[Any] = [None] * num_processes()
    dist.all_gather_object(said, message)
    for wrong in said:
        if wrong is not None:
            raise UserError(wrong)


def on_main(act: Callable[[], Result]) -> Result:
    """Let the first process act while the others wait; all get what it returns, or raise its UserError."""
    if not dist.is_initialized():
        return act()
    result: list[Any] = [None]
    with agreeing():
        if is_main():
            result[0] = act()
    dist.broadcast_object_list(result, src=0)
    return result[0]
