"""How good teacher, prompts and mining are, from tokens and labels alone (numpy, no teacher, no student).

Shapes as in method.md: regions p, embedding D, classes K, token grid h w. Shares in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.settings import IGNORE, MOST_IN_A_BYTE
from cache.vectors import unit
from stages.parts.data.views import Array, cell_index
from stages.parts.scoring.metrics import scores


@dataclass(frozen=True)
class ZeroShotAccuracy:
    """How often the right name is the nearest (`top1`), or among the five nearest (`top5`); per class, counts [K]."""

    count: NDArray[np.int64]
    top1: NDArray[np.int64]
    top5: NDArray[np.int64]
    cosine: float
    """Mean cosine of a token to its right name."""
    taken_for: NDArray[np.int64]
    """[K, K] row = right name, column = nearest name."""


def zero_shot_accuracy(local: NDArray[Any], region: NDArray[Any], text: NDArray[Any]) -> ZeroShotAccuracy:
    """Names local tokens [p, D] of the classes `region` [p] by the nearest of the names `text` [K, D]."""
    k, right = len(text), region.astype(np.int64)
    cosine = unit(local) @ unit(text).T
    order = np.argsort(-cosine, axis=1, kind="stable")
    table = np.bincount(right * k + order[:, 0], minlength=k * k).reshape(k, k)
    among = (order[:, :5] == right[:, None]).any(axis=1)
    own = float(np.take_along_axis(cosine, right[:, None], axis=1).mean()) if len(right) else 0.0
    return ZeroShotAccuracy(table.sum(axis=1), np.diagonal(table), np.bincount(right[among], minlength=k), own, table)


def cell_classes(dense: NDArray[Any], text: NDArray[Any]) -> Array:
    """The nearest name of each cell: dense [h, w, D], text [K, D] -> uint8 [h, w], uint16 above 254 names."""
    return (
        (dense.astype(np.float32) @ unit(text).T)
        .argmax(axis=-1)
        .astype(np.uint8 if len(text) <= MOST_IN_A_BYTE else np.uint16)
    )


def on_pixels(cells: Array, size: tuple[int, int]) -> Array:
    """A grid of cells blown up to (H, W) pixels: each pixel takes the cell that holds its centre."""
    rows, columns = cell_index(cells.shape[0], size[0]), cell_index(cells.shape[1], size[1])
    return cells[rows[:, None], columns[None, :]]


@dataclass(frozen=True)
class Match:
    """How well mining found one class in one image: its best latent region by IoU, its `purity` (share that is
    the class) and `recall` (share of the class that it holds), and the share `covered` by any latent region."""

    label: int
    pixels: int
    iou: float
    purity: float
    recall: float
    covered: float


FOLDS = 3
"""A view hides every third seen class, another third in the next view."""


def hidden_classes(seen: int, fold: int) -> list[int]:
    """The seen classes, of 0..seen-1, that view number `fold` of a sample hides, to see whether mining finds them."""
    return [c for c in range(seen) if c % FOLDS == fold % FOLDS]


def matches(latent: Array, truth: Array, classes: Sequence[int]) -> list[Match]:
    """One `Match` for each of `classes` that `truth` holds. Evaluation only: it reads labels that training must not.

    `latent` latent ids uint8 [H, W], 255 = none; `truth` class indices uint8 [H, W]. Pixels that `truth` leaves
    at 255 (VOC's background and borders) count as not the class.
    """
    values, rows = np.unique(truth, return_inverse=True)
    counts = np.bincount(rows.reshape(-1) * 256 + latent.reshape(-1), minlength=256 * len(values)).reshape(-1, 256)
    joint = dict(zip(values.tolist(), counts, strict=True))
    sizes, found = counts.sum(axis=0)[:IGNORE], []
    for label in classes:
        if label not in joint:
            continue
        inside, pixels = joint[label][:IGNORE], int(joint[label].sum())
        iou = inside / np.maximum(sizes + pixels - inside, 1)
        best = int(iou.argmax())
        purity = float(inside[best] / max(int(sizes[best]), 1))
        found.append(
            Match(label, pixels, float(iou[best]), purity, float(inside[best] / pixels), float(inside.sum() / pixels))
        )
    return found


def nearest_names(tokens: NDArray[Any], text: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For tokens [p, D] the names of `text` [K, D] from near to far, [p, K], and their cosines in that order."""
    cosine = unit(tokens) @ unit(text).T
    order = np.argsort(-cosine, axis=1, kind="stable")
    return order, np.take_along_axis(cosine, order, axis=1)


def cosines(dense: NDArray[Any], token: NDArray[Any]) -> NDArray[np.float32]:
    """Cosine of each cell to one token: [h, w, D], [D] -> [h, w]."""
    found: NDArray[np.float32] = unit(dense) @ unit(token)
    return found


def zero_shot_report(found: ZeroShotAccuracy, names: Sequence[str]) -> dict[str, Any]:
    """`ZeroShotAccuracy` as JSON, in per cent."""
    total = int(found.count.sum())
    return {
        "regions": total,
        "top1": _per_cent(found.top1.sum(), total),
        "top5": _per_cent(found.top5.sum(), total),
        "cosine": round(found.cosine, 4),
        "chance": round(100 / len(names), 2),
        "classes": [
            {
                "name": name,
                "regions": int(n),
                "top1": _per_cent(found.top1[c], n),
                "top5": _per_cent(found.top5[c], n),
                "mostly": names[int(found.taken_for[c].argmax())] if n else None,
            }
            for c, (name, n) in enumerate(zip(names, found.count, strict=True))
        ],
    }


def names_report(local: NDArray[Any], names: Sequence[str], text: NDArray[Any]) -> dict[str, Any]:
    """What tokens [p, D] are called by `names` with embeddings [n, D], most frequent name first, as JSON."""
    if not len(local):
        return {"regions": 0, "words": len(names), "names": []}
    order, cosine = nearest_names(local, text)
    first, best = order[:, 0], cosine[:, 0]
    counted = [
        {
            "name": names[c],
            "regions": n,
            "share": _per_cent(n, len(local)),
            "cosine": round(float(best[first == c].mean()), 4),
        }
        for c, n in Counter(first.tolist()).most_common()
    ]
    return {"regions": len(local), "words": len(names), "cosine": round(float(best.mean()), 4), "names": counted}


def scores_report(counts: NDArray[np.int64], names: Sequence[str], num_seen: int) -> dict[str, Any]:
    """Scores of a confusion matrix [K, K] as JSON, in per cent; None where there is no such class."""
    found = scores(counts, num_seen)
    return {
        "sIoU": _known(found.siou),
        "uIoU": _known(found.uiou),
        "hIoU": _known(found.hiou),
        "pixel_accuracy": _known(found.pixel_accuracy),
        "classes": {name: _known(float(v)) for name, v in zip(names, found.iou, strict=True)},
    }


def matches_report(found: Sequence[Match], names: Sequence[str]) -> dict[str, Any]:
    """Means of matches over pixels, all and by class, in per cent."""
    labels = sorted({m.label for m in found})
    classes = {names[c]: _mean([m for m in found if m.label == c]) for c in labels}
    return {**_mean(found), "classes": classes}


def _mean(part: Sequence[Match]) -> dict[str, Any]:
    weight = np.array([m.pixels for m in part], float)
    values = {k: np.array([getattr(m, k) for m in part]) for k in ("iou", "purity", "recall", "covered")}
    means = {k: round(float(100 * (v * weight).sum() / weight.sum()), 2) for k, v in values.items()}
    return {"images": len(part), **means}


def _per_cent(part: Any, whole: Any) -> float | None:
    return round(100 * float(part) / float(whole), 2) if whole else None


def _known(share: float) -> float | None:
    return None if share != share else round(100 * share, 2)
