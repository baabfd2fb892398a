"""Claims about the conformance suites: our stores pass, and a store that lies is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.location import LARGEST, Location
from cache.testing import ARTIFACT, STORE, check_artifacts, check_store


@pytest.fixture(params=["folder", "memory"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(str(tmp_path)) if request.param == "folder" else Location("memory:///")


def test_folder_and_memory_pass_both_suites(at: Location) -> None:
    assert len(check_store(at.child("objects"))) == len(STORE)
    assert len(check_artifacts(at.child("shards"))) == len(ARTIFACT)
    assert at.names() == {}


class Forgetful(Location):
    """Creates what is there already."""

    def child(self, name: str) -> Forgetful:
        return Forgetful(self.url, self.key(name), self.store)

    def put_new(self, name: str, data: bytes) -> bool:
        self.put(name, data)
        return True


class Cutting(Forgetful):
    """Hands out what is too large."""

    def child(self, name: str) -> Cutting:
        return Cutting(self.url, self.key(name), self.store)

    def put_new(self, name: str, data: bytes) -> bool:
        return Location.put_new(self, name, data)

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        return (super().get(name) or b"")[:most] or None


@pytest.mark.parametrize(
    ("kind", "said"), [(Forgetful, "only_one_creates"), (Cutting, "what_is_put_is_got|too_large_is_not_read")]
)
def test_a_store_that_lies_is_named(kind: type[Location], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_store(kind("memory:///"))


def test_a_place_that_is_not_empty_is_refused(at: Location) -> None:
    at.put("x", b"1")
    with pytest.raises(AssertionError, match="not empty"):
        check_store(at)
