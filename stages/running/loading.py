"""Loader processes whose failures travel as values: an error is raised here as it is, not as a worker's traceback.

A process that dies, or can't send a batch because /dev/shm is full, ends the run at once: torch alone would wait for
the batch for ever.
"""

from __future__ import annotations

import multiprocessing.queues
import multiprocessing.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch.utils.data import DataLoader, Dataset

from cache.errors import InputError
from stages.running.compute import Compute
from stages.running.interrupts import leave_to_parent

SHM = Path("/dev/shm")
"""Where loader processes put batches for the stage to read."""
_LOST = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (\d+).*?\) (?:is killed by signal: (\w+(?: \w+)?)|exited)", re.DOTALL
)
_NO_ROOM = ("No space left", "shared memory", "Bus error")

T = TypeVar("T")


@dataclass(frozen=True)
class _Raised:
    """An error that an item raised; an error that an item *is*, such as an image to be set aside, is a value."""

    error: InputError


class _ByValue(Dataset[Any]):
    """A data set that returns the InputError that an item raises, as `_Raised`."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.inner[item]
        except InputError as error:
            return _Raised(error)


class _Collate:
    """A collate function that passes on the first error among the items."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        return next((item for item in items if isinstance(item, _Raised)), None) or self.collate(items)


def _end_loaders() -> None:
    """Ends loader processes that an unforeseen error left behind.

    Its traceback keeps them; the interpreter, about to end, sends each one SIGTERM, which they leave to the stage
    (`leave_to_parent`), and would wait for them for ever.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def loaded(
    data: Dataset[Any], sampler: Iterable[list[Any]], collate: Callable[[list[Any]], T], compute: Compute
) -> Iterator[T]:
    """The batches that `sampler` lists, made by `compute.workers` processes. Raises an item's InputError as it is."""
    loader = DataLoader(
        _ByValue(data),
        batch_sampler=sampler,
        num_workers=compute.workers,
        collate_fn=_Collate(collate),
        pin_memory=compute.gpu,
        worker_init_fn=_begin,
    )
    # Run before the interpreter ends daemons itself, and left in place where an error leaves this generator half-way.
    at_exit = multiprocessing.util.Finalize(None, _end_loaders, exitpriority=10)
    try:
        for batch in loader:
            if isinstance(batch, _Raised):
                raise batch.error
            yield batch
    finally:
        at_exit.cancel()


def _begin(number: int) -> None:
    """Prepares a loader process."""
    leave_to_parent()
    # Called by the thread that sends batches, which else prints a traceback and drops the batch.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_unsent)  # type: ignore[attr-defined]


def _unsent(error: BaseException, batch: object) -> NoReturn:
    """Ends this loader process, leaving word of why it could not send a batch."""
    with suppress(OSError):
        _word_of(os.getpid()).write_text(" ".join(str(error).split()) or type(error).__name__)
    os._exit(1)


def _word_of(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"clip2seg-loader-{pid}.txt"


@contextmanager
def losses_explained(compute: Compute) -> Iterator[None]:
    """Turns the loss of a loader process, which torch may raise anywhere in this block, into an InputError."""
    try:
        yield
    except RuntimeError as error:
        chain = [error, error.__cause__, error.__context__]
        found = [lost for link in chain if link is not None and (lost := _LOST.search(str(link)))]
        if not found:
            raise
        lost = max(found, key=lambda match: match[2] is not None)  # the one that knows the signal
        raise InputError(_why(int(lost[1]), lost[2] or "", compute.workers)) from error


def _why(pid: int, signal: str, workers: int) -> str:
    word = _word_of(pid)
    said = ""
    with suppress(OSError):
        said = word.read_text()
        word.unlink()
    if any(sign in f"{said} {signal}" for sign in _NO_ROOM):
        return (
            f"{SHM} is too small for {workers} loader processes: it holds {shm_text()}; give the container more "
            "(`docker run --shm-size=8g`), or use fewer --workers (--workers 0 needs none)"
        )
    if signal:
        return (
            f"a loader process was killed ({signal.lower()}): most likely the machine ran out of memory; use fewer "
            f"--workers (now {workers}), or a smaller batch"
        )
    return f"a loader process died ({said or 'it said nothing'}); --workers 0 shows where"


def shm_text() -> str:
    """What /dev/shm holds, in words."""
    try:
        usage = shutil.disk_usage(SHM)
    except OSError:
        return "nothing, there is none"
    return f"{usage.total / 2**20:.0f} MiB, {usage.free / 2**20:.0f} of them free"
