"""Claims about Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal

import pytest

from stages.running.interrupts import Stopped, deferred, terminable


def test_the_first_signal_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with deferred() as stop:
        assert stop.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_sigterm_raises_what_no_handler_of_exceptions_takes() -> None:
    with pytest.raises(Stopped, match="run the same command again") as caught, terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("taken for an error")
    assert caught.value.exit_code == 143
