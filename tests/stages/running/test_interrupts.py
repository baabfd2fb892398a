"""Claims about Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from stages.running.interrupts import Stopped, deferred, terminable


def test_the_first_signal_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped) as caught, deferred() as stop:
        assert stop.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_falls_where_python_drops_exceptions_is_not_forgotten(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0)  # a handler runs between two steps of the interpreter

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    hook, seen = sys.unraisablehook, False
    with pytest.raises(KeyboardInterrupt) as caught, terminable():
        Dies()
        seen = True
        time.sleep(10)
    assert seen and not dropped and sys.unraisablehook is hook
    assert getattr(caught.value, "exit_code", 130) == code


def test_other_errors_that_python_drops_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def __del__(self) -> None:
            raise ValueError("told")

    dropped: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: dropped.append(str(lost.exc_value)))
    with terminable():
        Fails()
    assert dropped == ["told"]


def test_a_stop_that_came_too_late_for_the_loop_is_not_forgotten_behind_it() -> None:
    steps: list[str] = []
    with pytest.raises(Stopped) as caught, terminable():
        with deferred() as stop:
            os.kill(os.getpid(), signal.SIGTERM)  # in the last step
            steps.append("the last one")
        steps.append("the next row of a sweep")
    assert stop.number == signal.SIGTERM and steps == ["the last one"] and caught.value.exit_code == 143
