"""Who writes what: a claim is renewed while its process works, and ends when it is given back or no longer renewed.

A claim is a lease. Whoever holds one asks `ours` before a write that another process could have overtaken: a process
that was stopped (SIGSTOP, a paused machine) and comes back finds that it lost it. Shards need no such question, since
what is written under them is a pure function of their address: two writers write the same bytes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cache.location import Location, StoreError

RENEW_SECONDS = 30.0
"""How often a process says that it still holds its claims."""
CLAIM_SECONDS = 300.0
"""A claim that was not renewed for this long belongs to a process that is dead or stopped."""
SUFFIX = "claim.json"
"""Ending of every claim's name."""
_SETTLE_SECONDS = 0.2
"""After a dead claim was taken over: time for another process that does the same at the same moment to show."""
_LARGEST = 4096
"""Most bytes of a claim that are believed."""


@dataclass(frozen=True)
class Claim:
    """Who is writing: host, process, when it last said so [s since 1970], and a random word of this process alone."""

    host: str
    pid: int
    time: float
    owner: str = ""

    @classmethod
    def mine(cls) -> Claim:
        return cls(socket.gethostname(), os.getpid(), time.time(), _owner(os.getpid()))

    @classmethod
    def parsed(cls, data: bytes | None) -> Claim | None:
        """The claim in a file; None where there is none, or nothing readable (a machine that lost power)."""
        if not data or len(data) > _LARGEST:
            return None
        try:
            found = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = (found.host, str), (found.pid, int), (found.time, (int, float)), (found.owner, str)
        plain = all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in kinds)
        return found if plain and math.isfinite(found.time) and 0 < found.pid < 2**31 else None

    @property
    def here(self) -> bool:
        """Whether the process is, or was, one of this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the writer is at work, as far as this machine can tell: clocks of two machines may differ.

        Of this host's processes those that are gone are known at once; any other is believed while it renews.
        """
        if self.here and self.owner != _owner(os.getpid()) and (self.pid == os.getpid() or not _exists(self.pid)):
            return False
        return abs(time.time() - self.time) < CLAIM_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def take(at: Location, name: str, *, watch: bool = False) -> Claim | None:
    """Takes the right to write what the claim file `name` stands for: None if it is ours now, else who has it.

    `watch`: a claim of another machine counts as alive only if it is renewed while we look, which takes up to a
    minute instead of the five after which it is called dead.
    """
    mine = Claim.mine()
    if at.put_new(name, _text()):
        _hold(at, name)
        return None
    found = holding(at, name)
    if found is None or found.owner != mine.owner:
        trusted = found is not None and found.alive and (found.here or not watch)
        if found is not None and (trusted or _renewed(at, name, found)):
            return found
        at.put(name, _text())
        time.sleep(_SETTLE_SECONDS)
        winner = holding(at, name)
        if winner is not None and winner.owner != mine.owner:
            return winner
    _hold(at, name)
    return None


def give_back(at: Location, name: str) -> None:
    """Ends a claim of this process. Never raises: a claim that can't be deleted ends when it is no longer renewed."""
    with _lock:
        if _held.pop((str(at), name), None) is None:
            return
        with suppress(StoreError):
            if ours(at, name):  # another's, if it was taken over meanwhile
                at.delete(name)


def ours(at: Location, name: str) -> bool:
    """Whether a claim that this process took is still its own: nobody has taken it over or away."""
    found = holding(at, name)
    return found is not None and found.owner == _owner(os.getpid())


def holder(at: Location, name: str) -> Claim | None:
    """Who holds a claim and is alive, this process included."""
    found = holding(at, name)
    return found if found is not None and found.alive else None


def holding(at: Location, name: str) -> Claim | None:
    """The claim as it stands, of a live process or not."""
    return Claim.parsed(at.get(name))


@contextmanager
def writing(*places: Location) -> Iterator[None]:
    """Says at each of `places`, from the first moment to the last, that this process writes there.

    Several may at once; each has its own file. What asks for room (`cache gc`, `rm`, `drop-dense`) leaves such a
    place alone, also between two shards and in tiers that are written late.
    """
    name = f"writers/{_owner(os.getpid())}.{SUFFIX}"
    try:
        for at in places:
            at.put(name, _text())
            _hold(at, name)
        yield
    finally:
        for at in places:
            give_back(at, name)


def _renewed(at: Location, name: str, found: Claim) -> bool:
    """Whether a claim that looks dead is renewed while we look: clocks may be wrong."""
    if found.here:
        return False  # one clock, and the process may be looked for
    until = time.monotonic() + 2 * RENEW_SECONDS
    while time.monotonic() < until:
        time.sleep(RENEW_SECONDS / 10)
        if holding(at, name) != found:
            return True
    return False


def _text() -> bytes:
    return json.dumps(vars(Claim.mine())).encode()


_held: dict[tuple[str, str], Location] = {}
_lock = threading.Lock()


def _hold(at: Location, name: str) -> None:
    """Keeps a claim renewed from now on."""
    with _lock:
        _held[str(at), name] = at
    _renewing(os.getpid())


@functools.cache
def _renewing(_: int) -> threading.Thread:
    """The one thread that renews all claims of this process; it dies with it."""
    thread = threading.Thread(target=_renew, name="claims", daemon=True)
    thread.start()
    return thread


def _renew() -> None:
    while True:
        time.sleep(RENEW_SECONDS)
        with _lock:
            for (_, name), at in list(_held.items()):
                with suppress(StoreError):
                    # A process that slept for an hour must not write over who took its claim meanwhile.
                    if ours(at, name):
                        at.put(name, _text())


@functools.cache
def _owner(_: int) -> str:
    """A word that no other process has ever had: numbers of processes come again."""
    return uuid.uuid4().hex


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
