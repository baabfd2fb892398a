"""Scores as the rows of an evaluation report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stages.parts.eval_report import ClassScore, SupportedMeans
from stages.parts.scoring.metrics import Scores


def means(found: Scores) -> dict[str, float | None]:
    """Fields of `Means`."""
    return {
        "sIoU": per_cent(found.siou),
        "uIoU": per_cent(found.uiou),
        "hIoU": per_cent(found.hiou),
        "pixel_accuracy": per_cent(found.pixel_accuracy),
    }


def supported_means(found: Scores, names: Sequence[str], min_pixels: int) -> SupportedMeans:
    """Means over the classes that `found` counts."""
    counted = tuple(name for i, name in enumerate(names) if found.counted[i])
    return SupportedMeans(**means(found), min_pixels=min_pixels, counted=counted)


def class_rows(found: Scores, names: Sequence[str], num_seen: int) -> tuple[ClassScore, ...]:
    """One row for each class, seen ones first."""
    return tuple(
        ClassScore(
            name=name,
            seen=i < num_seen,
            IoU=per_cent(float(found.iou[i])),
            pixels=int(found.pixels[i]),
            support=bool(found.pixels[i]),
        )
        for i, name in enumerate(names)
    )


def per_cent(share: float) -> float | None:
    """A share in [0, 1] as per cent with two decimals; NaN as None."""
    return None if math.isnan(share) else round(100 * share, 2)
