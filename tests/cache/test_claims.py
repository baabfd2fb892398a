"""Claims about claims: one process at a time, the dead hold nothing, nobody is believed for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import cache.claims
from cache.claims import CLAIM_SECONDS, Claim, give_back, holder, ours, take, writing
from cache.location import Location

NAME = "claim.json"
BAD = b'{"host": "a", "pid": -1, "time": NaN, "owner": "x"}'


@pytest.fixture
def at(tmp_path: Path) -> Location:
    return Location(str(tmp_path))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules in a hundredth of the time."""
    monkeypatch.setattr(cache.claims, "RENEW_SECONDS", 0.2)


def put(at: Location, **changes: object) -> None:
    """A claim of this process, changed."""
    at.put(NAME, json.dumps(vars(Claim.mine()) | changes).encode())


def elsewhere(age: float) -> dict[str, object]:
    return {"host": "elsewhere", "owner": "elsewhere", "pid": 1, "time": time.time() - age}


def test_a_live_process_keeps_its_claim(at: Location) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        put(at, pid=other.pid, owner="other")
        found = take(at, NAME)
        assert found is not None and str(found) == f"process {other.pid} on {found.host}"
        other.kill()
        other.wait()
        assert take(at, NAME) is None
    give_back(at, NAME)


def test_a_number_given_to_a_new_process_is_believed_no_longer_than_a_claim_lasts(at: Location) -> None:
    """The claim's process is dead, and another has its number: nothing renews what it held."""
    put(at, pid=os.getppid(), owner="one that died", time=time.time() - CLAIM_SECONDS / 2)
    assert take(at, NAME) is not None
    put(at, pid=os.getppid(), owner="one that died", time=time.time() - 2 * CLAIM_SECONDS)
    assert take(at, NAME) is None
    give_back(at, NAME)


def test_an_earlier_process_with_our_own_number_is_dead(at: Location) -> None:
    """A container that is started again: its first process has the same number each time."""
    put(at, owner="the one before")
    assert take(at, NAME) is None
    give_back(at, NAME)


def test_a_process_that_stands_still_loses_its_claim_and_learns_it(at: Location) -> None:
    assert take(at, NAME) is None and ours(at, NAME)
    put(at, pid=os.getppid(), owner="who took it over")
    assert not ours(at, NAME)
    give_back(at, NAME)
    assert at.get_json(NAME)["owner"] == "who took it over"  # not ours to end


def test_who_wakes_up_does_not_renew_what_was_taken_over(at: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    assert take(at, NAME) is None
    put(at, pid=os.getppid(), owner="who took it over")

    class Stop(Exception):
        pass

    naps = iter([None])

    def nap(_: float) -> None:
        if next(naps, Stop) is Stop:
            raise Stop

    monkeypatch.setattr(cache.claims, "time", SimpleNamespace(time=time.time, sleep=nap))
    with pytest.raises(Stop):
        cache.claims._renew()
    assert at.get_json(NAME)["owner"] == "who took it over"
    give_back(at, NAME)


def test_all_that_a_stage_writes_is_claimed_while_it_runs(tmp_path: Path) -> None:
    places = [Location(str(tmp_path / kind)) for kind in ("tokens", "dense")]
    with writing(*places):
        (name,) = places[1].names()
        assert holder(places[1], name) is not None and name.endswith("claim.json")
        assert len(places[0].names()) == 1
    assert [at.names() for at in places] == [{}, {}]


def test_a_claim_of_another_machine_is_believed_while_it_is_young(at: Location) -> None:
    put(at, **elsewhere(age=CLAIM_SECONDS / 2))
    assert take(at, NAME) is not None


def test_an_old_claim_of_another_machine_is_taken_over(at: Location, quick: None) -> None:
    put(at, **elsewhere(age=2 * CLAIM_SECONDS))
    assert take(at, NAME) is None
    assert at.get_json(NAME)["pid"] == os.getpid()
    give_back(at, NAME)


def test_a_machine_with_a_wrong_clock_keeps_what_it_renews(at: Location, quick: None) -> None:
    """Its claims look an hour old, but they change while we look."""
    put(at, **elsewhere(age=3600))
    renewal = threading.Timer(0.1, lambda: put(at, **elsewhere(age=3599)))
    renewal.start()
    assert take(at, NAME) is not None
    renewal.join()


def test_a_young_claim_of_another_machine_is_watched_by_who_asks_for_it(at: Location, quick: None) -> None:
    """The rank 0 of a restarted job: the one before it may have died a minute ago, elsewhere."""
    put(at, **elsewhere(age=1))
    renewal = threading.Timer(0.1, lambda: put(at, **elsewhere(age=0)))
    renewal.start()
    assert take(at, NAME, watch=True) is not None
    renewal.join()
    assert take(at, NAME, watch=True) is None
    give_back(at, NAME)


def test_watching_believes_a_live_process_of_this_machine_at_once(at: Location) -> None:
    put(at, pid=os.getppid(), owner="other")
    assert take(at, NAME, watch=True) is not None


def test_what_no_one_can_read_is_no_claim(at: Location) -> None:
    """A machine that lost power may leave an empty file."""
    for broken in (b"", b"{", b"[1]", b'{"who": 1}', b"[" * 9999, BAD):
        at.put(NAME, broken)
        assert holder(at, NAME) is None
        assert take(at, NAME) is None
        give_back(at, NAME)


def test_of_two_that_take_over_at_once_one_gives_way(at: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    put(at, pid=2**22 + 1, owner="dead")
    winner = vars(Claim.mine()) | {"pid": os.getppid(), "owner": "other"}
    # While this process settles, the other one writes over its claim.
    put_winner = SimpleNamespace(time=time.time, sleep=lambda _: at.put(NAME, json.dumps(winner).encode()))
    monkeypatch.setattr(cache.claims, "time", put_winner)
    found = take(at, NAME)
    assert found is not None and found.pid == os.getppid()


def test_a_claim_is_renewed_until_it_is_given_back(at: Location) -> None:
    code = (
        "import sys, time, cache.claims as c; from cache.location import Location; c.RENEW_SECONDS = 0.05\n"
        f"at = Location({str(at)!r}); c.take(at, {NAME!r}); print('held', flush=True); sys.stdin.readline()\n"
        f"c.give_back(at, {NAME!r}); print('free', flush=True); time.sleep(0.3); print('end', flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        first = at.get_json(NAME)["time"]
        deadline = time.monotonic() + 20
        while at.get_json(NAME)["time"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert at.get_json(NAME)["time"] > first
        assert take(at, NAME) is not None
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "free\n"
        assert other.stdout.readline() == "end\n"
        assert at.get(NAME) is None  # and no renewal brought it back
