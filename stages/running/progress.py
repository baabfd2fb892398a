"""What every stage shares on its way: the progress bar on stderr, clocks, work divided by shards."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cache.claims import Claim
from cache.errors import printable
from cache.store import Artifact
from stages.parts.processes import rank_and_world

WAIT_SECONDS = 2.0
"""How often a process looks whether another one has finished its shard."""
LINE_SECONDS, LINE_SHARE, LEAST_SECONDS = 30.0, 0.05, 5.0
"""Where stderr is no terminal, a line of progress comes after so many seconds, or after this share of the work if the
last line is at least `LEAST_SECONDS` old: a log of a night's training stays short, that of a minute says something."""

stderr = Console(stderr=True, highlight=False)


class Bar:
    """Progress with rate and remaining time: a bar on a terminal, now and then a line elsewhere; rank 0 alone speaks.

    `done` of the `total` units were done by an earlier run: the bar begins there, rates count what comes now.
    `divided`: the units that are left are shared among the processes; this one's part is shown.
    """

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0, divided: bool = False) -> None:
        rank, world = rank_and_world()
        self.whole = total - done
        if divided and world > 1:
            label, total, done = f"{label} (process 1 of {world})", -(-(total - done) // world), 0
        self.unit, self.done, self.total, self.label, self.note = unit, 0, total, label, ""
        self.first, self.start = done, time.perf_counter()
        terminal = sys.stderr.isatty()
        self._lines = rank == 0 and not terminal
        self._said_at, self._said = self.start, done
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=stderr,
            disable=rank > 0 or not terminal,
        )
        self._task: TaskID = self._progress.add_task(label, total=total, completed=done, rate="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / max(time.perf_counter() - self.start, 1e-9)

    @property
    def overall(self) -> float:
        """Units per second of all processes together, when all is done."""
        return self.whole / max(time.perf_counter() - self.start, 1e-9)

    def skip(self, n: int) -> None:
        """Counts `n` units that turn out to be done already."""
        self.whole -= n
        self._progress.update(self._task, advance=n)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Counts `n` more units done. `note`, the loss for instance, is shown until another one comes."""
        self.done += n
        self.note = note or self.note
        self._progress.update(self._task, advance=n, rate=f"{self.rate:.1f} {self.unit}/s {self.note}")
        if self._lines:
            self._line()

    def _line(self) -> None:
        """Says how far the work is, where a line is due."""
        now, done = time.perf_counter(), self.first + self.done
        waited, share = now - self._said_at, (done - self._said) / max(self.total, 1)
        ends = done >= self.total and self._said_at > self.start  # who read a line waits for the last one
        if not (waited >= LINE_SECONDS or (waited >= LEAST_SECONDS and share >= LINE_SHARE) or ends):
            return
        self._said_at, self._said = now, done
        left = f", {clock_text((self.total - done) / self.rate)} left" if self.rate and done < self.total else ""
        words = (
            f"{self.label}: {done}/{self.total} ({done / max(self.total, 1):.0%}), {self.rate:.1f} {self.unit}/s{left}"
        )
        say(f"{words}, {self.note}" if self.note else words)


def clock_text(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


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
    """A line for the user, on stderr; of several processes rank 0 alone speaks."""
    if rank_and_world()[0] == 0:
        stderr.print(printable(text), markup=False, soft_wrap=True)


class ShardQueue:
    """The shards that miss a commit mark in any of `artifacts`, divided among processes and machines by claims alone.

    Use: `while work.open(): for shard in work.claims(): ...; work.release(shard)`, all of a round written before
    the next begins. What another live process holds is waited for between rounds, never while own work is open,
    and taken over if that process dies. Leaving the `with` block gives back what is still claimed.
    """

    def __init__(self, artifacts: list[Artifact], shards: int) -> None:
        rank, world = rank_and_world()
        first = rank * shards // world
        self.artifacts, self.order = artifacts, [*range(first, shards), *range(first)]
        self._round: Iterator[int] = iter(())
        self._claimed: set[int] = set()
        self._holder: Claim | None = None

    def __enter__(self) -> ShardQueue:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in list(self._claimed):
            self.release(shard)

    def open(self) -> bool:
        """Begins a round: whether there is a shard to write; waits while all that are left are in other hands."""
        told = False
        while True:
            self._holder, self._round = None, self._claims()
            for shard in self._round:
                self._round = chain([shard], self._round)
                return True
            if self._holder is None:
                return False
            if not told:
                say(f"{self.artifacts[0]}: a shard is being written by {self._holder}; waiting for it")
                told = True
            time.sleep(WAIT_SECONDS)

    def claims(self) -> Iterator[int]:
        """The shards of this round, each claimed for this process just before it is given."""
        return self._round

    def release(self, shard: int) -> None:
        """Gives back the claim on a shard, written or not."""
        self._claimed.discard(shard)
        self.artifacts[0].release(shard)

    def _claims(self) -> Iterator[int]:
        # One listing instead of a look at each of what may be a million marks; what came since is looked at.
        done = set.intersection(*(set(a.committed()) for a in self.artifacts))
        for shard in self.order:
            if shard in done or self._done(shard):
                continue
            holder = self.artifacts[0].claim(shard)
            if holder is not None:
                self._holder = holder
                continue
            self._claimed.add(shard)
            if self._done(shard):  # written by another process between the look and the claim
                self.release(shard)
            else:
                yield shard

    def _done(self, shard: int) -> bool:
        return all(a.commit(shard) is not None for a in self.artifacts)
