"""What every stage shares on its way: the progress bar on stderr, clocks, work divided by shards."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cache.store import Artifact

WAIT_SECONDS = 2.0
"""How often a process looks whether another one has finished its shard."""

stderr = Console(stderr=True, highlight=False)


class Bar:
    """A progress bar with rate and remaining time; silent where stderr is not a terminal, but for its end."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.unit, self.done, self.total, self.label = unit, 0, total, label
        self.start = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=stderr,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID = self._progress.add_task(label, total=total, rate="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / max(time.perf_counter() - self.start, 1e-9)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Counts `n` more units done."""
        self.done += n
        self._progress.update(self._task, advance=n, rate=f"{self.rate:.1f} {self.unit}/s {note}")


class Clock:
    """Seconds spent under each name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def say(text: str) -> None:
    """A line for the user, on stderr."""
    stderr.print(text, markup=False, soft_wrap=True)


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def unclaimed(artifacts: list[Artifact], shards: int) -> Iterator[int]:
    """Shards that miss a commit mark in any of `artifacts`, each claimed for this process before it is given.

    Processes and machines divide the work through the claims alone. Shards that another live process holds are
    waited for at the end, and taken over if it dies.
    """
    rank, world = rank_and_world()
    order = [*range(rank * shards // world, shards), *range(rank * shards // world)]
    told = False
    while True:
        held = None
        for shard in order:
            if all(a.commit(shard) is not None for a in artifacts):
                continue
            holder = artifacts[0].claim(shard)
            if holder is None:
                yield shard
            else:
                held = f"shard {shard} is being written by {holder}"
        if held is None:
            return
        if not told:
            say(f"{artifacts[0]}: {held}; waiting for it")
            told = True
        time.sleep(WAIT_SECONDS)
