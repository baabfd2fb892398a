"""Training with several processes: the process group and its collectives.

With a single process every function here is the identity. torchrun starts the processes (docs/distributed.md).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cache.errors import InputError
from stages.parts.processes import rank_and_world

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another: a checkpoint of rank 0 may go to a slow store. A dead one is noticed at once
by torchrun, which ends the others."""

_GONE = re.compile("(?i)remote|abort|closed|reset|broken pipe")
"""How nccl says that the other end is gone."""

T = TypeVar("T")


@contextmanager
def process_group(name: str, device: torch.device) -> Iterator[None]:
    """The group of all processes that torchrun started while a stage runs; gloo for the CPU's tensors, nccl for GPUs'.

    A barrier at the end: what rank 0 wrote is visible to all. `name`: the work's name in an error. Raises
    InputError where another process is lost.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield
        return
    try:
        dist.init_process_group(
            # gloo even with GPUs: collectives of CPU tensors then wait for no device.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(_word(_store(), rank, world), _store()),
            rank=rank,
            world_size=world,
            timeout=TIMEOUT,
        )
        yield
        _barrier(device)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise InputError(f"{name}: {_why(error)}. What was committed or saved stays") from error
    # Not after an error, where it could hang; the group ends with the process.
    dist.destroy_process_group()


def _why(error: RuntimeError) -> str:
    """What an error of the group means. nccl says in its last words whether it is another process that is gone."""
    said = str(error)
    if not isinstance(error, dist.DistBackendError) or _GONE.search(said):
        return (
            "another process of this job is gone; torchrun says which and why, and starts all again where "
            "--max-restarts allows"
        )
    last = (said.partition("Last error:")[2] or said).strip().splitlines()
    return (
        f"the processes can't talk to each other ({last[0] if last else 'nccl says nothing'}); give a container more "
        "/dev/shm (`docker run --shm-size=8g`), or look at what NCCL_DEBUG=INFO prints"
    )


@cache
def _store() -> Store:
    """The key-value store that torchrun's environment names."""
    store, _, _ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    return store


def _word(store: Store, rank: int, world: int) -> str:
    """A key prefix that no earlier group used: torchrun's store survives restarts, dead processes' addresses in it.

    Each process posts a random number and waits for rank 0's answer to it, which cannot be left over from before.
    """
    own = uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", own)
        word: str = store.get(f"answer/{own}").decode()
        store.set(f"heard/{word}/{rank}", "yes")
        return word
    missing, until = set(range(1, world)), time.monotonic() + TIMEOUT.total_seconds()
    while missing:
        for r in sorted(missing):
            if store.check([f"heard/{own}/{r}"]):
                missing.remove(r)
            elif store.check([f"hello/{r}"]):
                store.set(f"answer/{store.get(f'hello/{r}').decode()}", own)
        if time.monotonic() > until:
            raise dist.DistStoreError(f"ranks {sorted(missing)} did not come")
        time.sleep(0.05)
    return own


def _barrier(device: torch.device) -> None:
    dist.all_reduce(torch.zeros(1, device=device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, on each of them; without gradient."""
    if not _several():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def all_reduce_mean(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each scalar's mean over the processes."""
    if not _several():
        return terms
    means = all_reduce_sum(torch.stack([value.float() for value in terms.values()])) / rank_and_world()[1]
    return dict(zip(terms, means, strict=True))


def mean_count(count: Tensor) -> Tensor:
    """A count's mean over the processes, of a sum that is at least 1.

    A loss divided by it, averaged over the processes, is the sum over all of them divided by the whole count.
    """
    return all_reduce_sum(count.float()).clamp(min=1) / rank_and_world()[1]


def all_gather(rows: Tensor) -> Tensor:
    """[n, ...] of each process -> [world * n, ...] in the order of ranks; `n` is the same in all. No gradient."""
    if not _several():
        return rows
    parts = [torch.empty_like(rows) for _ in range(rank_and_world()[1])]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def gather_from_others(rows: Tensor) -> Tensor:
    """[n, D] of each process, `n` its own -> the rows of all others, [m, D]. No gradient.

    Waits for the other processes' hosts, to learn their `n`, but for no device.
    """
    if not _several():
        return rows[:0]
    counts = all_gather(torch.tensor([len(rows)])).tolist()
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows.detach()
    rank, world = rank_and_world()
    parts = all_gather(padded).chunk(world) if max(counts) else [padded] * world
    others = [part[:n] for r, (part, n) in enumerate(zip(parts, counts, strict=True)) if r != rank]
    return torch.cat([rows[:0], *others])


def broadcast_object(value: T) -> T:
    """Rank 0's small picklable object, on every rank."""
    if not _several():
        return value
    words: list[Any] = [value]
    dist.broadcast_object_list(words, src=0)
    said: T = words[0]
    return said


def all_gather_object(value: T) -> list[T]:
    """Every rank's small picklable object, in rank order."""
    if not _several():
        return [value]
    words: list[Any] = [None] * rank_and_world()[1]
    dist.all_gather_object(words, value)
    return words


def all_gather_list(own: Sequence[T]) -> list[T]:
    """Every rank's small picklable objects in one list, in rank order."""
    return [one for part in all_gather_object(own) for one in part]
