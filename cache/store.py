"""The only door to zarr: create, resume, commit, open, verify.

A shard is built in memory as zarr v3, then put object by object (each put is atomic), and its
`commit.json`, which lists every object with its sha256, is put last. What has no commit mark does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, ObjectStore

from cache.location import Location, StoreError
from cache.schema import ARTIFACTS, SCHEMA, check_shard, check_version
from cache.settings import InputError

CLAIM_SECONDS = 600.0
"""A claim of another machine that was not renewed for this long belongs to a dead process."""


@dataclass(frozen=True)
class Claim:
    """Who is writing: host, process and when it last said so (seconds since the epoch)."""

    host: str
    pid: int
    time: float

    @classmethod
    def mine(cls) -> Claim:
        return cls(socket.gethostname(), os.getpid(), time.time())

    @property
    def alive(self) -> bool:
        """Whether the writer may still be at work."""
        if self.host == socket.gethostname():
            return self.pid == os.getpid() or Path(f"/proc/{self.pid}").exists()
        return time.time() - self.time < CLAIM_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def take(at: Location, name: str) -> Claim | None:
    """Takes the right to write what the claim file `name` stands for: None if it is ours now, else who has it."""
    mine = Claim.mine()
    text = json.dumps(vars(mine)).encode()
    if at.put_new(name, text):
        return None
    held = at.get_json(name)
    holder = Claim(**held) if held else mine
    if holder.alive and (holder.host, holder.pid) != (mine.host, mine.pid):
        return holder
    at.put(name, text)
    return None


class Artifact:
    """One address of the cache: `<kind>-<fingerprint>.zarr`, made of committed shards.

    Raises StoreError where the store fails or holds damaged data, InputError for another schema version.
    """

    def __init__(self, location: Location, kind: str) -> None:
        self.at, self.kind, self.table = location, kind, ARTIFACTS[kind]
        self._commits: dict[int, dict[str, Any]] = {}

    def __str__(self) -> str:
        return str(self.at)

    # -- provenance ---------------------------------------------------------------------------------------
    def create(self, provenance: Mapping[str, Any]) -> Artifact:
        """Makes the root group unless there is one; `provenance` must be JSON and name `dtype` of tokens."""
        memory = MemoryStore()
        attributes = {"schema": SCHEMA, "kind": self.kind, **provenance}
        zarr.create_group(memory, attributes=attributes).create_group("shards")
        if self.at.get("zarr.json") is None:
            for name, buffer in memory._store_dict.items():
                self.at.put_new(name, buffer.to_bytes())
        self.provenance()
        return self

    def provenance(self) -> dict[str, Any]:
        """What the root group says of how this was made. Raises InputError where there is no artifact."""
        root = self.at.get_json("zarr.json")
        if root is None:
            raise InputError(f"{self}: nothing there; run the stage that writes it (`clip2seg plan` shows which)")
        attributes: dict[str, Any] = root.get("attributes", {})
        check_version(str(self), attributes.get("schema"), f"clip2seg {attributes.get('stage', 'extract')} ...")
        return attributes

    # -- shards: write ------------------------------------------------------------------------------------
    def write(self, shard: int, ids: Sequence[str], arrays: Mapping[str, np.ndarray], stats: Mapping[str, Any]) -> int:
        """Writes and commits one shard (`ids` of its views, arrays of the schema); returns bytes written."""
        check_shard(self.kind, arrays, self.provenance()["dtype"])
        memory = MemoryStore()
        group = zarr.create_group(memory)
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
        for name, buffer in memory._store_dict.items():
            data = buffer.to_bytes()
            self.at.put(f"{_folder(shard)}/{name}", data)
            objects[name] = [len(data), hashlib.sha256(data).hexdigest()]
        commit = {"schema": SCHEMA, "ids": list(ids), "stats": dict(stats), "objects": objects}
        self.at.put_json(f"{_folder(shard)}/commit.json", commit)
        self._commits[shard] = commit
        return sum(size for size, _ in objects.values())

    def claim(self, shard: int) -> Claim | None:
        """Takes the right to write a shard: None if it is ours now, else who has it.

        Shards are pure functions of their address, so two writers that both believe to own one (after a claim
        was judged dead too early) write the same bytes: the claim saves work, it is not what keeps data safe.
        """
        return take(self.at, f"{_folder(shard)}/claim.json")

    def release(self, shard: int) -> None:
        """Gives a claim back."""
        self.at.delete(f"{_folder(shard)}/claim.json")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the whole artifact complete."""
        self.at.put_json("complete.json", {"schema": SCHEMA, "summary": dict(summary)})

    # -- shards: read -------------------------------------------------------------------------------------
    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete artifact; None while it is not complete."""
        mark = self.at.get_json("complete.json")
        if mark is None:
            return None
        check_version(str(self), mark.get("schema"), "clip2seg extract ...")
        summary: dict[str, Any] = mark["summary"]
        return summary

    def commit(self, shard: int) -> dict[str, Any] | None:
        """The commit mark of a shard (`ids`, `stats`, `objects`); None while it is not committed."""
        if shard not in self._commits:
            mark = self.at.get_json(f"{_folder(shard)}/commit.json")
            if mark is None:
                return None
            check_version(f"{self}/{_folder(shard)}", mark.get("schema"), "clip2seg extract ...")
            self._commits[shard] = mark
        return self._commits[shard]

    def committed(self) -> list[int]:
        """Shards with a commit mark, in order."""
        names = self.at.names("shards")
        return sorted(int(n.split("/")[1]) for n in names if n.endswith("/commit.json"))

    def read(self, shard: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Whole arrays of a shard, every byte checked against the commit mark."""
        group = self._memory_group(shard, list(names or self.table))
        return {name: np.asarray(_array(group, name)[...]) for name in names or self.table}

    def _memory_group(self, shard: int, names: Sequence[str]) -> zarr.Group:
        commit = self._committed_or_raise(shard)
        store: dict[str, Any] = {}
        for key, (_, digest) in commit["objects"].items():
            if key == "zarr.json" or key.split("/")[0] in names:
                data = self.at.get(f"{_folder(shard)}/{key}")
                if data is None or hashlib.sha256(data).hexdigest() != digest:
                    raise self._damaged(f"{_folder(shard)}/{key}", "missing" if data is None else "damaged")
                store[key] = default_buffer_prototype().buffer.from_bytes(data)
        return zarr.open_group(MemoryStore(store), mode="r")

    def _committed_or_raise(self, shard: int) -> dict[str, Any]:
        commit = self.commit(shard)
        if commit is None:
            raise StoreError(f"{self}/{_folder(shard)}: not there; run `clip2seg {self.provenance()['stage']}` again")
        return commit

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(f"{self}/{name}: {what}; run `clip2seg cache verify --repair`, then the stage again")

    def rows(self, shard: int, name: str) -> Iterator[np.ndarray]:
        """The rows of a `by_row` array one at a time; each row's checksum is tested as it is read."""
        commit = self._committed_or_raise(shard)
        store = ObjectStore(self.at.store, read_only=True)
        try:
            array = zarr.open_array(store, path=self.at.key(f"{_folder(shard)}/{name}"), mode="r")
            for i in range(len(commit["ids"])):
                yield np.asarray(array[i])
        except (ValueError, FileNotFoundError) as error:
            raise self._damaged(f"{_folder(shard)}/{name}", "damaged or missing") from error

    def load(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named arrays of all committed shards, joined; offsets are made to count through."""
        shards = self.committed()
        parts = [self.read(s, names) for s in shards]
        return {n: _joined([p[n] for p in parts], offsets=n.endswith("_offsets")) for n in names}

    def ids(self) -> list[str]:
        """Ids of all views in order."""
        return [i for s in self.committed() for i in self._committed_or_raise(s)["ids"]]

    # -- the dense tier can go --------------------------------------------------------------------------------
    def drop(self) -> int:
        """Deletes all shards and leaves a mark that says so; returns the bytes freed."""
        freed = sum(self.at.names().values())
        provenance = self.provenance()
        self.at.put_json("dropped.json", {"schema": SCHEMA})
        self.at.child("shards").delete_all()
        self.at.delete("complete.json")
        self._commits.clear()
        self.create({k: v for k, v in provenance.items() if k not in ("schema", "kind")})
        return freed - sum(self.at.names().values())

    def dropped(self) -> bool:
        """Whether this artifact was dropped on purpose: stages then recompute what they need of it."""
        return self.at.get_json("dropped.json") is not None

    # -- verify -------------------------------------------------------------------------------------------
    def faults(self, shard: int) -> list[str]:
        """Objects of a committed shard that are missing or not what was committed (every byte is read)."""
        commit = self._committed_or_raise(shard)
        wrong = []
        for key, (_, digest) in commit["objects"].items():
            data = self.at.get(f"{_folder(shard)}/{key}")
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                wrong.append(f"{_folder(shard)}/{key}: {'missing' if data is None else 'damaged'}")
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


def _folder(shard: int) -> str:
    return f"shards/{shard:05d}"


def _joined(parts: list[np.ndarray], *, offsets: bool) -> np.ndarray:
    if not offsets:
        return np.concatenate(parts)
    starts = np.cumsum([0] + [int(p[-1]) for p in parts])
    return np.concatenate([parts[0][:1], *(p[1:] + s for p, s in zip(parts, starts[:-1], strict=True))])
