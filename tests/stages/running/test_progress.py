"""What a log file shows of a long stage."""

from __future__ import annotations

import pytest

from stages.running import progress
from stages.running.progress import Bar, clock_text


class Time:
    """A clock that tests turn."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    return lines


def test_without_a_terminal_a_line_comes_every_five_percent_with_rate_rest_and_loss(
    time: Time, said: list[str]
) -> None:
    with Bar("train", 200, "it") as bar:
        for i in range(200):
            time.now += 0.6
            bar.advance(1, f"loss {200 - i}" if i % 10 == 0 else "")
    assert said[0] == "train: 10/200 (5%), 1.7 it/s, 1:54 left, loss 200"
    assert said[-1] == "train: 200/200 (100%), 1.7 it/s, loss 10"
    assert len(said) == 20


def test_slow_work_says_so_twice_a_minute(time: Time, said: list[str]) -> None:
    with Bar("extract", 10_000, "images") as bar:
        for _ in range(10):
            time.now += 15
            bar.advance()
    assert [line.split(" ")[1] for line in said] == [f"{n}/10000" for n in (2, 4, 6, 8, 10)]


def test_what_ends_within_seconds_says_nothing(time: Time, said: list[str]) -> None:
    with Bar("eval", 100, "images") as bar:
        for _ in range(100):
            time.now += 0.04
            bar.advance()
    assert said == []


def test_a_resumed_stage_counts_from_where_it_was(time: Time, said: list[str]) -> None:
    with Bar("train", 100, "it", done=50) as bar:
        time.now += 6
        bar.advance(5)
    assert said == ["train: 55/100 (55%), 0.8 it/s, 0:54 left"]


def test_other_ranks_are_silent(time: Time, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with Bar("train", 10, "it") as bar:
        time.now += 100
        bar.advance(5)
    assert said == []


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.7, "1:00:00"), (7325, "2:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
