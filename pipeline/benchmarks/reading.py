"""What the cache costs to read: rows a second beside a raw memmap of the same bytes, and bytes beside payload."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.benchmarks.harness import interleaved, ratio, result
from pipeline.benchmarks.world import World, write_cache
from stages.running.cached_teacher import load_cache

DIM, GRID = 512, (32, 32)


def reading(world: World, rounds: int, device: torch.device, dense_views: int) -> dict[str, Any]:
    """Rows a second of dense tokens and of what training reads, in order and at random.

    Training holds its small arrays in memory: what counts is opening (every byte checked) and then looking up.
    The memmap has no names, no checksums and no shards.
    """
    num_seen, cfg = len(world.data.vocabulary.seen), world.plan.config.extract
    tokens, latent = write_cache(world, GRID, DIM)
    dense = world.artifact("dense", "made-dense")
    raw = world.folder / "dense.raw"
    flat = np.memmap(raw, cfg.dtype, "w+", shape=(dense_views, *GRID, DIM))
    random = np.random.default_rng(21)
    for shard, start in enumerate(range(0, dense_views, cfg.shard)):
        part = flat[start : start + cfg.shard]
        part[:] = random.standard_normal(part.shape, np.float32)
        dense.write(shard, [str(i) for i in range(start, start + len(part))], {"dense": np.asarray(part)}, {})
    flat.flush()
    dense.finish({}, -(-dense_views // cfg.shard))
    held = load_cache(tokens, latent, num_seen=num_seen, rows=len(world.data))
    small = world.folder / "small.raw"
    packed = np.memmap(small, held.local.dtype, "w+", shape=held.local.shape)
    packed[:] = held.local
    packed.flush()
    views = np.arange(len(held.ids))
    shuffled, dense_order = random.permutation(views), random.permutation(dense_views)
    sums: dict[str, float] = {}

    def dense_cache(order: np.ndarray | None) -> float:
        if order is None:
            rows = (row for s in dense.shards() for row in dense.rows(s, "dense"))
        else:
            rows = (next(dense.rows(int(i) // cfg.shard, "dense", [int(i) % cfg.shard])) for i in order)
        return float(sum(float(row[0, 0, 0]) + row.astype(np.float32).sum() for row in rows))

    def dense_raw(order: np.ndarray) -> float:
        mapped = np.memmap(raw, cfg.dtype, "r", shape=flat.shape)
        rows = (np.array(mapped[i]) for i in order)
        return float(sum(float(row[0, 0, 0]) + row.astype(np.float32).sum() for row in rows))

    def tokens_cache(order: np.ndarray) -> float:
        found = (held.local[held.offsets[i] : held.offsets[i + 1]] for i in order)
        return float(sum(np.array(own)[:, 0].astype(np.float32).sum() for own in found))

    def tokens_raw(order: np.ndarray) -> float:
        mapped = np.memmap(small, held.local.dtype, "r", shape=held.local.shape)
        found = (mapped[held.offsets[i] : held.offsets[i + 1]] for i in order)
        return float(sum(np.array(own)[:, 0].astype(np.float32).sum() for own in found))

    jobs: dict[str, tuple[Any, int]] = {
        "dense, in order": (lambda: dense_cache(None), dense_views),
        "dense, in order, memmap": (lambda: dense_raw(np.arange(dense_views)), dense_views),
        "dense, at random": (lambda: dense_cache(dense_order), dense_views),
        "dense, at random, memmap": (lambda: dense_raw(dense_order), dense_views),
        "training's tokens, in order": (lambda: tokens_cache(views), len(views)),
        "training's tokens, in order, memmap": (lambda: tokens_raw(views), len(views)),
        "training's tokens, at random": (lambda: tokens_cache(shuffled), len(views)),
        "training's tokens, at random, memmap": (lambda: tokens_raw(shuffled), len(views)),
        "opening training's tokens": (
            lambda: len(load_cache(tokens, latent, num_seen=num_seen, rows=len(world.data)).ids),
            len(views),
        ),
    }

    def kept(name: str) -> Any:
        def run() -> None:
            sums[name] = jobs[name][0]()

        return run

    measured = interleaved({name: kept(name) for name in jobs}, rounds, device)
    rows: dict[str, dict[str, Any]] = {
        name: {"rows/s": round(count / measured.median(name))} for name, (_, count) in jobs.items()
    }
    ratios: dict[str, Any] = {}
    equal = True
    for name in jobs:
        if f"{name}, memmap" in jobs:
            ratios[f"{name}: time over memmap"] = measured.ratio(name, f"{name}, memmap")
            equal &= sums[name] == sums[f"{name}, memmap"]
    for kind, artifact in {"tokens": tokens, "latent": latent, "dense": dense}.items():
        payload = sum(value.nbytes for s in artifact.shards() for value in artifact.read(s).values())
        stored = sum(artifact.at.names().values())
        count = len(artifact.ids())
        rows[f"bytes of {kind}"] = {"a view": round(stored / count), "payload": round(payload / count)}
        ratios[f"{kind}: bytes stored over payload"] = ratio(stored / payload)
    settings = {
        "views": len(views),
        "dense views": dense_views,
        "grid": f"{GRID[0]}x{GRID[1]}x{DIM}",
        "dtype": cfg.dtype,
        "shard": cfg.shard,
        "files": "in the page cache",
        "rounds": rounds,
        "values equal": equal,
    }
    return result("cache", device, settings, rows, ratios)
