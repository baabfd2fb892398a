"""mine-latent: unannotated cells -> seeds, k-means, merge -> cell masks of latent classes, their local CLS tokens.

Eq. 1 of the paper (method.md section 2). Images are mined side by side in threads (faiss, numpy and PIL release
the interpreter); the teacher encodes the crops of many images at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.data.datasets import Dataset
from stages.parts.mining.miner import Mined, Miner, crops_of, dense_again, latent_arrays
from stages.parts.teacher.crops import view_row
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import encode_crops
from stages.running.compute import Compute
from stages.running.progress import Bar, Clock, ShardQueue
from stages.running.recipes import CacheRecipe


def run(recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, *, compute: Compute) -> dict[str, Any]:
    """Fills the tier `latent`; does only what is missing; returns the summary.

    Where the dense tier isn't complete, its tokens are computed again, view by view, as `extract` would store them.
    """
    extract, views, tokens, out = recipe.extract, recipe.views, tiers.tokens, tiers.latent
    dense = tiers.dense if tiers.dense.summary() is not None else None
    if tokens.summary() is None:
        raise InputError(f"{tokens}: extract has not finished; run `clip2seg extract` first")
    teacher = load_teacher(recipe.teacher, compute.device)
    shards, clock = len(tokens.shards()), Clock()
    index = {image_id: i for i, image_id in enumerate(data.ids)}
    ready = set(out.committed())
    total = sum(len(mark["ids"]) for _, mark in tokens.marks([s for s in range(shards) if s not in ready]))
    miner = Miner(recipe.mining, data, views, teacher.crop_size, gpu=compute.gpu)
    with (
        Bar("mine-latent", total, "views", divided=True) as bar,
        miner.pool(compute.workers) as pool,
        ShardQueue([out], shards) as queue,
    ):
        while queue.open():
            for shard in queue.claims():
                ids = tokens.shard_ids(shard)
                rows = [view_row(i, index, views.count) for i in ids]
                if dense is not None:
                    maps: Iterator[np.ndarray] = dense.rows(shard, "dense")
                else:
                    maps = dense_again(teacher, data, views, rows, extract)
                found: list[Mined] = []
                local = [np.zeros((0, teacher.dim), extract.dtype)]
                for start in range(0, len(rows), extract.batch):
                    part = rows[start : start + extract.batch]
                    with clock("dense"):
                        fields = [np.asarray(next(maps), np.float32) for _ in part]
                    with clock("mine"):
                        mined = list(pool.map(miner.mine, part, fields))
                    with clock("teacher"):
                        local.append(encode_crops(teacher, crops_of(mined), extract))
                    found += mined
                    bar.advance(len(part))
                with clock("write"):
                    _write(out, shard, ids, found, np.concatenate(local), teacher)
                queue.release(shard)
    summary = _summary(out, shards, clock)
    out.finish(summary)
    return summary


def _write(out: Artifact, shard: int, ids: list[str], found: list[Mined], local: np.ndarray, teacher: Teacher) -> None:
    stats = {
        "classes": [len(m.regions) for m in found],
        "unannotated_cells": sum(m.unannotated for m in found),
        "covered_cells": sum(int((m.cells != IGNORE).sum()) for m in found),
        "faiss_seconds": round(sum(m.seconds for m in found), 3),
    }
    out.write(shard, ids, latent_arrays(found, local, teacher.grid), stats)


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
