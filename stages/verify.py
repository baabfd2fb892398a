"""cache verify --encode-again: a sample of cached views encoded again by a live teacher, and compared.

Reads images, seen labels, the teacher and the artifacts tokens, dense and latent; writes nothing. Checksums say
that the cache is what was written; this says that what was written is what this teacher makes of these images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import latent_mask, present_regions, region_crops
from stages.parts.mining.miner import Miner
from stages.parts.teacher.crops import BadView, TeacherView, TeacherViews, collate_views, view_row
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.tokens import encode, encode_crops, token_arrays
from stages.running.compute import Compute
from stages.running.progress import Bar
from stages.running.recipes import CacheRecipe

LEAST_COSINE = 0.999
"""Tokens are the same down to this cosine: batches and devices change the last bits, another teacher all of them."""


@dataclass
class Comparison:
    """What was compared: views, tokens of each sort, the lowest cosine of each sort, and what differs by name."""

    views: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def compare(self, view: str, name: str, stored: np.ndarray, again: np.ndarray) -> None:
        """Rows of tokens [..., D] stored and made again."""
        if stored.shape != again.shape:
            self.faults.append(f"{view}: {name} has {len(stored)} tokens, the teacher gives {len(again)}")
            return
        a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (stored, again))
        if not len(a):
            return
        size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = float(((a * b).sum(axis=1) / np.maximum(size, 1e-30)).min())
        self.tokens[name] = self.tokens.get(name, 0) + len(a)
        self.lowest[name] = min(self.lowest.get(name, 1.0), round(cosine, 6))
        if not cosine >= LEAST_COSINE:
            self.faults.append(f"{view}: {name} is not what the teacher gives (cosine {cosine:.4f})")

    def same(self, view: str, name: str, stored: np.ndarray, again: np.ndarray) -> bool:
        """Whether numbers agree exactly; a fault where not."""
        if np.array_equal(stored, again):
            return True
        self.faults.append(f"{view}: {name} is {stored.tolist()}, the data set gives {again.tolist()}")
        return False


def run(recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, *, sample: int, compute: Compute) -> dict[str, Any]:
    """Compares `sample` views spread over the committed shards; returns the comparison as JSON."""
    picked = list(_picked(tiers.tokens, sample))
    if not picked:
        raise InputError(f"{tiers.tokens}: no view is stored yet; run `clip2seg extract` first")
    teacher = load_teacher(recipe.teacher, compute.device)
    again = _Again(recipe, data, tiers, teacher)
    with Bar("verify", len(picked), "views") as bar:
        for shard, place, view in picked:
            again.view(shard, place, view)
            bar.advance()
    return {**vars(again.found), "least_cosine": LEAST_COSINE}


def _picked(tokens: Artifact, sample: int) -> Iterator[tuple[int, int, str]]:
    """(shard, place in it, view's name) of `sample` views, evenly spread."""
    every = [(s, i, view) for s in tokens.shards() for i, view in enumerate(tokens.shard_ids(s))]
    count = min(sample, len(every))
    return (every[i * len(every) // count] for i in range(count))


class _Again:
    """Encodes stored views again and compares them: what was found is in `found`."""

    def __init__(self, recipe: CacheRecipe, data: Dataset, tiers: CacheTiers, teacher: Teacher) -> None:
        self.extract, self.tiers, self.teacher, self.found = recipe.extract, tiers, teacher, Comparison()
        self.views, self.index = recipe.views.count, {image_id: i for i, image_id in enumerate(data.ids)}
        self.source = TeacherViews(data, recipe.views, teacher.input_size, teacher.crop_size)
        self.miner = Miner(recipe.mining, data, recipe.views, teacher.crop_size, gpu=False)

    def view(self, shard: int, place: int, name: str) -> None:
        """The view at `place` of a shard."""
        row = view_row(name, self.index, self.views)
        made = self.source[row]
        self.found.views += 1
        if isinstance(made, BadView):
            self.found.faults.append(f"{name}: {made.error}")
        elif self._tokens(shard, place, made):
            self._latent(shard, place, name, row)

    def _tokens(self, shard: int, place: int, made: TeacherView) -> bool:
        """Whether the view is still the one that was stored, in size, crop and labels; its tokens are compared."""
        found, tokens, dense = self.found, self.tiers.tokens, self.tiers.dense
        stored, encoded = tokens.read(shard), encode(self.teacher, collate_views([made]), self.extract).arrays()
        again = token_arrays([made], encoded)
        own = slice(*stored["local_offsets"][place : place + 2])
        for name in ("image_size", "view_seed", "labels_crc", "photo_crc"):
            if not found.same(made.id, name, stored[name][place], again[name][0]):
                return False
        found.same(made.id, "local_region", stored["local_region"][own], again["local_region"])
        found.compare(made.id, "global", stored["global"][place : place + 1], again["global"])
        found.compare(made.id, "local", stored["local"][own], again["local"])
        if dense.commit(shard) is not None:
            found.compare(made.id, "dense", next(dense.rows(shard, "dense", [place])), encoded["dense"][0])
        return True

    def _latent(self, shard: int, place: int, view: str, row: int) -> None:
        """The local tokens of the stored cells; the cells themselves are not clustered again."""
        latent = self.tiers.latent
        if latent.commit(shard) is None:
            return
        image, known = self.miner.view(row)
        stored = latent.read(shard)
        own = slice(*stored["local_offsets"][place : place + 2])
        mask = latent_mask(known, stored["cells"][place])
        regions = present_regions(mask)
        self.found.same(view, "latent regions", stored["local_region"][own], np.array(regions, np.uint8))
        crops = region_crops(image, mask, regions, self.teacher.crop_size)
        self.found.compare(view, "latent local", stored["local"][own], encode_crops(self.teacher, crops, self.extract))
