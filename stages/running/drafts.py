"""Finished parts of a shard that is not finished: what a stopped run takes up again instead of doing it anew.

A draft lies beside its shard's objects until the shard is committed. It is valid whenever it is whole, since what is
written at an address is a function of the address alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cache.headers import about_of
from cache.location import Location
from cache.store import joined

_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Part:
    """Consecutive views of a shard: their ids, arrays with one row a view (or by offsets), and plain JSON."""

    ids: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)


def whole(parts: Mapping[int, Part]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids and arrays of a shard from its parts by first row."""
    order = [parts[first] for first in sorted(parts)]
    names = order[0].arrays
    arrays = {n: joined([p.arrays[n] for p in order], offsets=n.endswith("_offsets")) for n in names}
    return [one for part in order for one in part.ids], arrays


class Drafts:
    """The drafts of one shard of an artifact. Its claim must be held."""

    def __init__(self, at: Location, shard: int) -> None:
        self.at, self.folder = at, f"shards/{shard:05d}"

    def load(self) -> dict[int, Part]:
        """First row -> part. What is damaged is left out: it is done anew."""
        found = {}
        for name, _ in self.at.listed(self.folder):
            if is_draft(name) and (part := _unpacked(self.at.get(name))) is not None:
                found[int(name.rsplit("-", 1)[1])] = part
        return found

    def save(self, first: int, part: Part) -> None:
        """Keeps the part that begins with row `first`. Raises StoreError."""
        about = {"ids": list(part.ids), "about": dict(part.about)}
        data = save({k: np.ascontiguousarray(v) for k, v in part.arrays.items()}, {"clip2seg": json.dumps(about)})
        self.at.put(f"{self.folder}/draft-{first}", hashlib.sha256(data).digest() + data)

    def clear(self) -> None:
        """Removes all drafts of the shard. Raises StoreError."""
        for name in [name for name, _ in self.at.listed(self.folder) if is_draft(name)]:
            self.at.delete(name)


def is_draft(name: str) -> bool:
    """Whether an object of a cache is a draft, by its name."""
    return name.rsplit("/", 1)[-1].startswith("draft-")


def _unpacked(data: bytes | None) -> Part | None:
    if data is None or hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    try:
        about = about_of(data[_DIGEST:])
        return Part(about["ids"], load(data[_DIGEST:]), about["about"])
    except (SafetensorError, ValueError, KeyError):
        return None
