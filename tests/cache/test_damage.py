"""Claims about damage: a changed byte anywhere is found by verify, and refused by whoever reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.location import Location, StoreError, sealed, unsealed
from cache.store import Artifact

D = 3


def written(at: Path, kind: str) -> Artifact:
    """A complete artifact of one shard with two views."""
    made = Artifact(Location(str(at)).child(f"{kind}-0.zarr"), kind).create(
        {"stage": "extract", "preset": "x", "dtype": "float16", "seen": list("abcdefgh")}
    )
    random = np.random.default_rng(0)
    if kind == "dense":
        arrays = {"dense": random.normal(size=(2, 1, 2, D)).astype(np.float16)}
    else:
        arrays = {
            "cells": random.integers(0, 3, (2, 2, 2)).astype(np.uint8),
            "local": random.normal(size=(3, D)).astype(np.float16),
            "local_region": np.array([0, 1, 0], np.uint8),
            "local_offsets": np.array([0, 2, 3]),
        }
    made.write(0, ["a", "b"], arrays, {})
    made.finish({"views": 2}, 1)
    return made


def files(artifact: Artifact) -> list[Path]:
    assert artifact.at.path is not None
    return sorted(f for f in artifact.at.path.rglob("*") if f.is_file())


def flips(data: bytes, every: int = 1) -> Iterator[bytes]:
    """`data` with one bit flipped, at every byte, each time another bit of it."""
    for i in range(0, len(data), every):
        yield data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :]


def faults(artifact: Artifact) -> list[str]:
    again = Artifact(artifact.at, artifact.kind)
    damaged = again.mark_faults()
    return damaged + [f for s in (again.committed() if damaged else again.shards()) for f in again.faults(s)]


def used(artifact: Artifact) -> object:
    """What training and mining do with an artifact."""
    again = Artifact(artifact.at, artifact.kind)
    again.provenance()
    assert again.summary() is not None
    if again.kind == "dense":
        return [list(again.rows(s, "dense")) for s in again.shards()], again.ids()
    return again.load(list(again.table)), again.ids()


@pytest.mark.parametrize("kind", ["latent", "dense"])
def test_a_flipped_byte_of_any_object_is_found_and_refused(tmp_path: Path, kind: str) -> None:
    artifact = written(tmp_path, kind)
    assert faults(artifact) == []
    used(artifact)
    for file in files(artifact):
        whole = file.read_bytes()
        # The long ones are sampled here; the two tests below go through every byte of what protects them.
        for damaged in flips(whole, every=max(1, len(whole) // 12)):
            file.write_bytes(damaged)
            name = str(file.relative_to(artifact.at.path or ""))
            assert [f for f in faults(artifact) if f.startswith(name)], (name, damaged)
            if name != "shards/zarr.json":  # which is there for zarr's own tools alone
                with pytest.raises(StoreError, match="damaged"):
                    used(artifact)
        file.write_bytes(whole)
    assert faults(artifact) == []


def test_every_flipped_bit_of_a_mark_breaks_its_seal() -> None:
    commit = {"schema": 1, "ids": ["a", "b"], "stats": {"bad": []}, "objects": {"x": [1, "0" * 64]}}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"schema": 1, "seen": ["a"]}}
    for value in (commit, root):
        data = sealed(value)
        assert unsealed(data) == value
        for i in range(len(data)):
            for bit in range(8):
                assert unsealed(data[:i] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :]) is None


def test_every_flipped_byte_of_a_dense_shard_is_refused_when_one_row_is_read(tmp_path: Path) -> None:
    """The way of inspection, which does not read the shard as a whole: data, checksums and index alike."""
    artifact = written(tmp_path, "dense")
    wanted = artifact.read(0)["dense"]
    folder = (artifact.at.path or tmp_path) / "shards/00000/dense"
    for file in (folder / "zarr.json", *(f for f in (folder / "c").rglob("*") if f.is_file())):
        whole = file.read_bytes()
        for damaged in flips(whole, every=1 if file.name != "zarr.json" else 40):  # its sha256 is tested, not it
            file.write_bytes(damaged)
            refused = 0
            for row in (0, 1):
                try:
                    got = next(Artifact(artifact.at, "dense").rows(0, "dense", [row]))
                    np.testing.assert_array_equal(got, wanted[row])  # the other row was hit
                except StoreError:
                    refused += 1
            assert refused, (file, damaged)
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", ["latent", "dense"])
def test_a_vanished_or_cut_object_is_found_and_refused(tmp_path: Path, kind: str) -> None:
    artifact = written(tmp_path, kind)
    for file in files(artifact):
        whole, name = file.read_bytes(), str(file.relative_to(artifact.at.path or ""))
        for size in (len(whole) - 1, len(whole) // 2, 0, None):
            file.unlink()
            if size is not None:
                file.write_bytes(whole[:size])
            if name in ("complete.json", "shards/zarr.json") and size is None:
                continue  # then it is incomplete, which is no damage
            assert [f for f in faults(artifact) if f.startswith(name)], (name, size)
            if name != "shards/zarr.json":
                with pytest.raises(StoreError if size is not None or name != "zarr.json" else Exception):
                    used(artifact)
        file.write_bytes(whole)


def test_a_row_of_a_vanished_shard_is_not_zeros(tmp_path: Path) -> None:
    artifact = written(tmp_path, "dense")
    next(f for f in files(artifact) if "c" in f.parts).unlink()
    with pytest.raises(StoreError, match="missing or cut"):
        next(artifact.rows(0, "dense", [0]))


def test_a_shard_that_vanished_from_a_complete_artifact_is_missed(tmp_path: Path) -> None:
    """Its mark is gone with it: only the count in complete.json remembers it."""
    artifact = written(tmp_path, "latent")
    (artifact.at.path or tmp_path).joinpath("shards/00000/commit.json").unlink()
    again = Artifact(artifact.at, "latent")
    with pytest.raises(StoreError, match=r"shards/00000/commit\.json: missing; run `clip2seg cache verify --repair`"):
        again.ids()
    assert faults(artifact) == ["shards/00000/commit.json: missing"]


def test_half_written_files_of_the_killed_are_no_objects_and_go_with_the_rest(tmp_path: Path) -> None:
    artifact = written(tmp_path, "latent")
    folder = artifact.at.path or tmp_path
    (folder / "shards/00000/local/zarr.json#1").write_bytes(b"half")
    assert not any("#" in name for name in artifact.at.names())
    assert [f.name for f in artifact.at.staged()] == ["zarr.json#1"]
    artifact.at.delete_all()
    assert not os.path.lexists(folder)
