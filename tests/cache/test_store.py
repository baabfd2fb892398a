"""Claims about shards: what is committed is whole, what is not committed does not exist."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from cache.claims import Claim, take
from cache.errors import InputError
from cache.location import Location, StoreError
from cache.schema import SCHEMA
from cache.store import Artifact

D = 4


def tokens(at: Path) -> Artifact:
    """An empty artifact of global and local tokens."""
    return Artifact(Location(str(at)).child("tokens-0.zarr"), "tokens").create(
        {"stage": "extract", "preset": "x", "dtype": "float16", "seen": list("abcdefgh")}
    )


def dense(at: Path) -> Artifact:
    return Artifact(Location(str(at)).child("dense-0.zarr"), "dense").create(
        {"stage": "extract", "preset": "x", "dtype": "float16", "seen": list("abcdefgh")}
    )


def arrays(regions: list[int], first: int = 0) -> dict[str, np.ndarray]:
    """A shard of views with so many regions each; token values count up from `first`."""
    n, p = len(regions), sum(regions)
    return {
        "global": (first + np.arange(n * D)).reshape(n, D).astype(np.float16),
        "local": (100 + first + np.arange(p * D)).reshape(p, D).astype(np.float16),
        "local_region": np.arange(p).astype(np.uint8),
        "local_offsets": np.cumsum([0, *regions]),
        "image_size": np.full((n, 2), 7, np.int32),
        "view_seed": np.arange(n, dtype=np.uint64),
        "labels_crc": np.arange(n, dtype=np.uint32),
        "photo_crc": np.arange(n, dtype=np.uint32),
    }


def names(shard: int, count: int) -> list[str]:
    return [f"s{shard}v{i}" for i in range(count)]


def field(n: int) -> dict[str, np.ndarray]:
    return {"dense": np.random.default_rng(n).normal(size=(n, 2, 3, D)).astype(np.float16)}


def damage(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    wanted = arrays([2, 0, 1])
    size = tokens(tmp_path).write(0, names(0, 3), wanted, {"bad": []})
    got = Artifact(Location(str(tmp_path)).child("tokens-0.zarr"), "tokens")
    for name, value in got.read(0).items():
        assert value.dtype == wanted[name].dtype
        np.testing.assert_array_equal(value, wanted[name])
    assert got.ids() == names(0, 3)
    assert (got.commit(0) or {})["stats"] == {"bad": []}
    files = [f for f in (tmp_path / "tokens-0.zarr/shards/00000").rglob("*") if f.is_file() and f.name != "commit.json"]
    assert size == sum(f.stat().st_size for f in files)


def test_the_commit_mark_is_put_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    original = Location.put

    def recorded(self: Location, name: str, data: bytes) -> None:
        put.append(name)
        original(self, name, data)

    artifact = tokens(tmp_path)
    monkeypatch.setattr(Location, "put", recorded)
    artifact.write(0, names(0, 1), arrays([1]), {})
    assert put[-1] == "shards/00000/commit.json"
    assert len(put) > 7 and sum("commit" in name for name in put) == 1


def test_a_shard_without_its_commit_mark_does_not_exist(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    artifact.write(0, names(0, 1), arrays([1]), {})
    artifact.write(1, names(1, 2), arrays([1, 1]), {})
    (tmp_path / "tokens-0.zarr/shards/00000/commit.json").unlink()
    again = Artifact(artifact.at, "tokens")
    assert again.committed() == [1]
    assert again.ids() == names(1, 2)
    assert len(again.load(["global"])["global"]) == 2
    with pytest.raises(StoreError, match=r"shards/00000: not there; run `clip2seg extract x` again"):
        again.read(0)


def test_a_write_that_fails_half_way_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, original, left = tokens(tmp_path), Location.put, [4]

    def failing(self: Location, name: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreError("no space left on device")
        original(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Location, "put", failing)
        with pytest.raises(StoreError):
            artifact.write(0, names(0, 2), arrays([1, 2]), {})
    assert artifact.committed() == [] and artifact.commit(0) is None
    artifact.write(0, names(0, 2), arrays([1, 2]), {})  # and the next attempt is as good as the first
    assert artifact.faults(0) == []
    np.testing.assert_array_equal(artifact.read(0)["global"], arrays([1, 2])["global"])


def test_ragged_arrays_of_all_shards_are_joined(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    parts = [([2, 0, 1], 0), ([0], 50), ([3, 1], 90)]
    for shard in (2, 0, 1):  # in whatever order they were written
        regions, first = parts[shard]
        artifact.write(shard, names(shard, len(regions)), arrays(regions, first), {})
    got = artifact.load(["global", "local", "local_offsets", "local_region"])
    assert got["local_offsets"].tolist() == [0, 2, 2, 3, 3, 6, 7]
    assert got["local_region"].tolist() == [0, 1, 2, 0, 1, 2, 3]
    np.testing.assert_array_equal(got["global"], np.concatenate([arrays(r, f)["global"] for r, f in parts]))
    np.testing.assert_array_equal(got["local"], np.concatenate([arrays(r, f)["local"] for r, f in parts]))
    assert artifact.ids() == ["s0v0", "s0v1", "s0v2", "s1v0", "s2v0", "s2v1"]


def test_a_shard_of_no_view_and_a_view_of_no_region_are_stored(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    artifact.write(0, [], arrays([]), {"bad": ["all"]})
    artifact.write(1, names(1, 1), arrays([0]), {})
    got = artifact.load(["global", "local", "local_offsets"])
    assert (got["global"].shape, got["local"].shape) == ((1, D), (0, D))
    assert got["local_offsets"].tolist() == [0, 0]
    rows = dense(tmp_path)
    rows.write(0, [], field(0), {})
    assert list(rows.rows(0, "dense")) == []


def test_an_array_that_the_schema_does_not_know_is_never_written(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    with pytest.raises(ValueError, match="float32"):
        artifact.write(0, names(0, 1), arrays([1]) | {"global": np.zeros((1, D), np.float32)}, {})
    assert not (tmp_path / "tokens-0.zarr/shards").is_dir() or artifact.committed() == []


@pytest.mark.parametrize("array", ["global", "local", "local_offsets"])
def test_a_flipped_bit_is_refused_by_the_reader_and_named(tmp_path: Path, array: str) -> None:
    artifact = tokens(tmp_path)
    artifact.write(0, names(0, 2), arrays([1, 2]), {})
    chunk = next(f for f in (tmp_path / f"tokens-0.zarr/shards/00000/{array}/c").rglob("*") if f.is_file())
    damage(chunk)
    again = Artifact(artifact.at, "tokens")
    with pytest.raises(StoreError, match=f"shards/00000/{array}/.*: damaged; run `clip2seg cache verify --repair`"):
        again.read(0)
    assert [f.split(": ")[1] for f in again.faults(0)] == ["damaged"]
    again.read(0, [n for n in ("global", "local", "local_offsets") if n != array])  # the others are still good
    chunk.unlink()
    with pytest.raises(StoreError, match="missing"):
        again.read(0)
    assert [f.split(": ")[1] for f in again.faults(0)] == ["missing"]


def test_dense_rows_come_one_at_a_time_and_checked(tmp_path: Path) -> None:
    artifact, wanted = dense(tmp_path), field(5)
    artifact.write(0, names(0, 5), wanted, {})
    got = list(Artifact(artifact.at, "dense").rows(0, "dense"))
    np.testing.assert_array_equal(np.stack(got), wanted["dense"])
    chunk = next(f for f in (tmp_path / "dense-0.zarr/shards/00000/dense/c").rglob("*") if f.is_file())
    damage(chunk, 10)
    with pytest.raises(StoreError, match="damaged"):
        list(Artifact(artifact.at, "dense").rows(0, "dense"))
    chunk.unlink()
    with pytest.raises(StoreError, match="missing"):
        list(Artifact(artifact.at, "dense").rows(0, "dense"))


@pytest.mark.parametrize("only", [None, range(5)])
def test_a_flipped_byte_anywhere_in_stored_rows_is_noticed_as_they_are_read(tmp_path: Path, only: range | None) -> None:
    artifact, wanted = dense(tmp_path), field(5)
    artifact.write(0, names(0, 5), wanted, {})
    chunk = next(f for f in (tmp_path / "dense-0.zarr/shards/00000/dense/c").rglob("*") if f.is_file())
    whole = chunk.read_bytes()
    index = len(whole) - (5 * 16 + 4)  # offset and length of each row, then their own checksum
    places = {*range(0, index, 61), index - 1, *range(index, len(whole), 7), len(whole) - 1}
    for place in sorted(places):
        chunk.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError, match="damaged"):
            list(Artifact(artifact.at, "dense").rows(0, "dense", only))
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(np.stack(list(artifact.rows(0, "dense", only))), wanted["dense"])


def test_a_discarded_shard_can_be_made_anew(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    artifact.write(0, names(0, 1), arrays([1]), {})
    artifact.finish({"views": 1}, 1)
    assert artifact.summary() == {"views": 1}
    artifact.discard(0)
    assert artifact.summary() is None and artifact.committed() == []
    artifact.write(0, names(0, 1), arrays([1], 5), {})
    np.testing.assert_array_equal(artifact.read(0)["global"], arrays([1], 5)["global"])


def test_a_dropped_tier_leaves_a_mark_and_can_be_filled_again(tmp_path: Path) -> None:
    artifact = dense(tmp_path)
    artifact.write(0, names(0, 50), field(50), {})
    artifact.finish({}, 1)
    freed = artifact.drop()
    assert freed > 50 * 2 * 3 * D * 2
    again = Artifact(artifact.at, "dense")
    assert again.dropped() and again.summary() is None and again.committed() == []
    assert again.provenance()["stage"] == "extract"


def test_provenance_is_written_once_and_kept(tmp_path: Path) -> None:
    first = tokens(tmp_path)
    again = Artifact(first.at, "tokens").create({"stage": "other", "dtype": "float32", "seen": list("abcdefgh")})
    assert again.provenance()["dtype"] == "float16"
    assert again.provenance()["schema"] == SCHEMA and again.provenance()["kind"] == "tokens"


def test_an_artifact_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing there; run the stage that writes it"):
        Artifact(Location(str(tmp_path)).child("tokens-1.zarr"), "tokens").provenance()


def test_another_schema_version_is_refused_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tokens(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cache.store.SCHEMA", 99)
        artifact.write(0, names(0, 1), arrays([1]), {})
        artifact.finish({}, 1)
        patch.setattr("cache.schema.SCHEMA", 99)
        later = Artifact(artifact.at.child("later"), "tokens").create(
            {"stage": "extract", "preset": "x", "dtype": "float16", "seen": list("abcdefgh")}
        )
    again, refusal = Artifact(artifact.at, "tokens"), f"cache schema 99, this program reads {SCHEMA}; move it away"
    for reader in (later.provenance, again.summary, lambda: again.commit(0), lambda: again.read(0)):
        with pytest.raises(InputError, match=refusal):
            reader()


def test_marks_that_are_not_json_are_called_damaged(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    artifact.finish({}, 0)
    (tmp_path / "tokens-0.zarr/complete.json").write_text('{"summ')
    with pytest.raises(StoreError, match=r"complete\.json: damaged"):
        artifact.summary()


def test_zarr_itself_can_open_what_was_written(tmp_path: Path) -> None:
    import zarr

    tokens(tmp_path).write(0, names(0, 2), arrays([1, 2]), {})
    group = zarr.open_group(str(tmp_path / "tokens-0.zarr"), mode="r")
    assert group.attrs["kind"] == "tokens"
    np.testing.assert_array_equal(group["shards/00000/local"][...], arrays([1, 2])["local"])


def other(**changes: object) -> bytes:
    """A claim of process 1 of this machine, or as told."""
    held = {"host": socket.gethostname(), "pid": 1, "time": time.time(), **changes}
    return json.dumps(held).encode()


def test_a_claim_is_given_once_and_can_be_given_back(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    assert artifact.claim(0) is None
    assert artifact.claim(0) is None  # it is ours already
    artifact.at.put("shards/00001/claim.json", other())
    holder = artifact.claim(1)
    assert holder is not None and str(holder).startswith("process 1 on ")
    artifact.release(1)  # not ours to end
    assert artifact.claim(1) is not None
    artifact.release(0)
    assert artifact.at.get("shards/00000/claim.json") is None


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    at = Location(str(tmp_path))
    at.put("claim.json", other(pid=2**22 + 1))
    assert take(at, "claim.json") is None
    assert at.get_json("claim.json")["pid"] == os.getpid()


def test_another_machines_claim_is_believed_for_five_minutes() -> None:
    now = time.time()
    assert Claim("elsewhere", 1, now - 290).alive
    assert not Claim("elsewhere", 1, now - 310).alive


def test_marks_come_in_order_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.store.KEPT", 2)
    artifact = tokens(tmp_path)
    for shard in range(7):
        artifact.write(shard, names(shard, 1), arrays([1], shard), {"bad": [str(shard)]})
    assert len(artifact._commits) == 2
    again = Artifact(artifact.at, "tokens")
    assert [(s, mark["stats"]["bad"]) for s, mark in again.marks()] == [(s, [str(s)]) for s in range(7)]
    assert len(again._commits) == 0
    assert [again.shard_ids(s) for s in (6, 0, 6, 3)] == [names(s, 1) for s in (6, 0, 6, 3)]
    assert len(again._commits) == 2
    assert [float(again.read(s)["global"][0, 0]) for s in range(7)] == list(range(7))


def test_a_mark_that_is_missing_from_a_complete_artifact_is_damage(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    for shard in range(3):
        artifact.write(shard, names(shard, 1), arrays([1]), {})
    with pytest.raises(StoreError, match=r"shards/00007: not there; run `clip2seg extract x` again"):
        list(artifact.marks([0, 7]))
    with pytest.raises(StoreError, match=r"shards/00003: not there"):
        artifact.finish({}, 4)
    artifact.finish({}, 3)
    (tmp_path / "tokens-0.zarr/shards/00001/commit.json").unlink()
    with pytest.raises(StoreError, match=r"shards/00001/commit.json: missing"):
        Artifact(artifact.at, "tokens").ids()


def test_a_listing_names_what_names_does_without_holding_it(tmp_path: Path) -> None:
    artifact = tokens(tmp_path)
    artifact.write(0, names(0, 1), arrays([1]), {})
    listed = artifact.at.listed("shards")
    assert next(listed)[0].startswith("shards/")
    assert dict(artifact.at.listed("shards")) == artifact.at.names("shards")


def test_an_address_without_a_bucket_never_becomes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = Location("memory:///")
    at.child("a").put("b", b"c")
    assert at.path is None and at.get("a/b") == b"c"
    with pytest.raises(StoreError):
        Location("s3://")
    assert not list(tmp_path.iterdir())
