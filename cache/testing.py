"""Two conformance suites for a store that somebody else wrote or runs: does the cache stay right on it?

    from cache.location import Location
    from cache.testing import check_artifacts, check_store

    check_store(Location("s3://bucket/empty/prefix"))      # single objects, listings, claims
    check_artifacts(Location("s3://bucket/another"))       # shards through lagging listings, failures, cut bodies

Each takes an empty place, returns the names of the checks that it made, and raises AssertionError for the first that
fails. `Unreliable` puts the faults before any store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from cache.claims import give_back, holder, ours, take
from cache.errors import InputError
from cache.location import LARGEST, Location, StoreError
from cache.store import Artifact


@dataclass
class Faults:
    """What goes wrong, by full key: names that no listing shows, bodies that come half; writes until the store fails.

    `after`: the write that fails was done all the same, and only its answer is lost.
    """

    hidden: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    writes_left: int | None = None
    after: bool = False


class Unreliable(Location):
    """A location whose store lags, fails and cuts as `faults` says."""

    def __init__(self, base: Location, faults: Faults) -> None:
        super().__init__(base.url, base.prefix, base.store)
        self.faults = faults

    def child(self, name: str) -> Unreliable:
        """The location below this one, with the same faults."""
        return Unreliable(super().child(name), self.faults)

    def listed(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """A listing that lags behind what was written."""
        return ((name, size) for name, size in super().listed(prefix) if self.key(name) not in self.faults.hidden)

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """A body, or the first half of one."""
        data = super().get(name, most)
        return data[: len(data) // 2] if data and self.key(name) in self.faults.cut else data

    def put(self, name: str, data: bytes) -> None:
        """A write, until the store fails."""
        with self._failing():
            super().put(name, data)

    def delete(self, name: str) -> None:
        """A deletion, until the store fails."""
        with self._failing():
            super().delete(name)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        left = self.faults.writes_left
        if left is not None:
            self.faults.writes_left = left - 1
            if left <= 0 and not self.faults.after:
                raise StoreError(f"{self}: the store fails, as asked for")
        yield
        if left is not None and left <= 0:
            raise StoreError(f"{self}: the store fails, as asked for")


def check_store(at: Location) -> list[str]:
    """Single objects, listings and claims on an empty place."""
    return _run(at, STORE)


def check_artifacts(at: Location) -> list[str]:
    """Shards on an empty place: what is committed is whole, whatever the store does."""
    return _run(at, ARTIFACT)


def _run(at: Location, checks: Collection[Callable[[Location], None]]) -> list[str]:
    assert not at.names(), f"{at}: not empty; name another place"
    for check in checks:
        here = at.child(check.__name__.strip("_"))
        try:
            check(here)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__.strip('_')} ({check.__doc__}): {error}") from error
        finally:
            here.delete_all()
    return [check.__name__.strip("_") for check in checks]


# -- single objects ------------------------------------------------------------------------------------------


def _what_is_put_is_got(at: Location) -> None:
    """An object has the bytes that were put last, its size, and nothing before."""
    assert at.get("a/b") is None and at.size("a/b") is None and at.modified("a/b") is None
    for data in (b"", b"one", b"other" * 1000):
        at.put("a/b", data)
        assert at.get("a/b") == data and at.size("a/b") == len(data)
    assert at.get_start("a/b", 7) == b"otherot"


def _what_is_deleted_is_gone(at: Location) -> None:
    """A deletion is seen at once, and deleting nothing is fine."""
    at.put("a", b"1")
    at.delete("a")
    at.delete("a")
    assert at.get("a") is None and "a" not in at.names()


def _only_one_creates(at: Location) -> None:
    """An object that is created only if it is not there is created once."""
    assert at.put_new("a", b"first") and not at.put_new("a", b"second")
    assert at.get("a") == b"first"


def _a_listing_has_every_name(at: Location) -> None:
    """A listing, when it has settled, has each name once with its size, and folders one level down."""
    wanted = {f"{folder}/{i:03d}": i for folder in ("x", "y/z") for i in range(40)}
    for name, size in wanted.items():
        at.put(name, b"." * size)
    assert at.names() == wanted and at.children() == ["x", "y"]
    assert set(at.names("y")) == {name for name in wanted if name.startswith("y/")}


def _what_is_too_large_is_not_read(at: Location) -> None:
    """An object larger than asked for is refused, not cut."""
    at.put("a", b"123")
    with _refused():
        at.get("a", 2)


def _a_claim_has_one_owner(at: Location) -> None:
    """A claim is held until it is given back, and who took it over keeps it."""
    assert take(at, "claim.json") is None and ours(at, "claim.json") and holder(at, "claim.json") is not None
    give_back(at, "claim.json")
    assert at.get("claim.json") is None


STORE = (
    _what_is_put_is_got,
    _what_is_deleted_is_gone,
    _only_one_creates,
    _a_listing_has_every_name,
    _what_is_too_large_is_not_read,
    _a_claim_has_one_owner,
)
"""Checks of `check_store`."""


# -- shards through faults -----------------------------------------------------------------------------------


def _made(at: Location, faults: Faults | None = None) -> Artifact:
    artifact = Artifact(Unreliable(at, faults or Faults()), "dense")
    return artifact.create({"stage": "extract x", "dtype": "float16", "seen": ["a"]})


def _written(artifact: Artifact, shards: Collection[int]) -> None:
    for shard in shards:
        artifact.write(shard, [f"v{shard}"], {"dense": np.full((1, 2, 2, 3), shard + 1, np.float16)}, {})


def _whole(at: Location, shards: int) -> None:
    again = Artifact(at, "dense")
    assert again.ids() == [f"v{i}" for i in range(shards)]
    assert [float(again.read(i)["dense"].max()) for i in range(shards)] == [i + 1.0 for i in range(shards)]
    assert not [fault for shard in again.shards() for fault in again.faults(shard)]


def _a_lagging_listing_hides_no_shard(at: Location) -> None:
    """A listing that misses a commit mark makes no smaller artifact: completion asks for each mark by name."""
    faults = Faults(hidden={at.key("shards/00001/commit.json")})
    artifact = _made(at, faults)
    _written(artifact, range(3))
    artifact.finish({}, 3)
    assert artifact.summary(3) is not None and list(artifact.shards()) == [0, 1, 2]
    _whole(at, 3)


def _what_is_missing_is_not_completed(at: Location) -> None:
    """An artifact of fewer shards than asked for is not complete, and says so."""
    artifact = _made(at)
    _written(artifact, (0, 2))
    with _refused():
        artifact.finish({}, 3)
    assert artifact.summary() is None


def _a_failure_at_any_write_commits_nothing(at: Location) -> None:
    """Whichever write the store fails at, done or not: the shard is whole or not there, and a second try mends it."""
    for after in (False, True):
        for left in range(6):
            here = at.child(f"{after}-{left}")
            _made(here)
            broken = Artifact(Unreliable(here, Faults(writes_left=left, after=after)), "dense")
            with contextlib.suppress(StoreError):
                _written(broken, [0])
            committed = Artifact(here, "dense").committed()
            assert committed in ([], [0]) and not (committed and Artifact(here, "dense").faults(0))
            again = Artifact(here, "dense")
            _written(again, [0])
            again.finish({}, 1)
            _whole(here, 1)


def _a_cut_body_is_noticed(at: Location) -> None:
    """Half an object, of data or of a mark, is refused by whoever reads it."""
    _written(_made(at), [0])
    for name in at.names("shards/00000"):
        broken = Artifact(Unreliable(at, Faults(cut={at.key(name)})), "dense")
        with _refused():
            broken.read(0)
            broken.ids()
    _whole(at, 1)


ARTIFACT = (
    _a_lagging_listing_hides_no_shard,
    _what_is_missing_is_not_completed,
    _a_failure_at_any_write_commits_nothing,
    _a_cut_body_is_noticed,
)
"""Checks of `check_artifacts`."""


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except InputError:
        return
    raise AssertionError("it was not refused")
