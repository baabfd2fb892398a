"""Latent classes of cached views: mines their cells, crops the regions for the teacher, makes the cache's arrays.

What `mine-latent` and the online teacher share (method.md section 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from cache.settings import IGNORE
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import annotated_share, latent_mask, present_regions, region_crops
from stages.parts.data.views import Array, View, ViewsConfig, inside, whole
from stages.parts.mining.clustering import mine_tokens, one_blas_thread, one_thread
from stages.parts.settings import ExtractConfig, MiningConfig
from stages.parts.teacher.crops import cached_view
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import Teacher
from stages.parts.teacher.tokens import stored, to_pixels


@dataclass(frozen=True)
class Mined:
    """The latent classes of one view: `cells` uint8 [h, w], `crops` uint8 [P, s, s, 3] of latent ids `regions`."""

    cells: Array
    regions: list[int]
    crops: Array
    unannotated: int
    seconds: float


@dataclass(frozen=True)
class Miner:
    """Mines the rows (image * V + view) of a data set. `crop_size` [pixels]: the teacher's input for regions.

    `gpu`: the clustering's one index on a GPU, which is for one thread.
    """

    cfg: MiningConfig
    data: Dataset
    views: ViewsConfig
    crop_size: int
    gpu: bool
    refiner: Refiner = field(default_factory=Refiner)

    @contextmanager
    def pool(self, workers: int) -> Iterator[ThreadPoolExecutor]:
        """Threads that mine side by side, each with one core for itself; BLAS has its threads back afterwards."""
        threads = 1 if self.gpu else max(1, workers)
        with one_blas_thread(), ThreadPoolExecutor(threads, initializer=one_thread) as pool:
            yield pool

    def view(self, row: int) -> tuple[Array, Array]:
        """One view: its image uint8 [H, W, 3], and uint8 [H, W], 255 where a latent class may be, else 0."""
        image_index, v = divmod(row, self.views.count)
        labels = self.data.labels(image_index, "seen")
        image, labels, view = cached_view(self.views, self.data, image_index, v, labels)
        return image, _open(labels, view)

    def known(self, image_index: int) -> Array:
        """That map for a whole image, from its mask alone: uint8 [H, W], 255 where a latent class may be, else 0."""
        return _open(self.data.labels(image_index, "seen"), None)

    def unannotated(self, row: int, grid: tuple[int, ...]) -> int:
        """How many cells of a view's grid (h, w) are unannotated."""
        known = self.known(row) if self.views.count == 1 else self.view(row)[1]
        return int(self._free(known, grid).sum())

    def _free(self, known: Array, grid: tuple[int, ...]) -> np.ndarray:
        """Which cells of a view's grid (h, w) are unannotated: bool [h, w]."""
        free: np.ndarray = annotated_share(known, (grid[0], grid[1])) <= self.cfg.max_annotated
        return free

    def mine(self, row: int, dense: np.ndarray, features: np.ndarray | None = None) -> Mined:
        """One view from its stored tokens [h, w, D] and, where the refiner wants it, the second network's map."""
        image, known = self.view(row)
        cells, unannotated, seconds = self.cells(known, dense, features)
        mask = latent_mask(known, cells)
        regions = present_regions(mask)
        return Mined(cells, regions, region_crops(image, mask, regions, self.crop_size), unannotated, seconds)

    def cells(self, known: Array, dense: np.ndarray, features: np.ndarray | None = None) -> tuple[Array, int, float]:
        """Latent ids uint8 [h, w] of a view, how many of its cells are unannotated, seconds of mining."""
        free = self._free(known, dense.shape[:2])
        start = perf_counter()
        tokens = self.refiner.cells(dense, features, free)
        cells = mine_tokens(tokens, free, self.cfg, (self.cfg.merge_threshold,), self.gpu)[0]
        return cells, len(tokens), perf_counter() - start


def _open(labels: Array, view: View | None) -> Array:
    """255 where a view has no label and is no padding, else 0: uint8 [H, W]."""
    # Padding counts as annotated, or it would become a latent class.
    free = labels == IGNORE if view is None else (labels == IGNORE) & inside(view)
    return free.view(np.uint8) * np.uint8(IGNORE)


def latent_arrays(found: Sequence[Mined], local: np.ndarray, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The arrays of a `latent` shard (schema names): mined views and their regions' local tokens [p, D]."""
    return {
        "cells": np.array([m.cells for m in found], np.uint8).reshape(-1, *grid),
        "local": local,
        "local_region": np.array([r for m in found for r in m.regions], np.uint8),
        "local_offsets": np.cumsum([0] + [len(m.regions) for m in found], dtype=np.int64),
    }


def crops_of(found: Sequence[Mined]) -> np.ndarray:
    """All crops of some views, uint8 [p, s, s, 3]."""
    return np.concatenate([m.crops for m in found])


def dense_again(
    teacher: Teacher, data: Dataset, views: ViewsConfig, rows: Sequence[int], cfg: ExtractConfig
) -> Iterator[np.ndarray]:
    """The dense tokens [h, w, D] of some rows as `extract` would have stored them, encoded in its batches."""
    for start in range(0, len(rows), cfg.batch):
        images = []
        for row in rows[start : start + cfg.batch]:
            i, v = divmod(row, views.count)
            image, _, _ = cached_view(views, data, i, v, data.labels(i, "seen"))
            images.append(whole(image, teacher.input_size))
        yield from stored(teacher.encode_views(to_pixels(np.stack(images)))[1], cfg.dtype)
