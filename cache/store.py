"""The only door to zarr: create, resume, commit, open, verify.

A shard is built in memory as zarr v3, then put object by object (each put is atomic), and its
`commit.json`, which lists every object with its sha256, is put last. What has no commit mark does not exist.
Marks carry their own sha256, so a changed byte of anything is noticed before it is used.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, ObjectStore

from cache.claims import Claim, give_back, take
from cache.errors import InputError, one_line
from cache.location import Location, StoreError, sealed, unsealed
from cache.marks import (
    ARRAY_BYTES,
    MARK_BYTES,
    MarkError,
    check_array,
    check_commit,
    check_complete,
    check_group,
    check_root,
    check_values,
)
from cache.schema import ARTIFACTS, SCHEMA, check_shard, check_version

MARKS = ("zarr.json", "shards/zarr.json", "complete.json", "dropped.json")
"""What lies beside the shards of an artifact; the first is its root."""

_COMMIT = re.compile(r"shards/([0-9]{5,7})/commit\.json")
"""Name of a shard's commit mark; what else lies in `shards` is nobody's."""
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
        self._dtype, self._seen = "", 0
        """Of the root mark: stored type of tokens and number of seen classes, "" until it was read."""

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
        with self._sense("zarr.json"):
            attributes = check_root(root, self.kind)
        check_version(str(self), attributes.get("schema"), _command(attributes))
        self._dtype, self._seen = attributes["dtype"], len(attributes["seen"])
        return attributes

    @contextmanager
    def _sense(self, name: str) -> Iterator[None]:
        """Turns what a mark or its arrays can't mean into one line."""
        try:
            yield
        except MarkError as error:
            what = one_line(f"{self}/{name}: {str(error)[:300]}")
            raise StoreError(f"{what}; run `clip2seg cache verify --repair`, then the stage again") from error

    # -- shards: write ------------------------------------------------------------------------------------
    def write(self, shard: int, ids: Sequence[str], arrays: Mapping[str, np.ndarray], stats: Mapping[str, Any]) -> int:
        """Writes and commits one shard (`ids` of its views, arrays of the schema); returns bytes written."""
        check_shard(self.kind, arrays, self.provenance()["dtype"])
        wrong = [name for name, spec in self.table.items() if spec.dims[0] == "n" and len(arrays[name]) != len(ids)]
        if wrong:
            raise ValueError(f"{self.kind}/{wrong[0]}: {len(arrays[wrong[0]])} views, {len(ids)} ids")
        if (most := max(value.nbytes for value in arrays.values())) > ARRAY_BYTES:
            raise InputError(f"{self}: a shard of {len(ids)} views takes {most / 2**30:.1f} GiB; lower extract.shard")
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
        self._commit(shard, ids, stats, objects)
        return sum(size for size, _ in objects.values())

    def take_over(self, shard: int, source: Artifact, number: int, stats: Mapping[str, Any]) -> bool:
        """Commits the views and arrays of shard `number` of another artifact as a shard of this one.

        False, and nothing committed, where they can't share objects (`Location.share`); each is read and checked first.
        `stats`: what the commit mark says otherwise than there. Raises StoreError where an object is damaged.
        """
        mark = source._keep(number, source._mark_of(number))
        for name in mark["objects"]:
            source._checked(number, name)
            if not self.at.share(f"{_folder(shard)}/{name}", source.at, f"{_folder(number)}/{name}"):
                return False
        self._commit(shard, mark["ids"], {**mark["stats"], **stats}, mark["objects"])
        return True

    def _commit(
        self, shard: int, ids: Sequence[str], stats: Mapping[str, Any], objects: Mapping[str, Sequence[Any]]
    ) -> None:
        """Puts the commit mark of a shard whose objects (name -> size, sha256) are there."""
        mark = {"schema": SCHEMA, "ids": list(ids), "stats": dict(stats), "objects": dict(objects)}
        self.at.put_mark(f"{_folder(shard)}/commit.json", mark)
        self._keep(shard, mark)

    def claim(self, shard: int) -> Claim | None:
        """Takes the right to write a shard: None if it is ours now, else who has it."""
        return take(self.at, f"{_folder(shard)}/claim.json")

    def release(self, shard: int) -> None:
        """Gives a claim back."""
        give_back(self.at, f"{_folder(shard)}/claim.json")

    def finish(self, summary: Mapping[str, Any], shards: int) -> None:
        """Marks the whole artifact complete. Reads the mark of every one of its `shards`: a store's listing may lag.

        Raises StoreError where one is not committed.
        """
        for _ in self.marks(range(shards)):
            pass
        self.at.put_mark("complete.json", {"schema": SCHEMA, "shards": shards, "summary": dict(summary)})

    # -- shards: read -------------------------------------------------------------------------------------
    def summary(self, shards: int | None = None) -> dict[str, Any] | None:
        """The summary of a complete artifact; None while it is not complete, or is so with other than `shards`."""
        mark = self._complete()
        summary: dict[str, Any] | None = mark["summary"] if mark and shards in (None, mark["shards"]) else None
        return summary

    def _complete(self) -> dict[str, Any] | None:
        """The complete mark, sensible."""
        mark = self._mark("complete.json")
        if mark is not None:
            with self._sense("complete.json"):
                check_complete(mark)
        return mark

    def _mark(self, name: str) -> dict[str, Any] | None:
        mark = self.at.get_mark(name)
        if mark is not None:
            check_version(f"{self}/{name}", mark.get("schema"), "clip2seg extract ...")
        return mark

    def commit(self, shard: int) -> dict[str, Any] | None:
        """The commit mark of a shard (`ids`, `stats`, `objects`); None while it is not committed."""
        if shard not in self._commits:
            mark = self._commit_mark(shard)
            if mark is None:
                return None
            return self._keep(shard, mark)
        return self._commits[shard]

    def _commit_mark(self, shard: int) -> dict[str, Any] | None:
        """A shard's commit mark, sensible."""
        name = f"{_folder(shard)}/commit.json"
        mark = self._mark(name)
        if mark is not None:
            with self._sense(name):
                check_commit(mark, self.kind)
        return mark

    def _keep(self, shard: int, mark: dict[str, Any]) -> dict[str, Any]:
        self._commits[shard] = mark
        while len(self._commits) > KEPT:
            self._commits.popitem(last=False)
        return mark

    def committed(self) -> list[int]:
        """Shards with a commit mark, in order: one listing, no mark is read."""
        found = (_COMMIT.fullmatch(name) for name, _ in self.at.listed("shards"))
        return sorted(int(match[1]) for match in found if match is not None)

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
        mark = self._commit_mark(shard)
        if mark is None and self.summary() is not None:
            raise self._damaged(f"{_folder(shard)}/commit.json", "missing")
        if mark is None:
            raise StoreError(f"{self}/{_folder(shard)}: not there; run `{_command(self.provenance())}` again")
        return mark

    def shards(self) -> Sequence[int]:
        """The shards to read: all that a complete artifact was made of, even if one has vanished since."""
        mark = self._complete()
        return self.committed() if mark is None else range(mark["shards"])

    def check_rows(self, rows: int) -> None:
        """Raises InputError unless the shards stand for `rows` views: stored ones and those left out as bad."""
        found = sum(len(mark["ids"]) + len(mark["stats"].get("bad", [])) for _, mark in self.marks())
        if found != rows:
            command = _command(self.provenance())
            raise InputError(f"{self}: holds {found} of the data set's {rows} views; run `{command}` again")

    def read(self, shard: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Whole arrays of a shard: bytes as committed, metadata as the schema has it, offsets and ids within range."""
        wanted, objects = list(names or self.table), self._objects(shard)
        metadata = {"zarr.json": self._checked(shard, "zarr.json")} | self._metadata(shard, wanted)
        data = {k: self._checked(shard, k) for k in objects if k.partition("/")[0] in wanted and k not in metadata}
        make = default_buffer_prototype().buffer.from_bytes
        with self._sense(_folder(shard)):
            check_group(metadata["zarr.json"])
            store: dict[str, Any] = {key: make(value) for key, value in (metadata | data).items()}
            group = zarr.open_group(MemoryStore(store), mode="r", zarr_format=3, use_consolidated=False)
            arrays = {name: np.asarray(_array(group, name)[...]) for name in wanted}
            check_values(self.kind, arrays, self._seen)
        return arrays

    def _metadata(self, shard: int, names: Sequence[str]) -> dict[str, bytes]:
        """The zarr.json of some arrays, each exactly what `write` makes: no other codec, no other size, runs."""
        if not self._dtype:
            self.provenance()
        objects, views = self._objects(shard), len(self.shard_ids(shard))
        found = {f"{name}/zarr.json": self._checked(shard, f"{name}/zarr.json") for name in names}
        with self._sense(_folder(shard)):
            for name in names:
                stored = sum(size for key, (size, _) in objects.items() if key.startswith(f"{name}/c"))
                check_array(self.kind, name, found[f"{name}/zarr.json"], self._dtype, views, stored)
        return found

    def _objects(self, shard: int) -> dict[str, tuple[int, str]]:
        """Name below the shard -> size and sha256 of every object that was committed."""
        objects: dict[str, tuple[int, str]] = self._keep(shard, self._mark_of(shard))["objects"]
        return objects

    def _looked_at(self, shard: int, key: str) -> tuple[bytes, str]:
        """An object's bytes and what is wrong with them, "" for nothing."""
        name, (size, digest) = f"{_folder(shard)}/{key}", self._objects(shard)[key]
        if (held := self.at.size(name)) is None:
            return b"", "missing"
        if held != size:  # nothing of it is read: it may be of any size
            return b"", "damaged"
        data = self.at.get(name, size) or b""
        return data, "" if hashlib.sha256(data).hexdigest() == digest else "damaged"

    def _checked(self, shard: int, key: str) -> bytes:
        data, fault = self._looked_at(shard, key)
        if fault:
            raise self._damaged(f"{_folder(shard)}/{key}", fault)
        return data

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(f"{self}/{name}: {what}; run `clip2seg cache verify --repair`, then the stage again")

    def rows(self, shard: int, name: str, only: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """The rows of a `by_row` array one at a time: all, or `only` some. Those in a row are read at once.

        What is read is checked by the crc32c of its row, which zarr does and which any flipped byte fails: sha256 is
        what `cache verify` looks at, and costs as much as the reading.
        """
        # What has no checksum of its own is looked at here: the metadata, and the size, since zarr takes a missing
        # object for zeros.
        self._checked(shard, "zarr.json")
        self._metadata(shard, [name])
        for key, (size, _) in self._objects(shard).items():
            if (
                key != f"{name}/zarr.json"
                and key.startswith(f"{name}/")
                and self.at.size(f"{_folder(shard)}/{key}") != size
            ):
                raise self._damaged(f"{_folder(shard)}/{key}", "missing or cut")
        store = ObjectStore(self.at.store, read_only=True)
        try:
            path = self.at.key(f"{_folder(shard)}/{name}")
            array = zarr.open_array(store, path=path, mode="r", zarr_format=3)
            for run in _runs(range(array.shape[0]) if only is None else only):
                yield from np.asarray(array[run])
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
        faults = [f"{_folder(shard)}/{key}: {fault}" for key, fault in found.items() if fault]
        try:
            if not faults:
                self._metadata(shard, list(self.table))
        except StoreError:
            faults.append(f"{_folder(shard)}: its arrays are not what the schema says")
        except InputError:  # no root, or one of another version, which is said elsewhere
            pass
        return faults

    def mark_faults(self) -> list[str]:
        """Marks beside the shards that are damaged, and the root where it is missing."""
        wrong = []
        for name in MARKS:
            try:
                data = self.at.get(name, MARK_BYTES)
            except StoreError:  # a link out of here, a pipe, a file of terabytes
                data = b""
            if data is not None and not self._sensible(name, data):
                wrong.append(f"{name}: damaged")
            elif data is None and name == MARKS[0]:
                wrong.append(f"{name}: missing")
        return wrong

    def _sensible(self, name: str, data: bytes) -> bool:
        """Whether a mark beside the shards is sealed and says what such a mark may say."""
        mark = unsealed(data)
        try:
            if mark is not None and name == MARKS[0]:
                check_root(mark, self.kind)
            if mark is not None and name == "complete.json" and mark.get("schema") == SCHEMA:
                check_complete(mark)
        except MarkError:
            return False
        return mark is not None

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


def _runs(rows: Sequence[int]) -> Iterator[slice]:
    """Numbers as slices of those that follow one another."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1:
            yield slice(rows[start], rows[i - 1] + 1)
            start = i


def joined(parts: Sequence[np.ndarray], *, offsets: bool) -> np.ndarray:
    """Arrays one after the other; `offsets` are made to count through."""
    if not offsets:
        return np.concatenate(parts)
    starts = np.cumsum([0] + [int(p[-1]) for p in parts])
    return np.concatenate([parts[0][:1], *(p[1:] + s for p, s in zip(parts, starts[:-1], strict=True))])
