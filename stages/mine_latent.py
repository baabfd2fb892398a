"""mine-latent: unannotated cells -> seeds, k-means, merge -> cell masks of latent classes, their local CLS tokens.

Eq. 1 of the paper (method.md section 2). Images are mined side by side in threads (faiss, numpy and PIL release
the interpreter); the teacher encodes the crops of many images at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cache.settings import IGNORE, InputError
from cache.store import Artifact
from stages.parts.crops import cached_view
from stages.parts.datasets import Dataset
from stages.parts.mining import mine, one_thread
from stages.parts.regions import annotated_share, latent_mask, present_regions, region_crops
from stages.parts.settings import ExtractConfig, MiningConfig
from stages.parts.teacher import Teacher, TeacherConfig, load_teacher
from stages.parts.tokens import encode_crops, stored, to_pixels
from stages.parts.views import Array, ViewsConfig, inside, whole
from stages.progress import Bar, Clock, unclaimed


@dataclass(frozen=True)
class Mined:
    """The latent classes of one view: `cells` uint8 [h, w], `crops` uint8 [P, s, s, 3] of latent ids `regions`."""

    cells: Array
    regions: list[int]
    crops: Array
    unannotated: int
    seconds: float


def run(
    cfg: MiningConfig,
    extract: ExtractConfig,
    teacher_cfg: TeacherConfig,
    views: ViewsConfig,
    data: Dataset,
    tokens: Artifact,
    dense: Artifact | None,
    out: Artifact,
    *,
    device: torch.device,
    workers: int,
) -> dict[str, Any]:
    """Fills the artifact `latent`; does only what is missing; returns the summary.

    `dense` None: the dense tokens are computed again, view by view, as `extract` would have stored them.
    """
    if tokens.summary() is None:
        raise InputError(f"{tokens}: extract has not finished; run `clip2seg extract` first")
    teacher = load_teacher(teacher_cfg, device)
    shards, clock = len(tokens.committed()), Clock()
    index = {image_id: i for i, image_id in enumerate(data.ids)}
    total = sum(len(_ids(tokens, s)) for s in range(shards) if out.commit(s) is None)
    gpu = device.type == "cuda"  # its one index is for one thread
    pool = ThreadPoolExecutor(1 if gpu else max(1, workers), initializer=one_thread)
    job = functools.partial(_mine, cfg, data, views, teacher.crop_size, gpu)
    with Bar("mine-latent", total, "views") as bar, pool:
        for shard in unclaimed([out], shards):
            ids = _ids(tokens, shard)
            rows = [_row(i, index, views) for i in ids]
            if dense is not None:
                maps: Iterator[np.ndarray] = dense.rows(shard, "dense")
            else:
                maps = _encoded_again(teacher, data, views, rows, extract)
            found: list[Mined] = []
            local: list[np.ndarray] = []
            for start in range(0, len(rows), extract.batch):
                part = rows[start : start + extract.batch]
                with clock("dense"):
                    fields = [np.asarray(next(maps), np.float32) for _ in part]
                with clock("mine"):
                    mined = list(pool.map(job, part, fields))
                with clock("teacher"):
                    local.append(encode_crops(teacher, np.concatenate([m.crops for m in mined]), extract))
                found += mined
                bar.advance(len(part))
            with clock("write"):
                _write(out, shard, ids, found, np.concatenate(local))
    summary = _summary(out, shards, clock)
    out.finish(summary)
    return summary


def _mine(
    cfg: MiningConfig, data: Dataset, views: ViewsConfig, crop_size: int, gpu: bool, row: int, dense: np.ndarray
) -> Mined:
    image_index, v = divmod(row, views.count)
    image, labels = data.image(image_index), data.labels(image_index, "seen")
    image, labels, view = cached_view(views, data.ids[image_index], v, image, labels)
    # Padding is no part of the world: it counts as annotated, or it would become a latent class.
    free = labels == IGNORE if view is None else (labels == IGNORE) & inside(view)
    known = np.where(free, IGNORE, 0).astype(np.uint8)
    share = annotated_share(known, dense.shape[:2])
    clock = Clock()
    with clock("faiss"):
        cells = mine(dense, share, cfg, gpu)
    mask = latent_mask(known, cells)
    regions = present_regions(mask)
    open_cells = int((share <= cfg.max_annotated).sum())
    return Mined(cells, regions, region_crops(image, mask, regions, crop_size), open_cells, clock.seconds["faiss"])


def _encoded_again(
    teacher: Teacher, data: Dataset, views: ViewsConfig, rows: Sequence[int], extract: ExtractConfig
) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), extract.batch):
        images = []
        for row in rows[start : start + extract.batch]:
            i, v = divmod(row, views.count)
            image, _, _ = cached_view(views, data.ids[i], v, data.image(i), data.labels(i, "seen"))
            images.append(whole(image, teacher.input_size))
        yield from stored(teacher.encode_views(to_pixels(np.stack(images)))[1], extract.dtype)


def _ids(tokens: Artifact, shard: int) -> list[str]:
    commit = tokens.commit(shard)
    if commit is None:
        raise InputError(f"{tokens}: shard {shard} is not there; run `clip2seg extract` again")
    ids: list[str] = commit["ids"]
    return ids


def _row(view: str, index: dict[str, int], views: ViewsConfig) -> int:
    image_id, _, v = view.rpartition("#") if views.count > 1 else (view, "", "0")
    return index[image_id] * views.count + int(v)


def _write(out: Artifact, shard: int, ids: list[str], found: list[Mined], local: np.ndarray) -> None:
    arrays = {
        "cells": np.stack([m.cells for m in found]),
        "local": local,
        "local_region": np.array([r for m in found for r in m.regions], np.uint8),
        "local_offsets": np.cumsum([0] + [len(m.regions) for m in found], dtype=np.int64),
    }
    latent = [int((m.cells != IGNORE).sum()) for m in found]
    stats = {
        "classes": [len(m.regions) for m in found],
        "unannotated_cells": sum(m.unannotated for m in found),
        "covered_cells": sum(latent),
        "faiss_seconds": round(sum(m.seconds for m in found), 3),
    }
    out.write(shard, ids, arrays, stats)
    out.release(shard)


def _summary(out: Artifact, shards: int, clock: Clock) -> dict[str, Any]:
    stats = [(out.commit(s) or {})["stats"] for s in range(shards)]
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
