"""Scores of zero-shot segmentation from one confusion matrix (method.md section 7). Numpy only.

K = K_s + K_u classes, seen first. Scores are shares in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.settings import ignore_index


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. A mean over no class is NaN."""

    iou: NDArray[np.float64]
    """IoU of each class [K]; NaN where the class is absent from both prediction and ground truth."""
    pixels: NDArray[np.int64]
    """Ground-truth pixels of each class [K]."""
    counted: NDArray[np.bool_]
    """Classes [K] that enter the means."""
    siou: float
    """Mean IoU over the counted seen classes."""
    uiou: float
    """Mean IoU over the counted unseen classes."""
    hiou: float
    """Harmonic mean 2 * sIoU * uIoU / (sIoU + uIoU); 0 when both are 0."""
    pixel_accuracy: float
    """Share of all labelled pixels that are right, whatever `min_pixels`."""


def confusion(pred: NDArray[Any], target: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Pixel counts int64 [K, K], row = ground truth, column = prediction; add them up over images.

    `pred`, `target`: integer arrays of one shape; pixels whose target is 255 (above 254 classes: 65535) are left out.
    Raises ValueError when shapes differ or a counted pixel holds a value outside 0..K-1.
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction of {pred.shape} for a ground truth of {target.shape}")
    valid = target != ignore_index(num_classes)
    rows, columns = target[valid].astype(np.int64), pred[valid].astype(np.int64)
    for name, values in (("ground truth", rows), ("prediction", columns)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} holds {values.min()}..{values.max()}; classes are 0..{num_classes - 1}")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def scores(confusion: NDArray[np.int64], num_seen: int, min_pixels: int = 0) -> Scores:
    """sIoU, uIoU, hIoU, pixel accuracy and per-class IoU of a confusion matrix [K, K].

    The means run over the classes with an IoU and at least `min_pixels` ground-truth pixels; with 0, a class
    that is predicted but has no pixel counts as 0.
    """
    return scores_of(np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0), num_seen, min_pixels)


def scores_of(
    hit: NDArray[np.int64],
    pixels: NDArray[np.int64],
    found: NDArray[np.int64],
    num_seen: int,
    min_pixels: int = 0,
) -> Scores:
    """`scores` of what it needs of a confusion matrix: pixels [K] of each class that are right, that are its own in the
    ground truth, and that are taken for it."""
    union = pixels + found - hit
    iou = np.divide(hit, union, out=np.full(len(union), np.nan), where=union > 0)
    counted = (union > 0) & (pixels >= min_pixels)
    siou, uiou = (
        _mean(part[use]) for part, use in ((iou[:num_seen], counted[:num_seen]), (iou[num_seen:], counted[num_seen:]))
    )
    return Scores(iou, pixels, counted, siou, uiou, _harmonic(siou, uiou), _mean_share(hit.sum(), pixels.sum()))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _mean_share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")


def _harmonic(a: float, b: float) -> float:
    return 0.0 if a + b == 0 else 2 * a * b / (a + b)
