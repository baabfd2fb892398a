"""Which pictures of an evaluation are worth showing: chosen from a few numbers for each image, drawn later.

The choice depends only on those numbers, in image order: it is the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHOWN = 0.05
"""An image shows a class that covers at least this share of it."""


@dataclass(frozen=True)
class ImageScore:
    """What is kept of one image: its number, its mean IoU (None: no labelled pixel), the unseen classes it shows."""

    index: int
    iou: float | None
    unseen: tuple[int, ...]


def score_image(index: int, counts: NDArray[np.int64], size: int, num_seen: int) -> ImageScore:
    """The confusion matrix [K, K] of an image of `size` pixels -> its `ImageScore`."""
    shares = counts.sum(1) / size
    unseen = tuple(c for c in range(num_seen, len(counts)) if shares[c] >= SHOWN)
    return ImageScore(index, mean_iou(counts), unseen)


def mean_iou(counts: NDArray[np.int64]) -> float | None:
    """Mean IoU over the classes with a labelled pixel in one picture; None where no pixel is labelled."""
    hit, shown = np.diagonal(counts), counts.sum(1)
    present = shown > 0
    if not present.any():
        return None
    union = shown + counts.sum(0) - hit
    return float((hit[present] / union[present]).mean())


def mixed(scores: Sequence[ImageScore], size: int, num_seen: int, num_classes: int) -> list[int]:
    """`size` images: as many of each unseen class first, then any, in the order they come."""
    quota = {c: -(-size // max(1, num_classes - num_seen)) for c in range(num_seen, num_classes)}
    first, rest = [], []
    for one in scores:
        wanted = next((c for c in one.unseen if quota[c]), None)
        if wanted is None:
            rest.append(one.index)
        else:
            quota[wanted] -= 1
            first.append(one.index)
    return (first + rest)[:size]


def telling(scores: Sequence[ImageScore], size: int) -> list[int]:
    """`size` images that together show as many unseen classes as they can, each the best segmented that will do.

    Of those that show enough unseen classes not yet chosen for the images left to show the others, the one with the
    highest mean IoU; of equals the first. Fewer where there are no more images.
    """
    rest, chosen = [one for one in scores if one.iou is not None], list[int]()
    missing = {c for one in rest for c in one.unseen}
    while rest and len(chosen) < size:
        new = [len(missing.intersection(one.unseen)) for one in rest]
        enough = min(max(new), -(-len(missing) // (size - len(chosen))))
        best = max((one for one, n in zip(rest, new, strict=True) if n >= enough), key=lambda one: one.iou or 0.0)
        chosen.append(best.index)
        missing.difference_update(best.unseen)
        rest.remove(best)
    return chosen


def extremes(scores: Sequence[ImageScore], size: int) -> tuple[list[ImageScore], list[ImageScore]]:
    """At most `size` images with the best mean IoU, best first, and the worst, worst first; of equals the first
    are best, the last worst.

    No image is in both: of few images each end gets half.
    """
    scored = sorted(((one.iou, one) for one in scores if one.iou is not None), key=lambda s: -s[0])
    size = min(size, len(scored) // 2)
    return [one for _, one in scored[:size]], [one for _, one in scored[len(scored) - size :][::-1]]
