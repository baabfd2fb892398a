"""inspect: views as the cache holds them, and the numbers that judge teacher, prompts and mining.

Reads every tier, images and labels; writes nothing. Full labels are read only where the caller asks for them
(evaluation only); without them nothing here sees more than training does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact
from cache.summary import spread
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import annotated_share, latent_mask, pseudo_mask
from stages.parts.data.views import Array, View, ViewsConfig, apply_labels, inside, no_label
from stages.parts.mining.clustering import MiningConfig, mine
from stages.parts.scoring.metrics import confusion
from stages.parts.scoring.quality import (
    Match,
    cell_classes,
    matches,
    matches_report,
    names_report,
    on_pixels,
    scores_report,
    zero_shot_accuracy,
    zero_shot_report,
)
from stages.parts.teacher.crops import cached_view, view_id
from stages.running.progress import Bar

Refine = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""A stored map [h, w, D] and the second network's -> the map [h, w, D'] that is looked at (`Refiner.stored`)."""

Encode = Callable[[Array], np.ndarray]
"""An image uint8 [H, W, 3] -> its dense tokens [h, w, D]: the teacher at work, for a cache without them."""


@dataclass(frozen=True)
class CachedView:
    """One view with all that is stored of it. Labels uint8 [H, W] in class indices, 255 = none.

    `truth`: labels with the unseen classes, only where asked for. `cells` latent ids uint8 [h, w] and `pseudo` Y_p
    uint8 [H, W]: None before mining. `named`: pseudo labels uint8 [H, W], None before `pseudo-label`. `local` [P, D]: a
    local token for each of `regions` (ids in Y_p).
    """

    id: str
    shard: int
    row: int
    image: Array
    labels: Array
    truth: Array | None
    cells: Array | None
    pseudo: Array | None
    named: Array | None
    token: np.ndarray
    local: np.ndarray
    regions: list[int]


