"""The only door to zarr: create, resume, commit, open, verify.

A shard is built in memory as zarr v3, then put object by object (each put is atomic), and its
`commit.json`, which lists every object with its sha256, is put last. What has no commit mark does not exist.
Marks carry their own sha256, so a changed byte of anything is noticed before it is used.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, ObjectStore

from cache.claims import Claim, give_back, take
from cache.errors import InputError
from cache.location import Location, StoreError, sealed, unsealed
from cache.schema import ARTIFACTS, SCHEMA, check_shard, check_version

MARKS = ("zarr.json", "shards/zarr.json", "complete.json", "dropped.json")
"""What lies beside the shards of an artifact; the first is its root."""

KEPT = 64
"""Commit marks kept in memory: a mark is some 10 KB there, and a cache may have a million."""
READERS = 16
"""Marks read at once where all are wanted: an object store answers each after some 20 ms."""


class Artifact:
    """One address of the cache: `<kind>-<fingerprint>.zarr`, made of committed shards.

    Raises StoreError where the store fails or holds damaged data, InputError for another schema version.
    """

    def __init__(self, location: Location, kind: str) -> None:
        self.at, self.kind, self.table = location, kind, ARTIFACTS[kind]
        self._commits: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def __str__(self) -> str:
        return str(self.at)

    # -- provenance ---------------------------------------------------------------------------------------
    def create(self, provenance: Mapping[str, Any]) -> Artifact:
        """Makes the root group unless there is one; `provenance` must be JSON and name `dtype` of tokens."""
        group = {"zarr_format": 3, "node_type": "group"}
        # The root goes last: where it is, the rest is too.
        self.at.put_new("shards/zarr.json", sealed({**group, "attributes": {}}))
        root = {**group, "attributes": {"schema": SCHEMA, "kind": self.kind, **provenance}}
        self.at.put_new("zarr.json", sealed(root))
        self.provenance()
        return self

    def provenance(self) -> dict[str, Any]:
        """What the root group says of how this was made. Raises InputError where there is no artifact."""
        root = self.at.get_mark("zarr.json")
        if root is None:
            raise InputError(f"{self}: nothing there; run the stage that writes it (`clip2seg plan` shows which)")
        attributes: dict[str, Any] = root.get("attributes", {})
        check_version(str(self), attributes.get("schema"), _command(attributes))
        return attributes

    # -- shards: write ------------------------------------------------------------------------------------
    def write(self, shard: int, ids: Sequence[str], arrays: Mapping[str, np.ndarray], stats: Mapping[str, Any]) -> int:
        """Writes and commits one shard (`ids` of its views, arrays of the schema); returns bytes written."""
        check_shard(self.kind, arrays, self.provenance()["dtype"])
        wrong = [name for name, spec in self.table.items() if spec.dims[0] == "n" and len(arrays[name]) != len(ids)]
        if wrong:
            raise ValueError(f"{self.kind}/{wrong[0]}: {len(arrays[wrong[0]])} views, {len(ids)} ids")
        made: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(made))
        for name, value in arrays.items():
            whole = tuple(max(1, s) for s in value.shape)
            by_row = self.table[name].by_row
            array = group.create_array(
                name,
                shape=value.shape,
                dtype=value.dtype,
                chunks=(1, *whole[1:]) if by_row else whole,
                shards=whole if by_row else None,
                compressors=[Crc32cCodec()],
                filters=None,
            )
            array[...] = value
        objects: dict[str, list[Any]] = {}
        for name, buffer in made.items():
            data = buffer.to_bytes()
            self.at.put(f"{_folder(shard)}/{name}", data)
            objects[name] = [len(data), hashlib.sha256(data).hexdigest()]
        commit = {"schema": SCHEMA, "ids": list(ids), "stats": dict(stats), "objects": objects}
        self.at.put_mark(f"{_folder(shard)}/commit.json", commit)
        self._keep(shard, commit)
        return sum(size for size, _ in objects.values())

    def claim(self, shard: int) -> Claim | None:
        """Takes the right to write a shard: None if it is ours now, else who has it."""
        return take(self.at, f"{_folder(shard)}/claim.json")

    def release(self, shard: int) -> None:
        """Gives a claim back."""
        give_back(self.at, f"{_folder(shard)}/claim.json")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the whole artifact complete."""
        mark = {"schema": SCHEMA, "shards": len(self.committed()), "summary": dict(summary)}
        self.at.put_mark("complete.json", mark)

    # -- shards: read -------------------------------------------------------------------------------------
    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete artifact; None while it is not complete."""
        mark = self._mark("complete.json")
        summary: dict[str, Any] | None = mark["summary"] if mark else None
        return summary

    def _mark(self, name: str) -> dict[str, Any] | None:
        mark = self.at.get_mark(name)
        if mark is not None:
            check_version(f"{self}/{name}", mark.get("schema"), "clip2seg extract ...")
        return mark

    def commit(self, shard: int) -> dict[str, Any] | None:
        """The commit mark of a shard (`ids`, `stats`, `objects`); None while it is not committed."""
        if shard not in self._commits:
            mark = self._mark(f"{_folder(shard)}/commit.json")
            if mark is None:
                return None
            return self._keep(shard, mark)
        return self._commits[shard]

    def _keep(self, shard: int, mark: dict[str, Any]) -> dict[str, Any]:
        self._commits[shard] = mark
        while len(self._commits) > KEPT:
            self._commits.popitem(last=False)
        return mark

    def committed(self) -> list[int]:
        """Shards with a commit mark, in order: one listing, no mark is read."""
        return sorted(int(n.split("/")[1]) for n, _ in self.at.listed("shards") if n.endswith("/commit.json"))

    def marks(self, shards: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """(shard, commit mark) of some shards, of all to read when none are named; many are read at once, none kept."""
        wanted = self.shards() if shards is None else shards
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(wanted), KEPT):
                part = wanted[start : start + KEPT]
                yield from zip(part, pool.map(self._mark_of, part), strict=True)

    def _mark_of(self, shard: int) -> dict[str, Any]:
        """A commit mark that has to be there."""
        if (kept := self._commits.get(shard)) is not None:
            return kept
        mark = self._mark(f"{_folder(shard)}/commit.json")
        if mark is None and self.summary() is not None:
            raise self._damaged(f"{_folder(shard)}/commit.json", "missing")
        if mark is None:
            raise StoreError(f"{self}/{_folder(shard)}: not there; run `{_command(self.provenance())}` again")
        return mark

    def shards(self) -> list[int]:
        """The shards to read: all that a complete artifact was made of, even if one has vanished since."""
        mark = self._mark("complete.json")
        return self.committed() if mark is None or "shards" not in mark else list(range(mark["shards"]))

    def read(self, shard: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Whole arrays of a shard, every byte checked against the commit mark."""
        group = self._memory_group(shard, list(names or self.table))
        return {name: np.asarray(_array(group, name)[...]) for name in names or self.table}

    def _memory_group(self, shard: int, names: Sequence[str]) -> zarr.Group:
        store: dict[str, Any] = {}
        for key in self._objects(shard):
            if key == "zarr.json" or key.split("/")[0] in names:
                store[key] = default_buffer_prototype().buffer.from_bytes(self._checked(shard, key))
        return zarr.open_group(MemoryStore(store), mode="r")

    def _objects(self, shard: int) -> dict[str, tuple[int, str]]:
        """Name below the shard -> size and sha256 of every object that was committed."""
        objects: dict[str, tuple[int, str]] = self._keep(shard, self._mark_of(shard))["objects"]
        return objects

    def _looked_at(self, shard: int, key: str) -> tuple[bytes, str]:
        """An object's bytes and what is wrong with them, "" for nothing."""
        data = self.at.get(f"{_folder(shard)}/{key}")
        if data is None:
            return b"", "missing"
        return data, "" if hashlib.sha256(data).hexdigest() == self._objects(shard)[key][1] else "damaged"

    def _checked(self, shard: int, key: str) -> bytes:
        data, fault = self._looked_at(shard, key)
        if fault:
            raise self._damaged(f"{_folder(shard)}/{key}", fault)
        return data

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(f"{self}/{name}: {what}; run `clip2seg cache verify --repair`, then the stage again")

    def rows(self, shard: int, name: str, only: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """The rows of a `by_row` array one at a time, all or `only` some; what is read is checked."""
        if only is None:
            yield from self.read(shard, [name])[name]
            return
        # Some rows are read alone, each with its own checksum. What has none is looked at here: the metadata, and
        # the size, since zarr takes a missing object for zeros.
        for key, (size, _) in self._objects(shard).items():
            if key == f"{name}/zarr.json":
                self._checked(shard, key)
            elif key.startswith(f"{name}/") and self.at.size(f"{_folder(shard)}/{key}") != size:
                raise self._damaged(f"{_folder(shard)}/{key}", "missing or cut")
        store = ObjectStore(self.at.store, read_only=True)
        try:
            array = zarr.open_array(store, path=self.at.key(f"{_folder(shard)}/{name}"), mode="r")
            for i in only:
                yield np.asarray(array[i])
        except (ValueError, FileNotFoundError) as error:
            raise self._damaged(f"{_folder(shard)}/{name}", "damaged or missing") from error

    def load(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named arrays of all shards, joined; offsets are made to count through."""
        parts = [self.read(s, names) for s in self.shards()]
        return {n: joined([p[n] for p in parts], offsets=n.endswith("_offsets")) for n in names}

    def ids(self) -> list[str]:
        """Ids of all views in order."""
        return [i for _, mark in self.marks() for i in mark["ids"]]

    def shard_ids(self, shard: int) -> list[str]:
        """Ids of the views of one shard."""
        ids: list[str] = self._keep(shard, self._mark_of(shard))["ids"]
        return ids

    # -- the dense tier can go --------------------------------------------------------------------------------
    def drop(self) -> int:
        """Deletes all shards and leaves a mark that says so; returns the bytes freed."""
        before = sum(self.at.names().values())
        self.at.put_mark("dropped.json", {"schema": SCHEMA})
        self.at.delete("complete.json")
        self.at.child("shards").delete_all()
        self._commits.clear()
        return before - sum(self.at.names().values())

    def dropped(self) -> bool:
        """Whether this artifact was dropped on purpose: stages then recompute what they need of it."""
        return self._mark("dropped.json") is not None

    # -- verify -------------------------------------------------------------------------------------------
    def faults(self, shard: int) -> list[str]:
        """Objects of a committed shard that are missing or not what was committed (every byte is read)."""
        mark = f"{_folder(shard)}/commit.json"
        self._commits.pop(shard, None)
        try:
            commit = self.commit(shard)
        except InputError as error:
            return [f"{mark}: damaged" if isinstance(error, StoreError) else str(error)]
        if commit is None:
            return [f"{mark}: missing"]
        found = {key: self._looked_at(shard, key)[1] for key in commit["objects"]}
        return [f"{_folder(shard)}/{key}: {fault}" for key, fault in found.items() if fault]

    def mark_faults(self) -> list[str]:
        """Marks beside the shards that are damaged, and the root where it is missing."""
        wrong = []
        for name in MARKS:
            data = self.at.get(name)
            if data is not None and unsealed(data) is None:
                wrong.append(f"{name}: damaged")
            elif data is None and name == MARKS[0]:
                wrong.append(f"{name}: missing")
        return wrong

    def discard(self, shard: int) -> None:
        """Takes a shard back: its commit mark and the artifact's complete mark go, so the stage makes it anew."""
        self._commits.pop(shard, None)
        self.at.delete(f"{_folder(shard)}/commit.json")
        self.at.delete("complete.json")


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _command(provenance: Mapping[str, Any]) -> str:
    """The command that made an artifact."""
    return f"clip2seg {provenance.get('stage', 'extract')} {provenance.get('preset', 'PRESET')}"


def _folder(shard: int) -> str:
    return f"shards/{shard:05d}"


def joined(parts: Sequence[np.ndarray], *, offsets: bool) -> np.ndarray:
    """Arrays one after the other; `offsets` are made to count through."""
    if not offsets:
        return np.concatenate(parts)
    starts = np.cumsum([0] + [int(p[-1]) for p in parts])
    return np.concatenate([parts[0][:1], *(p[1:] + s for p, s in zip(parts, starts[:-1], strict=True))])
