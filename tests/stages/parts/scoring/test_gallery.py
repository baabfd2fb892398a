"""Claims about the pictures of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from stages.parts.scoring.gallery import ImageScore, extremes, mean_iou, mixed, score_image, telling
from stages.parts.scoring.metrics import confusion


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_mean_iou_of_one_picture_counts_the_classes_it_shows() -> None:
    # class 0: 1 of 2 found, union 2 -> 0.5; class 1: 2 hit, one pixel too many, union 3 -> 2/3; class 2 isn't shown.
    assert mean_iou(confusion(row(0, 1, 1, 1), row(0, 0, 1, 1), 3)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_picture_without_a_labelled_pixel_has_no_score() -> None:
    assert mean_iou(confusion(row(0, 1), row(255, 255), 2)) is None


def test_an_unseen_class_is_shown_from_a_twentieth_of_the_picture_on() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :5], labels[1, :4] = 2, 3
    assert score_image(7, confusion(labels, labels, 4), 100, 2) == ImageScore(7, 1.0, (2,))


def test_best_and_worst_are_in_order_of_equals_the_first_and_never_one_image_twice() -> None:
    looks = [ImageScore(i, iou, ()) for i, iou in enumerate((0.5, 1.0, 0.0, None, 0.5, 1.0))]
    best, worst = extremes(looks, 2)
    assert [one.index for one in best] == [1, 5]
    assert [one.index for one in worst] == [2, 4]
    assert [len(end) for end in extremes(looks, 4)] == [2, 2]  # five have a score
    assert extremes(looks[:1], 4) == ([], [])


@pytest.mark.parametrize(
    ("shown", "wanted"), [([0, 1, 0, 2, 3], [3, 4, 0]), ([2, 2, 2, 3, 0], [0, 1, 3]), ([0, 1, 0, 1], [0, 1, 2])]
)
def test_unseen_classes_come_first_each_as_often(shown: list[int], wanted: list[int]) -> None:
    """Classes 2 and 3 are unseen; three pictures."""
    looks = [ImageScore(i, None, (c,) if c >= 2 else ()) for i, c in enumerate(shown)]
    assert mixed(looks, 3, 2, 4) == wanted


def test_the_telling_images_show_every_unseen_class_each_as_well_as_it_can_be() -> None:
    """Classes 7, 8 and 9 are unseen."""
    scores = [
        ImageScore(0, 0.9, ()),
        ImageScore(1, 0.8, (7,)),
        ImageScore(2, 0.5, (7, 8)),
        ImageScore(3, 0.4, (8, 9)),
        ImageScore(4, 0.3, (9,)),
        ImageScore(5, None, (7, 8, 9)),
    ]
    assert telling(scores, 3) == [1, 2, 3]  # one new class each is enough: the best image with one
    assert telling(scores, 2) == [2, 3]  # the first has to show two
    assert telling(scores, 1) == [2]  # no image shows all three: as many as can be
    assert telling(scores, 9) == [1, 2, 3, 0, 4]  # all that have a score
    assert telling([], 3) == []