class CachedViews:
    """The views of one cache by id. Reads a shard at a time and keeps the last one."""

    def __init__(
        self,
        data: Dataset,
        views: ViewsConfig,
        tiers: Mapping[str, Artifact],
        encode: Encode | None = None,
        refine: Refine | None = None,
    ) -> None:
        """`tiers`: those that are stored, by kind; tokens and text must be."""
        self.data, self.views, self.tokens = data, views, tiers["tokens"]
        self.latent, self.dense_tier, self.features = tiers.get("latent"), tiers.get("dense"), tiers.get("affinity")
        self.named, self.encode, self.refine = tiers.get("pseudo"), encode, refine
        tokens, arrays = tiers["tokens"], tiers["text"].read(0)
        self.seen_text, self.text = arrays["seen"], np.concatenate([arrays["seen"], arrays["unseen"]])
        self.num_seen = len(self.seen_text)
        self._where = {
            name: (shard, row) for shard in tokens.committed() for row, name in enumerate(tokens.shard_ids(shard))
        }
        self._index = {view_id(i, v, views.count): (n, v) for n, i in enumerate(data.ids) for v in range(views.count)}
        self._shard: tuple[int, dict[str, np.ndarray], dict[str, np.ndarray] | None] | None = None

    @property
    def ids(self) -> list[str]:
        """Ids of the stored views."""
        return list(self._where)

    def sample(self, most: int) -> list[str]:
        """At most `most` ids, evenly spread over the cache; 0: all."""
        ids = self.ids
        if not most or most >= len(ids):
            return ids
        return [ids[i] for i in spread(len(ids), most)]

    def name(self, region: int) -> str:
        """A region's name for people: its class, `latent0`, ..., or `global`."""
        if region < 0:
            return "global"
        if region < self.num_seen:
            return self.data.vocabulary.seen[region]
        return f"latent{region - self.num_seen}"

    def region(self, name: str) -> int:
        """The opposite of `name`. Raises InputError for a name that is neither."""
        seen = self.data.vocabulary.seen
        if name == "global":
            return -1
        if name in seen:
            return seen.index(name)
        if name.startswith("latent") and name.removeprefix("latent").isdigit():
            return self.num_seen + int(name.removeprefix("latent"))
        raise InputError(
            f"region {name!r}: name a seen class ({', '.join(seen[:4])}, ...), latent0, latent1, ... or global"
        )

    def view(self, name: str, *, full_labels: bool = False) -> CachedView:
        """One view. Raises InputError for an id that is not stored."""
        if name not in self._where:
            close = f"; its first is {self.ids[0]}" if self._where else ""
            raise InputError(f"{name}: no such view in {self.tokens}{close}")
        shard, row = self._where[name]
        seen, mined = self._read(shard)
        image, labels, view, n = self._pixels(name)
        own = slice(*seen["local_offsets"][row : row + 2])
        local, regions = [seen["local"][own]], seen["local_region"][own].tolist()
        cells = pseudo = None
        if mined is not None:
            own = slice(*mined["local_offsets"][row : row + 2])
            local.append(mined["local"][own])
            regions += [self.num_seen + r for r in mined["local_region"][own].tolist()]
            cells = mined["cells"][row]
            pseudo = _without_padding(pseudo_mask(labels, cells, self.num_seen), view)
        truth = named = None
        if self.named is not None and self.named.commit(shard) is not None:
            given = self.named.read(shard, ["labels"])["labels"][row]
            named = _without_padding(on_pixels(given, (labels.shape[0], labels.shape[1])), view)
        if full_labels:
            every = self.data.labels(n, "all")
            truth = every if view is None else apply_labels(every, view)
        token = seen["global"][row]
        whole = np.concatenate(local)
        return CachedView(name, shard, row, image, labels, truth, cells, pseudo, named, token, whole, regions)

    def picture(self, name: str) -> tuple[Array, Array]:
        """Image and Y_p of a view (seen labels before mining): what a thumbnail needs."""
        found = self.view(name)
        return found.image, found.labels if found.pseudo is None else found.pseudo

    def dense(self, view: CachedView) -> np.ndarray | None:
        """Dense tokens float32 [h, w, D] of a view, refined as set: stored, or encoded again; None: neither."""
        found = self.unrefined(view)
        return found if found is None or self.refine is None else self.refine(found, self.second(view))

    def unrefined(self, view: CachedView) -> np.ndarray | None:
        """`dense` as the teacher gave it."""
        if self.dense_tier is not None and self.dense_tier.commit(view.shard) is not None:
            return np.asarray(next(self.dense_tier.rows(view.shard, "dense", [view.row])), np.float32)
        return None if self.encode is None else np.asarray(self.encode(view.image), np.float32)

    def second(self, view: CachedView) -> np.ndarray | None:
        """The second network's map [h', w', C] of a view; None where it isn't stored."""
        if self.features is None or self.features.commit(view.shard) is None:
            return None
        return np.asarray(next(self.features.rows(view.shard, "features", [view.row])), np.float32)

    def _read(self, shard: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        if self._shard is None or self._shard[0] != shard:
            seen = self.tokens.read(shard, ["global", "local", "local_region", "local_offsets"])
            ready = self.latent is not None and self.latent.commit(shard) is not None
            mined = self.latent.read(shard) if self.latent is not None and ready else None
            self._shard = (shard, seen, mined)
        return self._shard[1:]

    def _pixels(self, name: str) -> tuple[Array, Array, View | None, int]:
        n, v = self._index[name]
        return (*cached_view(self.views, self.data, n, v, self.data.labels(n, "seen")), n)


def _without_padding(mask: Array, view: View | None) -> Array:
    return mask if view is None else np.where(inside(view), mask, no_label(mask.dtype))


def quality(
    cached: CachedViews,
    *,
    images: int,
    full_labels: bool,
    names: Sequence[str],
    names_text: np.ndarray,
) -> dict[str, Any]:
    """The quality numbers, as JSON: naming of seen regions, dense tokens without training, mined regions.

    `images`: at most so many views for what reads pixels, evenly spread, 0 = all. `names` with `names_text` [n, D]:
    the words that latent regions are called by. `full_labels` (evaluation only) adds the unseen classes.
    """
    seen = cached.tokens.load(["local", "local_region"])
    words = cached.data.vocabulary.seen
    named = zero_shot_accuracy(seen["local"], seen["local_region"], cached.seen_text)
    report: dict[str, Any] = {"views": len(cached.ids), "naming": zero_shot_report(named, words)}
    if cached.latent is not None and cached.latent.committed():
        report["latent_names"] = names_report(cached.latent.load(["local"])["local"], names, names_text)
    sample = cached.sample(images)
    dense = cached.dense_tier is not None
    if dense or full_labels or cached.named is not None:
        report["sample"] = len(sample)
        report |= _over_pixels(cached, sample, dense, full_labels)
    if not dense:
        report["missing"] = (
            "the dense tier is not stored: no training-free dense scores (extract.store_dense=true keeps it)"
        )
    return report


def _over_pixels(cached: CachedViews, sample: list[str], dense: bool, full_labels: bool) -> dict[str, Any]:
    words, k = cached.data.vocabulary, len(cached.data.vocabulary.ordered)
    seen_only, every = (np.zeros((n, n), np.int64) for n in (cached.num_seen, k))
    mined: list[Match] = []
    n = k if full_labels else cached.num_seen
    guessed, given, pixels = np.zeros((n, n), np.int64), 0, 0
    with Bar("inspect", len(sample), "views") as bar:
        for name in sample:
            view = cached.view(name, full_labels=full_labels)
            bar.advance()
            size = (view.labels.shape[0], view.labels.shape[1])
            if dense:
                tokens = cached.dense(view)
                assert tokens is not None
                found = on_pixels(cell_classes(tokens, cached.seen_text), size)
                seen_only += confusion(found, view.labels, cached.num_seen)
                if view.truth is not None:
                    every += confusion(on_pixels(cell_classes(tokens, cached.text), size), view.truth, k)
            if view.named is not None:
                sure, known = view.named != IGNORE, view.labels if view.truth is None else view.truth
                guessed += confusion(np.where(sure, view.named, 0), np.where(sure, known, no_label(known.dtype)), n)
                given, pixels = given + int(sure.sum()), pixels + sure.size
            if view.truth is not None and view.cells is not None:
                mined += matches(latent_mask(view.labels, view.cells), view.truth, range(cached.num_seen, k))
    report: dict[str, Any] = {}
    if dense:
        report["dense"] = scores_report(seen_only, words.seen, cached.num_seen)
        if full_labels:
            report["dense_all"] = scores_report(every, words.ordered, cached.num_seen)
    if pixels:
        report["pseudo"] = _pseudo_report(guessed, given / pixels, words.seen)
    if mined:
        report["mined"] = matches_report(mined, words.ordered)
    return report


def _pseudo_report(guessed: np.ndarray, share: float, seen: Sequence[str]) -> dict[str, Any]:
    """Share of pixels with a pseudo label, and how many of those that have a label too are right, in per cent.

    `guessed`: counts [K, K], labels in rows and pseudo labels, of seen classes alone, in columns.
    """

    def right(hits: int, of: int) -> float | None:
        return round(100 * hits / of, 2) if of else None

    return {
        "share": round(100 * share, 2),
        "checked": int(guessed.sum()),
        "right": right(int(guessed.trace()), int(guessed.sum())),
        "classes": {name: right(int(guessed[c, c]), int(guessed[:, c].sum())) for c, name in enumerate(seen)},
    }


def mining_sweep(
    cached: CachedViews,
    cfg: MiningConfig,
    thresholds: Sequence[float],
    *,
    images: int,
    full_labels: bool,
    cells_of: Refine | None = None,
) -> list[dict[str, Any]]:
    """Latent classes a view at each merge threshold, on at most `images` views that have something unannotated.

    `full_labels` (evaluation only): those that show an unseen class instead, with IoU, purity and recall of the best
    region. `cells_of`: what clustering is given instead of the dense tokens (`Refiner.cells`). Writes nothing; needs
    dense tokens.
    """
    num_seen, k = cached.num_seen, len(cached.data.vocabulary.ordered)
    jobs: list[tuple[CachedView, np.ndarray, np.ndarray]] = []
    for name in cached.sample(0 if full_labels else images):
        view = cached.view(name, full_labels=full_labels)
        known = np.where(view.labels == IGNORE, IGNORE, 0).astype(np.uint8)
        shown = known if view.truth is None else np.where((view.truth >= num_seen) & (view.truth < k), IGNORE, 0)
        dense = cached.unrefined(view) if (shown == IGNORE).any() else None
        if dense is not None:
            if cells_of is not None:
                dense = cells_of(dense, cached.second(view))
            jobs.append((view, dense, annotated_share(known, (dense.shape[0], dense.shape[1]))))
        if len(jobs) == images:
            break
    rows = []
    with Bar("inspect", len(thresholds), "thresholds") as bar:
        for threshold in thresholds:
            chosen = cfg.model_copy(update={"merge_threshold": threshold})
            found: list[Match] = []
            counts = []
            for view, dense, share in jobs:
                cells = mine(dense, share, chosen)
                counts.append(len(np.unique(cells[cells != IGNORE])))
                if view.truth is not None:
                    found += matches(latent_mask(view.labels, cells), view.truth, range(num_seen, k))
            row: dict[str, Any] = {
                "threshold": threshold,
                "views": len(jobs),
                "unannotated": round(float(np.mean([(s <= cfg.max_annotated).mean() for _, _, s in jobs] or [0.0])), 4),
                "median": float(np.median(counts or [0])),
                "per_view": {str(k): int(n) for k, n in enumerate(np.bincount(counts or [0])) if n},
            }
            rows.append(row | (matches_report(found, cached.data.vocabulary.ordered) if found else {}))
            bar.advance()
    return rows
