"""mine-latent: unannotated cells -> seeds, k-means, merge -> cell masks of latent classes, their local CLS tokens.

Eq. 1 of the paper (method.md section 2). Images are mined side by side in threads (faiss, numpy and PIL release
the interpreter), a batch ahead of the teacher, which encodes the crops of many images at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import Any, TypeVar

import numpy as np

from cache.claims import writing
from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact
from cache.tiers import CacheTiers, EarlierTiers
from stages.parts.data.datasets import Dataset
from stages.parts.mining.clustering import on_gpu
from stages.parts.mining.miner import Mined, Miner, crops_of, dense_again, latent_arrays
from stages.parts.settings import ExtractConfig
from stages.parts.teacher.crops import Known, view_row
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import encode_crops
from stages.running.compute import Compute, memory_explained
from stages.running.drafts import Drafts, Part, whole
from stages.running.earlier import MinedEarlier
from stages.running.progress import Bar, Clock, ShardQueue
from stages.running.recipes import CacheRecipe

T = TypeVar("T")

DRAFT_SECONDS = 10.0
"""How much work a stop may cost, besides the batch in work and the one being mined meanwhile."""


def run(
    recipe: CacheRecipe,
    data: Dataset,
    tiers: CacheTiers,
    *,
    compute: Compute,
    kmeans: str = "auto",
    earlier: Sequence[EarlierTiers] = (),
) -> dict[str, Any]:
    """Fills the tier `latent`; does only what is missing; returns the summary.

    Views that were mined in `earlier` caches, from the same photo and labels, are copied from there.

    After an error, Ctrl-C or SIGTERM the finished batches of the shard in work stay.

    Where the dense tier isn't complete, its tokens are computed again, view by view, as `extract` would store them.
    The features of [affinity] are read where [refine] or [affinity] want them. `kmeans`: where faiss clusters, auto,
    gpu or cpu (`clustering.on_gpu`).
    """
    gpu = on_gpu(kmeans, compute.gpu)
    with writing(tiers.latent.at):
        return _run(recipe, data, tiers, compute, gpu, MinedEarlier(earlier))


def _run(
    recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, compute: Compute, gpu: bool, earlier: MinedEarlier
) -> dict[str, Any]:
    extract, views, tokens, out = recipe.extract, recipe.views, tiers.tokens, tiers.latent
    dense = tiers.dense if tiers.dense.summary() is not None else None
    refiner = Refiner(recipe.refine, recipe.affinity)
    features = tiers.affinity if refiner.needs_features else None
    if features is not None and features.summary() is None:
        raise InputError(f"{features}: the features of [affinity] are missing; run `clip2seg extract` first")
    if tokens.summary() is None:
        raise InputError(f"{tokens}: extract has not finished; run `clip2seg extract` first")
    tokens.check_rows(len(data) * views.count)
    teacher = load_teacher(recipe.teacher, compute.device)
    shards, clock = len(tokens.shards()), Clock()
    index = {image_id: i for i, image_id in enumerate(data.ids)}
    ready = set(out.committed())
    views_of = {shard: len(mark["ids"]) for shard, mark in tokens.marks(range(shards))}
    total, done = sum(views_of.values()), sum(n for shard, n in views_of.items() if shard in ready)
    miner = Miner(recipe.mining, data, views, teacher.crop_size, gpu=gpu, refiner=refiner)
    with (
        memory_explained("lower extract.batch, which has an address of its own; committed shards stay"),
        Bar("mine-latent", total, "views", done=done, divided=True) as bar,
        miner.pool(compute.workers) as pool,
        ShardQueue([out], shards) as queue,
    ):
        while queue.open():
            for shard in queue.claims():
                ids, drafts = tokens.shard_ids(shard), Drafts(out.at, shard)
                rows = [view_row(i, index, views.count) for i in ids]
                check_photos(tokens, shard, data, [row // views.count for row in rows])
                firsts = range(0, len(rows), extract.batch)
                parts = {first: part for first, part in drafts.load().items() if first in firsts}
                bar.skip(sum(len(part.ids) for part in parts.values()))
                todo = [first for first in firsts if first not in parts]
                known = earlier.of(tokens, shard)
                places = [i for first in todo for i in range(first, min(first + extract.batch, len(rows)))]
                places = [i for i in places if known[i] is None]
                only = places if len(places) < len(rows) else None
                if dense is not None:
                    maps: Iterator[np.ndarray] = dense.rows(shard, "dense", only)
                else:
                    maps = dense_again(teacher, data, views, [rows[i] for i in places], extract)
                second = features.rows(shard, "features", only) if features is not None else repeat(None)
                batches = [range(first, min(first + extract.batch, len(rows))) for first in todo]
                new_rows = [[rows[i] for i in batch if known[i] is None] for batch in batches]
                with _Kept(drafts, parts) as work:
                    for batch, mining in zip(
                        batches, _begun_ahead(_mining(pool, miner, new_rows, maps, second, clock)), strict=True
                    ):
                        first, new = batch.start, list[Mined]()
                        with clock("wait for mining"):
                            for mined in mining:
                                new.append(mined)
                                bar.advance()
                        with clock("teacher"):
                            local = encode_crops(teacher, crops_of(new), extract) if new else _none(teacher, extract)
                        with clock("write"):
                            found, local = _filled(earlier, miner, [(rows[i], known[i]) for i in batch], new, local)
                            bar.skip(len(found) - len(new))
                            work.add(first, _part(ids[first : first + extract.batch], found, local, teacher))
                with clock("write"):
                    _write(out, shard, parts, teacher, extract)
                    drafts.clear()
                queue.release(shard)
    summary = _summary(out, shards, clock)
    out.finish(summary, shards)
    return summary


def _mining(
    pool: ThreadPoolExecutor,
    miner: Miner,
    batches: Iterable[list[int]],
    maps: Iterator[np.ndarray],
    second: Iterator[np.ndarray | None],
    clock: Clock,
) -> Iterator[Iterator[Mined]]:
    """Each batch of rows, its mining begun in the pool: the results in order, which raise what a thread raised."""
    for rows in batches:
        with clock("dense"):
            fields = [next(maps) for _ in rows]
            others = [next(second) for _ in rows]
        yield pool.map(miner.mine, rows, fields, others)


def _begun_ahead(batches: Iterator[T]) -> Iterator[T]:
    """The batches, each handed out once the next has been begun: threads mine it while the teacher has this one."""
    ahead = next(batches, None)
    while ahead is not None:
        batch, ahead = ahead, next(batches, None)
        yield batch


class _Kept:
    """The finished parts of a shard; drafts are made of them now and then, and where the block ends early."""

    def __init__(self, drafts: Drafts, parts: dict[int, Part]) -> None:
        self.drafts, self.parts, self.new, self.kept = drafts, parts, list[int](), time.perf_counter()

    def __enter__(self) -> _Kept:
        return self

    def add(self, first: int, part: Part) -> None:
        """Takes in the part that begins with row `first`."""
        if time.perf_counter() - self.kept > DRAFT_SECONDS:
            self._keep()
        self.parts[first] = part
        self.new.append(first)

    def _keep(self) -> None:
        for first in self.new:
            self.drafts.save(first, self.parts[first])
        self.new, self.kept = [], time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            with suppress(InputError):  # what stopped the run is what is said
                self._keep()


def _part(ids: list[str], found: list[Mined], local: np.ndarray, teacher: Teacher) -> Part:
    about = {
        "classes": [len(m.regions) for m in found],
        "unannotated_cells": sum(m.unannotated for m in found),
        "covered_cells": sum(int((m.cells != IGNORE).sum()) for m in found),
        "faiss_seconds": sum(m.seconds for m in found),
    }
    return Part(ids, latent_arrays(found, local, teacher.grid), about)


def _filled(
    earlier: MinedEarlier, miner: Miner, batch: list[tuple[int, Known | None]], new: list[Mined], local: np.ndarray
) -> tuple[list[Mined], np.ndarray]:
    """The mined views of a batch of (row, where it was mined earlier), and the local tokens [p, D] of all of them.

    `new`: those that are mined nowhere, in order, with their `local` tokens.
    """
    found, tokens, fresh, start = [], [local[:0]], iter(new), 0
    for row, at in batch:
        if at is None:
            mined = next(fresh)
            tokens.append(local[start : start + len(mined.regions)])
            start += len(mined.regions)
        else:
            cells, regions, own = earlier.view(at)
            mined = Mined(cells, regions, np.zeros((0, 0, 0, 3), np.uint8), miner.unannotated(row, cells.shape), 0.0)
            tokens.append(own)
        found.append(mined)
    return found, np.concatenate(tokens)


def _none(teacher: Teacher, extract: ExtractConfig) -> np.ndarray:
    """The local tokens of no region: [0, D]."""
    return np.zeros((0, teacher.dim), extract.dtype)


def _write(out: Artifact, shard: int, parts: dict[int, Part], teacher: Teacher, extract: ExtractConfig) -> None:
    # A shard whose images were all bad has no part, and is written all the same.
    nothing = _part([], [], _none(teacher, extract), teacher)
    every = [parts[first] for first in sorted(parts)] or [nothing]
    ids, arrays = whole(dict(enumerate(every)))
    stats = {
        "classes": [n for part in every for n in part.about["classes"]],
        **{key: sum(part.about[key] for part in every) for key in ("unannotated_cells", "covered_cells")},
        "faiss_seconds": round(sum(part.about["faiss_seconds"] for part in every), 3),
    }
    out.write(shard, ids, arrays, stats)


def _summary(out: Artifact, shards: int, clock: Clock) -> dict[str, Any]:
    stats = [mark["stats"] for _, mark in out.marks(range(shards))]
    classes = np.array([c for s in stats for c in s["classes"]], int)
    free = sum(s["unannotated_cells"] for s in stats)
    return {
        "views": len(classes),
        "latent_classes": {str(k): int(n) for k, n in enumerate(np.bincount(classes)) if n},
        "median_latent_classes": float(np.median(classes)) if len(classes) else 0.0,
        "covered_share": round(sum(s["covered_cells"] for s in stats) / max(free, 1), 4),
        "ms_per_view": {
            "faiss": round(1e3 * sum(s["faiss_seconds"] for s in stats) / max(len(classes), 1), 2),
            **{k: round(1e3 * v / max(len(classes), 1), 2) for k, v in clock.seconds.items()},
        },
    }


def check_photos(tokens: Artifact, shard: int, data: Dataset, images: list[int]) -> None:
    """Raises InputError where a photo of a shard is not, byte for byte, the one that was extracted."""
    for i, crc in zip(images, tokens.read(shard, ["photo_crc"])["photo_crc"], strict=True):
        data.check_photo(i, crc)
