"""The shard index and the division of work at a size that no test data has: marks without shards, in memory.

A hundred million views are 781,250 shards of 128. What is counted, beside time and memory, are requests: an object
store answers each after some 20 ms, whoever asks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from cache.location import LARGEST, Location, sealed
from cache.schema import ARTIFACTS, SCHEMA
from cache.store import Artifact
from pipeline.benchmarks.harness import peak_mib, ratio, result
from stages.running.progress import ShardQueue, say

SHARDS = (12_208, 97_656, 781_250)
VIEWS = 128
SAMPLE = 10_000
"""Marks read where each mark counts: the time of a mark does not depend on how many there are."""
PAGE = 1000
"""Names in one answer of an object store's listing."""
OBJECTS = 2 * len(ARTIFACTS["tokens"]) + 3
"""Names below a shard of tokens: an array's values and metadata, the group's, the mark, the claim."""


class Simulated(Location):
    """A store of `shards` committed shards, but for those `missing`, that holds no data and counts requests."""

    def __init__(self, shards: int, missing: Collection[int]) -> None:
        super().__init__("memory:///")
        self.shards, self.missing, self.requests, self.listings = shards, set(missing), 0, 0
        objects = {name: [1, "0" * 64] for name in ("zarr.json", *(f"{a}/zarr.json" for a in ARTIFACTS["tokens"]))}
        self.mark = sealed({"schema": SCHEMA, "ids": ["i"], "stats": {"bad": []}, "objects": objects})

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """A commit mark, where there is one; claims are not kept."""
        self.requests += 1
        shard = name.removeprefix("shards/").removesuffix("/commit.json")
        return self.mark if shard.isdigit() and int(shard) not in self.missing else None

    def put_new(self, name: str, data: bytes) -> bool:
        """Every claim is granted."""
        self.requests += 1
        return True

    def delete(self, name: str) -> None:
        """Nothing is kept, nothing goes."""
        self.requests += 1

    def listed(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """The names of the commit marks; a real store sends those of the arrays between them."""
        self.listings += 1
        for shard in range(self.shards):
            if shard not in self.missing:
                yield f"shards/{shard:05d}/commit.json", len(self.mark)

    @property
    def pages(self) -> int:
        """Answers that a real store needs for the listings so far."""
        return self.listings * -(-(self.shards - len(self.missing)) * OBJECTS // PAGE)


def scale(device: torch.device, counts: Sequence[int] = SHARDS) -> dict[str, Any]:
    """Requests, seconds and memory of the steps that see every shard, and of those that must not."""
    rows: dict[str, dict[str, Any]] = {}
    each: dict[str, list[float]] = {}
    for count in counts:
        say(f"scale: {count} shards")
        missing: dict[str, Collection[int]] = {
            "first claim, nothing committed": range(count),
            "first claim, one shard missing": [count // 2],
            "first claim, none missing": [],
        }
        for name, gone in missing.items():
            _step(rows, each, count, name, gone, functools.partial(_first_claim, shards=count))
        _step(rows, each, count, "list what is committed", [], lambda a: len(a.committed()))
        sample = range(min(count, SAMPLE))
        _step(rows, each, count, f"read {SAMPLE} marks", [], functools.partial(_read, shards=sample))
    full = _full_mark()
    rows["one mark of 128 views"] = {"bytes": len(full), "seconds": _mark_seconds(full)}
    ratios = {
        f"{name}: time a shard, {counts[-1]} over {counts[0]} shards": ratio(taken[-1] / max(taken[0], 1e-12))
        for name, taken in each.items()
        if name in ("list what is committed", "first claim, none missing")
    }
    settings = {"store": "simulated", "views a shard": VIEWS, "names a shard in a real store": OBJECTS}
    return result("scale", device, settings, rows, ratios)


def _read(artifact: Artifact, shards: range) -> int:
    return sum(1 for _ in artifact.marks(shards))


def _first_claim(artifact: Artifact, shards: int) -> int | None:
    with ShardQueue([artifact], shards) as work:
        return next(work.claims()) if work.open() else None


def _step(
    rows: dict[str, dict[str, Any]],
    each: dict[str, list[float]],
    count: int,
    name: str,
    missing: Collection[int],
    step: Callable[[Artifact], Any],
) -> None:
    """One row, from a store and an artifact of its own."""
    at = Simulated(count, missing)
    start = time.perf_counter()
    found = step(Artifact(at, "tokens"))
    taken = time.perf_counter() - start
    rows[f"{count} shards: {name}"] = {
        "found": found,
        "seconds": round(taken, 4),
        "requests": at.requests,
        "pages listed": at.pages,
        "peak MiB": round(peak_mib()),
    }
    each.setdefault(name, []).append(taken / count)


def _full_mark() -> bytes:
    objects = {f"{name}/{key}": [1000, "0" * 64] for name in ARTIFACTS["tokens"] for key in ("zarr.json", "c/0")}
    ids = [f"image_{i:012d}" for i in range(VIEWS)]
    stats = {"bad": [], "regions": 8 * VIEWS, "classes": list(range(156))}
    return sealed({"schema": SCHEMA, "ids": ids, "stats": stats, "objects": objects})


def _mark_seconds(full: bytes) -> float:
    at = Location("memory:///")
    at.put("mark.json", full)
    start = time.perf_counter()
    for _ in range(200):
        at.get_mark("mark.json")
    return round((time.perf_counter() - start) / 200, 6)
