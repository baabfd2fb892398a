"""Claims about forged caches: a seal that fits makes no sense of a mark, and no metadata runs, allocates or escapes."""

from __future__ import annotations

import hashlib
import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import InputError
from cache.location import LARGEST, Location, StoreError, sealed, unsealed
from cache.store import Artifact

D = 3


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    """A complete artifact of tokens: two views, three regions of the seen classes a and b."""
    artifact = Artifact(Location(str(tmp_path)).child("tokens-0.zarr"), "tokens").create(
        {"stage": "extract x", "dtype": "float16", "seen": ["a", "b"]}
    )
    arrays = {
        "global": np.ones((2, D), np.float16),
        "local": np.ones((3, D), np.float16),
        "local_region": np.array([0, 1, 0], np.uint8),
        "local_offsets": np.array([0, 2, 3]),
        "image_size": np.full((2, 2), 7, np.int32),
        "view_seed": np.zeros(2, np.uint64),
        "labels_crc": np.zeros(2, np.uint32),
        "photo_crc": np.zeros(2, np.uint32),
    }
    artifact.write(0, ["x", "y"], arrays, {"bad": []})
    artifact.finish({"views": 2}, 1)
    return artifact


def folder(artifact: Artifact) -> Path:
    assert artifact.at.path is not None
    return artifact.at.path


def forge(artifact: Artifact, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a mark and seals it again, as anyone can."""
    path = folder(artifact) / name
    mark = unsealed(path.read_bytes())
    assert mark is not None
    change(mark)
    path.write_bytes(sealed(mark))


def replace(artifact: Artifact, key: str, data: bytes) -> None:
    """Puts other bytes for an object of shard 0 and has the commit mark agree."""
    path = folder(artifact) / "shards/00000" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    entry = [len(data), hashlib.sha256(data).hexdigest()]
    forge(artifact, "shards/00000/commit.json", lambda mark: mark["objects"].update({key: entry}))


def use(artifact: Artifact) -> None:
    """What the stages do with an artifact."""
    again = Artifact(artifact.at, artifact.kind)
    again.provenance()
    again.summary()
    again.ids()
    again.check_rows(2)
    again.load(list(again.table))


def refused(artifact: Artifact) -> str:
    """The one line with which it is refused, within 64 MiB of memory; `cache verify` must see it too."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            use(artifact)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    again = Artifact(artifact.at, artifact.kind)
    damaged = again.mark_faults()
    found = damaged or [f for s in again.shards() for f in again.faults(s)]
    assert found, "verify sees nothing"
    assert "\n" not in str(error.value)
    return str(error.value)


COMMIT, COMPLETE, ROOT = "shards/00000/commit.json", "complete.json", "zarr.json"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (COMPLETE, lambda m: m.update(shards="x")),
        (COMPLETE, lambda m: m.update(shards=10**9)),
        (COMPLETE, lambda m: m.update(shards=-1)),
        (COMPLETE, lambda m: m.update(shards=True)),
        (COMPLETE, lambda m: m.pop("shards")),
        (COMPLETE, lambda m: m.update(summary=[])),
        (COMMIT, lambda m: m.pop("ids")),
        (COMMIT, lambda m: m.update(ids=[1, 2])),
        (COMMIT, lambda m: m.update(ids=None)),
        (COMMIT, lambda m: m.update(objects=None)),
        (COMMIT, lambda m: m["objects"].pop("global/zarr.json")),
        (COMMIT, lambda m: m["objects"].update({"global/zarr.json": None})),
        (COMMIT, lambda m: m["objects"].update({"global/c/0/0": [7 * 2**40, "0" * 64]})),
        (COMMIT, lambda m: m["objects"].update({"../../../other": [1, "0" * 64]})),
        (COMMIT, lambda m: m["objects"].update({".zarray": [1, "0" * 64]})),
        (COMMIT, lambda m: m["objects"].update({"global/c/0/\x1b[31m": [1, "0" * 64]})),
        (COMMIT, lambda m: m.update(stats=[])),
        (COMMIT, lambda m: m["stats"].update(bad=[1])),
        (COMMIT, lambda m: m["stats"].update(regions="many")),
        (COMMIT, lambda m: m["stats"].update(classes=[10**9])),
        (ROOT, lambda m: m["attributes"].update(seen="ab")),
        (ROOT, lambda m: m["attributes"].update(seen=[1])),
        (ROOT, lambda m: m["attributes"].update(dtype="object")),
        (ROOT, lambda m: m["attributes"].update(dtype=[])),
        (ROOT, lambda m: m["attributes"].update(teacher={"model": 7})),
        (ROOT, lambda m: m["attributes"].update(kind="latent")),
        (ROOT, lambda m: m["attributes"].update(ingredients=[])),
    ],
)
def test_a_sealed_mark_that_makes_no_sense_is_refused_in_one_line(
    made: Artifact, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    use(made)
    forge(made, name, change)
    assert "\x1b" not in refused(made)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.mark), "w"))


