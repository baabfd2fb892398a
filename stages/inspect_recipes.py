"""inspect recipes: which dense map finds things that have no label, on a sample of one's own images.

Reads images, seen labels and the teacher, no cache; writes nothing. By default it sees what training sees: some seen
classes are hidden, mined as if they were unseen, and compared with their labels, so no unseen label is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cache.settings import IGNORE
from cache.summary import spread
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import annotated_share, latent_mask, present_regions
from stages.parts.data.views import Array, ViewsConfig, apply_labels, inside, whole
from stages.parts.mining.clustering import mine_at
from stages.parts.scoring.metrics import confusion
from stages.parts.scoring.quality import (
    Match,
    cell_classes,
    hidden_classes,
    matches,
    matches_report,
    on_pixels,
    scores_report,
)
from stages.parts.settings import MiningConfig
from stages.parts.teacher.crops import cached_view
from stages.parts.teacher.features import Features
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import Teacher
from stages.parts.teacher.tokens import to_pixels
from stages.running.progress import Bar


@dataclass(frozen=True)
class Variant:
    """One way of making a map: a recipe and what becomes of its map; `settings`: the lines that say so in a preset."""

    name: str
    recipe: str
    refiner: Refiner
    settings: tuple[str, ...]


@dataclass
class _Found:
    """What was counted of one variant."""

    dense: np.ndarray
    regions: int = 0
    right: int = 0
    matches: dict[float, list[Match]] = field(default_factory=dict)
    latent: dict[float, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _View:
    """One view as this comparison looks at it: `truth` holds the `hidden` classes, `known` doesn't; `seen`: K_s."""

    pixels: Array
    labels: Array
    known: Array
    truth: Array
    hidden: Sequence[int]
    seen: int


def run(
    mining: MiningConfig,
    views: ViewsConfig,
    data: Dataset,
    teacher: Teacher,
    text: np.ndarray,
    variants: Sequence[Variant],
    thresholds: Sequence[float],
    affinity: Features | None,
    *,
    images: int,
    full_labels: bool,
) -> list[dict[str, Any]]:
    """A row for each variant, its best merge threshold first by IoU of what was hidden; JSON, in per cent.

    `text` [K_s, D]: embeddings of the seen names. `full_labels` (evaluation only): the unseen classes themselves are
    looked for, and nothing is hidden; `text` [K, D] then has the unseen names too, and pixels are named by all of them.
    """
    words = data.vocabulary
    teachers = {recipe: teacher.with_recipe(recipe) for recipe in dict.fromkeys(v.recipe for v in variants)}
    found = {v.name: _Found(np.zeros((len(text), len(text)), np.int64)) for v in variants}
    rows = spread(len(data) * views.count, images)
    with Bar("inspect", len(rows), "views") as bar:
        for fold, row in enumerate(rows):
            view = _view(data, views, row, fold, full_labels)
            squeezed = to_pixels(whole(view.pixels, teacher.input_size)[None])
            features = None if affinity is None else affinity(squeezed)[0].cpu().numpy()
            maps = {k: t.encode_views(squeezed)[1][0].cpu().numpy() for k, t in teachers.items()}
            for variant in variants:
                _look(found[variant.name], view, variant, maps[variant.recipe], features, text, mining, thresholds)
            bar.advance()
    return [_row(found[v.name], v, words.ordered, len(words.seen)) for v in variants]


def _view(data: Dataset, views: ViewsConfig, row: int, fold: int, full_labels: bool) -> _View:
    n, v = divmod(row, views.count)
    pixels, labels, cut = cached_view(views, data, n, v, data.labels(n, "seen"))
    seen, every = len(data.vocabulary.seen), len(data.vocabulary.ordered)
    hidden: Sequence[int] = hidden_classes(seen, fold)
    truth = labels
    if full_labels:
        hidden, truth = range(seen, every), data.labels(n, "all")
        truth = truth if cut is None else apply_labels(truth, cut)
    free = (labels == IGNORE) | np.isin(labels, list(hidden))
    if cut is not None:
        free &= inside(cut)
    return _View(pixels, labels, np.where(free, np.uint8(IGNORE), np.uint8(0)), truth, hidden, seen)


def _look(
    found: _Found,
    view: _View,
    variant: Variant,
    dense: np.ndarray,
    features: np.ndarray | None,
    text: np.ndarray,
    mining: MiningConfig,
    thresholds: Sequence[float],
) -> None:
    """Counts what one view says of one variant."""
    tokens = variant.refiner.stored(dense, features)
    height, width = view.labels.shape
    # All names compete only where the labels of all of them may be looked at: else these are the seen ones.
    wanted = view.truth if len(text) > view.seen else view.labels
    found.dense += confusion(on_pixels(cell_classes(tokens, text), (height, width)), wanted, len(text))
    for region in present_regions(view.labels):
        share = annotated_share(np.where(view.labels == region, region, IGNORE).astype(np.uint8), tokens.shape[:2])
        mean = np.einsum("hw,hwd->d", share, tokens)
        found.regions, found.right = found.regions + 1, found.right + int((text[: view.seen] @ mean).argmax() == region)
    if not np.isin(view.truth, list(view.hidden)).any():
        return
    joined = variant.refiner.cells(dense, features)
    share = annotated_share(view.known, joined.shape[:2])
    for threshold, cells in zip(thresholds, mine_at(joined, share, mining, thresholds), strict=True):
        found.latent.setdefault(threshold, []).append(len(present_regions(cells)))
        found.matches.setdefault(threshold, []).extend(matches(latent_mask(view.known, cells), view.truth, view.hidden))


def _row(found: _Found, variant: Variant, names: Sequence[str], seen: int) -> dict[str, Any]:
    mined = [
        {"threshold": t, "latent": float(np.median(found.latent[t])), **matches_report(m, names)}
        for t, m in found.matches.items()
        if m
    ]
    best = max(mined, key=lambda at: at["iou"], default=None)
    settings = [*variant.settings, *([f"mine-latent.merge_threshold={best['threshold']:g}"] if best else [])]
    return {
        "name": variant.name,
        "settings": settings,
        "dense": (scored := scores_report(found.dense, names[: len(found.dense)], seen))["sIoU"],
        "dense_hIoU": scored["hIoU"],
        "named": round(100 * found.right / found.regions, 2) if found.regions else None,
        "best": best,
        "thresholds": mined,
    }


def text_of(teacher: Teacher, names: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """Unit embeddings [K, D] of names by the teacher's own text tower."""
    with torch.no_grad():
        found: np.ndarray = teacher.encode_text(names, prompts).float().cpu().numpy()
    return found
