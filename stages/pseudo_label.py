"""pseudo-label: dense tokens, refined as [refine] says, and the seen names -> pseudo labels of cells.

What a photo without a mask can teach of names. Reads no label and of the text embeddings the seen classes' alone, so
with classes held out nothing of them gets here; with `data.split = "none"` every name is a seen one.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np

from cache.claims import writing
from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.data.datasets import Dataset
from stages.parts.mining.clustering import one_blas_thread
from stages.parts.mining.miner import dense_again
from stages.parts.mining.pseudo import pseudo_labels
from stages.parts.settings import PseudoLabelConfig
from stages.parts.teacher.crops import view_row
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.running.compute import Compute
from stages.running.progress import Bar, ShardQueue
from stages.running.recipes import CacheRecipe


def run(
    cfg: PseudoLabelConfig, recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, *, compute: Compute
) -> dict[str, Any]:
    """Fills the tier `pseudo`, shard by shard; does only what is missing; returns the summary.

    Where the dense tier isn't complete, its tokens are encoded again. Raises InputError where `extract` has not
    finished, or a single name is all there is to choose from.
    """
    for artifact in (tiers.tokens, tiers.text):
        if artifact.summary() is None:
            raise InputError(f"{artifact}: extract has not finished; run `clip2seg extract` first")
    tiers.tokens.check_rows(len(data) * recipe.views.count)
    text = tiers.text.read(0, ["seen"])["seen"]
    if len(text) < 2:
        raise InputError(
            f"{tiers.text}: one seen name alone, and nothing to tell it from; name what else the photos show, "
            "background too"
        )
    # Product threads would reach the last bits of what a confidence is compared with.
    with one_blas_thread(), writing(tiers.pseudo.at):
        return _run(cfg, recipe, data, tiers, text, compute)


def _run(
    cfg: PseudoLabelConfig, recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, text: np.ndarray, compute: Compute
) -> dict[str, Any]:
    tokens, out = tiers.tokens, tiers.pseudo
    refiner, teacher = Refiner(recipe.refine, recipe.affinity), None
    if tiers.dense.summary() is None:
        teacher = load_teacher(recipe.teacher, compute.device)
    features = tiers.affinity if recipe.refine.affinity == "network" else None
    if features is not None and features.summary() is None:
        raise InputError(f"{features}: the features of [affinity] are missing; run `clip2seg extract` first")
    index = {image_id: i for i, image_id in enumerate(data.ids)}
    shards, ready = len(tokens.shards()), set(out.committed())
    views_of = {shard: len(mark["ids"]) for shard, mark in tokens.marks(range(shards))}
    total, done = sum(views_of.values()), sum(n for shard, n in views_of.items() if shard in ready)
    with (
        Bar("pseudo-label", total, "views", done=done, divided=True) as bar,
        ShardQueue([out], shards) as queue,
    ):
        while queue.open():
            for shard in queue.claims():
                ids = tokens.shard_ids(shard)
                rows = [view_row(one, index, recipe.views.count) for one in ids]
                maps = (
                    tiers.dense.rows(shard, "dense")
                    if teacher is None
                    else dense_again(teacher, data, recipe.views, rows, recipe.extract)
                )
                second = features.rows(shard, "features") if features is not None else repeat(None)
                found = []
                for dense, other in zip(maps, second, strict=False):
                    found.append(pseudo_labels(refiner.stored(dense, other), text, cfg))
                    bar.advance()
                # A shard of bad photos alone has a grid all the same.
                grid = found[0].shape if found else _grid(tiers.dense, teacher, shard)
                labels = np.array(found, np.uint8).reshape(-1, *grid)
                cells = np.bincount(labels[labels != IGNORE], minlength=len(text))
                out.write(shard, ids, {"labels": labels}, {"cells": cells.tolist(), "all_cells": int(labels.size)})
                queue.release(shard)
    summary = _summary(out, shards, len(text))
    out.finish(summary, shards)
    return summary


def _summary(out: Artifact, shards: int, names: int) -> dict[str, Any]:
    marks = [mark for _, mark in out.marks(range(shards))]
    cells = np.sum([mark["stats"]["cells"] for mark in marks], axis=0, dtype=np.int64)
    every = sum(mark["stats"]["all_cells"] for mark in marks)
    return {
        "views": sum(len(mark["ids"]) for mark in marks),
        "cells": cells.tolist() if marks else [0] * names,
        "share": round(float(np.sum(cells)) / max(every, 1), 4),
    }


def _grid(dense: Artifact, teacher: Teacher | None, shard: int) -> tuple[int, ...]:
    """Cells (h, w) of a shard that holds no view."""
    return teacher.grid if teacher else dense.read(shard, ["dense"])["dense"].shape[1:3]
