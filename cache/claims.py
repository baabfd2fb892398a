"""Who writes what: a claim is renewed while its process lives, and is found dead when it does not.

Claims save work, they are not what keeps data safe: what is written under them is a pure function of its
address, so two processes that both believe to hold one write the same bytes.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.location import Location, StoreError

RENEW_SECONDS = 60.0
"""How often a process says that it still holds its claims."""
CLAIM_SECONDS = 600.0
"""A claim of another machine that was not renewed for this long belongs to a dead process."""
_SETTLE_SECONDS = 0.2
"""After a dead claim was taken over: time for another process that does the same at the same moment to show."""


@dataclass(frozen=True)
class Claim:
    """Who is writing: host, process, when it last said so [s since 1970], boot of the host, start of the process."""

    host: str
    pid: int
    time: float
    machine: str = ""
    started: str = ""

    @classmethod
    def mine(cls) -> Claim:
        return cls(socket.gethostname(), os.getpid(), time.time(), _machine(), _started(os.getpid()))

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells this process from every other, one that was given its number later among them."""
        return self.machine, self.pid, self.started

    @property
    def here(self) -> bool:
        """Whether the process is, or was, one of this machine since it was booted."""
        return self.machine == _machine() if self.machine else self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the writer is at work, as far as this machine can tell: clocks of two machines may differ."""
        if self.here:
            return _exists(self.pid) and self.started in ("", _started(self.pid))
        return abs(time.time() - self.time) < CLAIM_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def take(at: Location, name: str, *, watch: bool = False) -> Claim | None:
    """Takes the right to write what the claim file `name` stands for: None if it is ours now, else who has it.

    `watch`: a claim of another machine counts as alive only if it is renewed while we look, which takes up to two
    minutes instead of the ten after which it is called dead.
    """
    mine = Claim.mine()
    if at.put_new(name, _text()):
        _hold(at, name)
        return None
    found = _read(at, name)
    if found is None or found.key != mine.key:
        trusted = found is not None and found.alive and (found.here or not watch)
        if found is not None and (trusted or _renewed(at, name, found)):
            return found
        at.put(name, _text())
        time.sleep(_SETTLE_SECONDS)
        winner = _read(at, name)
        if winner is not None and winner.key != mine.key:
            return winner
    _hold(at, name)
    return None


def give_back(at: Location, name: str) -> None:
    """Ends a claim of this process. Never raises: a claim that can't be deleted dies with the process."""
    with _lock:
        _held.pop((str(at), name), None)
        with suppress(StoreError):
            at.delete(name)


def holder(at: Location, name: str) -> Claim | None:
    """Who holds a claim and is alive, this process included."""
    found = _read(at, name)
    return found if found is not None and found.alive else None


def _read(at: Location, name: str) -> Claim | None:
    """The claim as it stands; None where there is none, or nothing readable (a machine that lost power)."""
    data = at.get(name)
    try:
        return Claim(**json.loads(data)) if data else None
    except (ValueError, TypeError):
        return None


def _renewed(at: Location, name: str, found: Claim) -> bool:
    """Whether a claim of another machine that looks dead is renewed while we look: clocks may be wrong."""
    if found.here:
        return False
    until = time.monotonic() + 2 * RENEW_SECONDS
    while time.monotonic() < until:
        time.sleep(RENEW_SECONDS / 10)
        if _read(at, name) != found:
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
    _renewing()


@functools.cache
def _renewing() -> threading.Thread:
    """The one thread that renews all claims of this process; it dies with it."""
    thread = threading.Thread(target=_renew, name="claims", daemon=True)
    thread.start()
    return thread


def _renew() -> None:
    while True:
        time.sleep(RENEW_SECONDS)
        with _lock:
            for (_, name), at in _held.items():
                with suppress(StoreError):
                    at.put(name, _text())


@functools.cache
def _machine() -> str:
    """One boot of one machine or container: two that share a host name still differ."""
    boot, pids = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        pids = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {pids}".strip()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; tells it from a later one of the same number. "" if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field, the name in brackets, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