def test_old_zarr_metadata_with_a_pickle_beside_the_new_runs_nothing(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where numcodecs were told to run pickles."""
    import numcodecs.pickles  # type: ignore[import-untyped]

    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    array = {"zarr_format": 2, "shape": [2, D], "chunks": [2, D], "dtype": "<f2", "compressor": None,
             "filters": [{"id": "pickle", "protocol": 5}], "fill_value": 0, "order": "C"}  # fmt: skip
    at = folder(made) / "shards/00000/global"
    (at / ".zarray").write_text(json.dumps(array))
    (at / "0.0").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    use(made)  # what the mark does not name is nobody's
    (at / "zarr.json").unlink()
    for name in ("global/.zarray", "global/0.0"):
        data = (folder(made) / "shards/00000" / name).read_bytes()
        entry = [len(data), hashlib.sha256(data).hexdigest()]
        forge(made, COMMIT, lambda mark, name=name, entry=entry: mark["objects"].update({name: entry}))  # type: ignore[misc]
    assert "not one that the schema names" in refused(made)
    assert not (tmp_path / "boom").exists()


def metadata(artifact: Artifact, name: str, **changes: Any) -> None:
    """An array's zarr.json with other entries, committed."""
    path = folder(artifact) / f"shards/00000/{name}/zarr.json"
    replace(artifact, f"{name}/zarr.json", json.dumps(json.loads(path.read_text()) | changes).encode())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("global", {"shape": [2, 2**34]}),
        ("global", {"shape": [2, 2**24]}),
        ("global", {"shape": [10**9, D]}),
        ("global", {"shape": [2, D, 1]}),
        ("global", {"shape": [2, -3]}),
        ("global", {"shape": "x"}),
        ("global", {"shape": None}),
        ("global", {"data_type": "float64"}),
        ("global", {"data_type": "string"}),
        ("global", {"zarr_format": 2}),
        ("global", {"node_type": "group"}),
        ("global", {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}}),
        ("global", {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}),
        ("global", {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]}),
        ("global", {"fill_value": 7.0}),
        ("global", {"storage_transformers": [{"name": "x"}]}),
        ("global", {"extra": {"must_understand": True}}),
        ("local_offsets", {"shape": [4]}),
        ("image_size", {"shape": [2, 3]}),
    ],
)
def test_metadata_that_is_not_the_schemas_is_refused_before_anything_is_decoded(
    made: Artifact, name: str, changes: dict[str, Any]
) -> None:
    metadata(made, name, **changes)
    refused(made)


def test_consolidated_metadata_is_refused(made: Artifact) -> None:
    path = folder(made) / "shards/00000/zarr.json"
    told = json.loads(path.read_text()) | {"consolidated_metadata": {"metadata": {"global": {}}}}
    replace(made, "zarr.json", json.dumps(told).encode())
    with pytest.raises(StoreError, match="no bare zarr v3 group"):
        use(made)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        ("local_offsets", [0, 2, 10**12]),
        ("local_offsets", [0, 3, 2]),
        ("local_offsets", [1, 2, 3]),
        ("local_offsets", [-5, 2, 3]),
        ("local_region", [0, 2, 0]),
        ("local_region", [255, 1, 0]),
    ],
)
def test_offsets_and_region_ids_out_of_range_are_refused_when_they_are_read(
    made: Artifact, array: str, values: list[int]
) -> None:
    fresh = Artifact(made.at, "tokens")
    arrays = fresh.read(0) | {array: np.array(values, made.read(0)[array].dtype)}
    fresh.write(0, ["x", "y"], arrays, {"bad": []})
    with pytest.raises(StoreError, match=array):
        use(made)


def test_a_stray_folder_among_the_shards_is_nobodys(made: Artifact) -> None:
    for name in ("abc", "0x1", "٣٣٣٣٣", "-0001"):
        (folder(made) / "shards" / name).mkdir()
        (folder(made) / "shards" / name / "commit.json").write_text("{}")
    assert Artifact(made.at, "tokens").committed() == [0]
    use(made)


def test_an_object_of_another_size_than_committed_is_not_read(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of terabytes: its size alone refuses it."""
    chunk = folder(made) / "shards/00000/global/c/0/0"
    with chunk.open("r+b") as file:
        file.truncate(2**40)
    asked: list[str] = []
    original = Location.get

    def watched(self: Location, name: str, most: int = LARGEST) -> bytes | None:
        asked.append(name)
        return original(self, name, most)

    monkeypatch.setattr(Location, "get", watched)
    with pytest.raises(StoreError, match="damaged"):
        use(made)
    assert not any("global/c" in name for name in asked)


def test_a_mark_of_a_gigabyte_is_not_read(made: Artifact) -> None:
    with (folder(made) / COMPLETE).open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(StoreError, match="bytes, more than the"):
        Artifact(made.at, "tokens").summary()


def test_a_pipe_for_a_mark_does_not_hang(made: Artifact) -> None:
    import os

    (folder(made) / COMPLETE).unlink()
    os.mkfifo(folder(made) / COMPLETE)
    with pytest.raises(StoreError, match="no ordinary file"):
        Artifact(made.at, "tokens").summary()
