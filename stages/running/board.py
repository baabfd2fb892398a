"""TensorBoard's event file of a run, written without a thread, so that a full disk is an OSError at the call.

A folder gets the file as it grows; an object store gets it when the run stops.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from cache.location import Location

FOLDER = "tensorboard"
FLUSH_SECONDS = 10.0
"""How old what TensorBoard shows of a live run may be."""

OnScalar = Callable[[str, float, int], None]
"""Told of every point of a curve: name, value, iteration."""


class Board:
    """Curves and pictures of a run from iteration `start` on; later points that an earlier run left are hidden."""

    def __init__(self, out: Location, start: int, on_scalar: OnScalar | None = None) -> None:
        self.out, self.start, self.on_scalar = out, start, on_scalar
        self.name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        )

    def __enter__(self) -> Board:
        folder = self.out.path and self.out.path / FOLDER
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (folder / self.name).open("wb") if folder else tempfile.TemporaryFile()
        self._records, self._flushed = RecordWriter(self._file), time.monotonic()
        self._add(self.start, file_version="brain.Event:2")
        self._add(self.start, session_log=SessionLog(status=SessionLog.START))
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            if self.out.path is None:
                self._file.seek(0)
                self.out.put(f"{FOLDER}/{self.name}", self._file.read())

    def scalar(self, name: str, value: float, iteration: int) -> None:
        """A point of a curve."""
        self._add(iteration, summary=summary.scalar(name, value))
        if self.on_scalar is not None:
            self.on_scalar(name, value, iteration)

    def image(self, name: str, pixels: np.ndarray, iteration: int) -> None:
        """A picture uint8 [H, W, 3]."""
        self._add(iteration, summary=summary.image(name, pixels, dataformats="HWC"))

    def _add(self, iteration: int, **what: Any) -> None:
        self._records.write(Event(wall_time=time.time(), step=iteration, **what).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()
