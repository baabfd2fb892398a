"""Ctrl-C and SIGTERM (a scheduler's preemption): what runs is ended where nothing is lost, and says how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

AGAIN = "run the same command again to go on"
AGAIN_SECONDS = 0.05
"""After a signal was lost: time to leave the place where it was."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The user or the system asked this process to end. Its text says what is kept, on one line."""

    def __init__(self, number: int, said: str = f"stopped; what is committed stays, {AGAIN}") -> None:
        super().__init__(said)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, as a shell has it."""
        return 128 + self.number


class Request:
    """Whether a stop was asked for, and by which signal."""

    number: int | None = None


@contextmanager
def terminable() -> Iterator[None]:
    """Within this block SIGTERM raises `Stopped`, so that claims are given back and drafts kept, as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, _raise), sys.unraisablehook
    sys.unraisablehook = lambda lost: _send_again(lost.exc_value) or hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred() -> Iterator[Request]:
    """Within this block the first Ctrl-C or SIGTERM is noted, for a loop to end at a good place; the next raises.

    One that came too late for the loop is sent again behind the block, for what would come next.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            _raise(number, frame)
        request.number = number

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.number is not None:
        os.kill(os.getpid(), request.number)


def leave_to_parent() -> None:
    """For a loader process: signals sent to the whole group, as a terminal and SLURM do, are the stage's to answer.

    A second SIGTERM ends it, as its own parent sends one where it doesn't leave by itself.
    """

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)


def _send_again(lost: BaseException | None) -> bool:
    """Sends a signal once more whose exception came up where Python drops it (a destructor, a weak reference's
    callback), or the stop that was asked for would be forgotten. Whether `lost` is one."""
    if not isinstance(lost, KeyboardInterrupt):
        return False
    number = lost.number if isinstance(lost, Stopped) else signal.SIGINT
    threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
    return True


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)
