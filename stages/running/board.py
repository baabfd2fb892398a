"""What shows a run while it trains: TensorBoard's event file, and trackers that are told the same.

The file is written without a thread, so that a full disk is an OSError at the call. A folder gets it as it grows; an
object store gets it when the run stops.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from cache.location import Location
from stages.parts.data.views import Array
from stages.parts.students import Student

FOLDER = "tensorboard"
FLUSH_SECONDS = 10.0
"""How old what TensorBoard shows of a live run may be."""
SCORES = ("hIoU", "sIoU", "uIoU")
"""Scores of an evaluation that a run's curves end with, as `score/NAME`."""


class Tracker(Protocol):
    """Who is told of every point of a curve and of every picture uint8 [H, W, 3], with the iteration."""

    def scalar(self, name: str, value: float, iteration: int) -> None:
        """A point of a curve."""

    def image(self, name: str, pixels: Array, iteration: int) -> None:
        """A picture."""


@dataclass(frozen=True)
class Showing:
    """How a run is shown.

    name: what TensorBoard calls it below the run's folder; "": nothing. settings: those that tell it from others of its
    preset, for TensorBoard's table of hyperparameters. pictures: the student at a checkpoint -> pictures by name.
    """

    name: str = ""
    settings: Mapping[str, str | float] = field(default_factory=dict)
    trackers: Sequence[Tracker] = ()
    pictures: Callable[[Student], Mapping[str, Array]] | None = None


class Board:
    """Curves and pictures of a run. `start`: from this iteration on what an earlier run left is hidden; None: nothing
    is, and hyperparameters are not told again."""

    def __init__(self, out: Location, start: int | None, showing: Showing | None = None) -> None:
        self.out, self.start, self.showing = out, start, showing or Showing()
        self.folder = f"{FOLDER}/{self.showing.name}".rstrip("/")
        self.name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        )

    def __enter__(self) -> Board:
        folder = self.out.path and self.out.path / self.folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (folder / self.name).open("wb") if folder else tempfile.TemporaryFile()
        self._records, self._flushed = RecordWriter(self._file), time.monotonic()
        self._add(self.start or 0, file_version="brain.Event:2")
        if self.start is not None:
            self._add(self.start, session_log=SessionLog(status=SessionLog.START))
            if self.showing.settings:
                # The scores are named now and told by the evaluation; the last part would say that the run has ended.
                known = summary.hparams(dict(self.showing.settings), {f"score/{name}": 0.0 for name in SCORES})
                for part in known[:2]:
                    self._add(self.start, summary=part)
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            if self.out.path is None:
                self._file.seek(0)
                self.out.put(f"{self.folder}/{self.name}", self._file.read())

    def scalar(self, name: str, value: float, iteration: int) -> None:
        """A point of a curve."""
        self._add(iteration, summary=summary.scalar(name, value))
        for tracker in self.showing.trackers:
            tracker.scalar(name, value, iteration)

    def image(self, name: str, pixels: Array, iteration: int) -> None:
        """A picture uint8 [H, W, 3]."""
        self._add(iteration, summary=summary.image(name, pixels, dataformats="HWC"))
        for tracker in self.showing.trackers:
            tracker.image(name, pixels, iteration)

    def photos(self, student: Student, iteration: int) -> None:
        """The pictures of a checkpoint that `Showing` asks for."""
        if self.showing.pictures is not None:
            for name, pixels in self.showing.pictures(student).items():
                self.image(name, pixels, iteration)

    def _add(self, iteration: int, **what: Any) -> None:
        self._records.write(Event(wall_time=time.time(), step=iteration, **what).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()
