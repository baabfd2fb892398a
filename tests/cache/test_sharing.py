"""Claims about a shard that one artifact takes over from another: the same bytes, checked, stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import obstore
import pytest

from cache.location import Location, StoreError
from cache.store import Artifact


def dense(at: Location, name: str) -> Artifact:
    return Artifact(at.child(name), "dense").create(
        {"stage": "extract", "preset": "x", "dtype": "float16", "seen": ["a"]}
    )


def pair(tmp_path: Path) -> tuple[Artifact, Artifact]:
    """An artifact with shards 0 and 1, and an empty one beside it."""
    at = Location(str(tmp_path))
    full, empty = dense(at, "dense-0.zarr"), dense(at, "dense-1.zarr")
    maps = np.random.default_rng(0).normal(size=(4, 1, 2, 3)).astype(np.float16)
    full.write(0, ["a", "b"], {"dense": maps[:2]}, {"bad": [], "photos": [1, 2]})
    full.write(1, ["c", "d"], {"dense": maps[2:]}, {"bad": [], "photos": [3, 4]})
    return full, empty


def objects(artifact: Artifact, shard: int) -> dict[str, Path]:
    """Name -> file of what lies in a shard, but for its mark."""
    assert artifact.at.path is not None
    folder = artifact.at.path / f"shards/{shard:05d}"
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "commit.json")
    return {str(f.relative_to(folder)): f for f in files}


def test_a_shard_that_is_taken_over_is_the_same_files_and_outlives_the_first(tmp_path: Path) -> None:
    full, grown = pair(tmp_path)
    assert grown.take_over(0, full, 1, {"photos": [5, 6]})
    theirs, ours = objects(full, 1), objects(grown, 0)
    assert ours.keys() == theirs.keys() and all(ours[name].samefile(theirs[name]) for name in ours)
    mark = grown.commit(0)
    assert mark is not None and (mark["ids"], mark["stats"]) == (["c", "d"], {"bad": [], "photos": [5, 6]})
    wanted = full.read(1)["dense"]
    full.drop()
    assert grown.faults(0) == [] and np.array_equal(grown.read(0)["dense"], wanted)


def test_what_is_damaged_is_not_taken_over(tmp_path: Path) -> None:
    full, grown = pair(tmp_path)
    chunk = max(objects(full, 0).values(), key=lambda file: file.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"dense-0.zarr/shards/00000/.*: damaged"):
        grown.take_over(0, full, 0, {})
    assert grown.commit(0) is None


def test_a_store_that_can_not_share_says_so_and_nothing_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise obstore.exceptions.NotSupportedError("no hard links here")

    full, grown = pair(tmp_path)
    far = dense(Location(str(tmp_path / "elsewhere")), "dense-2.zarr")  # a store of its own
    assert not far.take_over(0, full, 0, {})
    monkeypatch.setattr(obstore, "copy", refused)
    assert not grown.take_over(0, full, 0, {})
    assert far.commit(0) is None and grown.commit(0) is None
    assert grown.write(0, ["a", "b"], full.read(0), {}) > 0  # what is done instead


def test_taking_over_again_leaves_no_other_file(tmp_path: Path) -> None:
    full, grown = pair(tmp_path)
    assert grown.take_over(0, full, 0, {}) and grown.take_over(0, full, 0, {})
    assert grown.at.staged() == []


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3], [0, 2, 3], [2, 1, 0], []])
def test_rows_come_in_the_order_asked_for_however_they_are_read(tmp_path: Path, rows: list[int]) -> None:
    made = dense(Location(str(tmp_path)), "dense-0.zarr")
    maps = np.random.default_rng(1).normal(size=(4, 1, 2, 3)).astype(np.float16)
    made.write(0, list("abcd"), {"dense": maps}, {})
    found = list(made.rows(0, "dense", rows))
    assert len(found) == len(rows) and all(np.array_equal(f, maps[r]) for f, r in zip(found, rows, strict=True))
