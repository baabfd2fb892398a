from __future__ import annotations

import numpy as np
import pytest

from stages.parts.extremes import Extremes, mean_iou

IMAGE = np.zeros((1, 4, 3), np.uint8)


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_mean_iou_of_one_picture_counts_the_classes_it_shows() -> None:
    # class 0: 1 of 2 found, union 2 -> 0.5; class 1: 2 hit, one pixel too many, union 3 -> 2/3; class 2 isn't shown.
    assert mean_iou(row(0, 0, 1, 1), row(0, 1, 1, 1), 3) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_picture_without_a_labelled_pixel_has_no_score() -> None:
    assert mean_iou(row(255, 255), row(0, 1), 2) is None


def test_best_and_worst_are_kept_in_order() -> None:
    kept = Extremes(2, 2)
    for name, found in (("half", row(0, 0, 1, 0)), ("all", row(0, 0, 1, 1)), ("none", row(1, 1, 0, 0))):
        kept.offer(name, IMAGE, row(0, 0, 1, 1), found)
    kept.offer("empty", IMAGE, row(255, 255, 255, 255), row(0, 0, 0, 0))
    assert [one.name for one in kept.best] == ["all", "half"]
    assert [one.name for one in kept.worst] == ["none", "half"]
