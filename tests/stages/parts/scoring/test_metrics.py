"""Scores by hand (method.md section 7)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.parts.scoring.metrics import confusion, scores

TARGET = np.array([[0, 0, 0, 0], [1, 1, 2, 255], [1, 2, 2, 255]], np.uint8)
PRED = np.array([[0, 0, 0, 1], [1, 1, 2, 0], [2, 2, 1, 2]], np.uint8)


def test_a_confusion_matrix_counts_pixels_by_truth_and_prediction():
    np.testing.assert_array_equal(confusion(PRED, TARGET, 3), [[3, 1, 0], [0, 2, 1], [0, 1, 2]])


def test_scores_of_three_classes_worked_by_hand():
    found = scores(confusion(PRED, TARGET, 3), num_seen=2)
    # IoU 3/4, 2/(3 + 4 - 2), 2/(3 + 3 - 2).
    np.testing.assert_allclose(found.iou, [0.75, 0.4, 0.5])
    assert found.siou == pytest.approx(0.575)
    assert found.uiou == pytest.approx(0.5)
    assert found.hiou == pytest.approx(2 * 0.575 * 0.5 / 1.075)
    assert found.pixel_accuracy == pytest.approx(0.7)
    np.testing.assert_array_equal(found.pixels, [4, 3, 3])


def test_a_class_absent_from_prediction_and_truth_is_nan_and_left_out():
    found = scores(np.array([[4, 0, 0, 0], [0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]), num_seen=2)
    np.testing.assert_allclose(found.iou, [4 / 6, np.nan, 0.5, np.nan])
    assert (found.siou, found.uiou) == pytest.approx((4 / 6, 0.5))
    np.testing.assert_array_equal(found.counted, [True, False, True, False])


def test_a_class_that_is_only_predicted_counts_as_zero():
    found = scores(np.array([[3, 1], [0, 0]]), num_seen=1)
    assert (found.siou, found.uiou, found.hiou) == (0.75, 0.0, 0.0)


def test_classes_below_the_wanted_pixels_leave_the_means_but_not_the_accuracy():
    counts = np.array([[90, 0, 10], [5, 4, 0], [0, 0, 50]])
    found = scores(counts, num_seen=2, min_pixels=50)
    assert found.siou == pytest.approx(90 / 105)
    assert found.uiou == pytest.approx(50 / 60)
    assert found.pixel_accuracy == pytest.approx(144 / 159)
    assert found.iou[1] == pytest.approx(4 / 9)


def test_means_over_no_class_are_nan_and_warn_of_nothing():
    found = scores(np.zeros((2, 2), np.int64), num_seen=2)
    assert math.isnan(found.siou) and math.isnan(found.uiou) and math.isnan(found.hiou)
    assert math.isnan(found.pixel_accuracy)


def test_both_zero_gives_a_harmonic_mean_of_zero():
    assert scores(np.array([[0, 3], [2, 0]]), num_seen=1).hiou == 0.0


def test_confusion_equals_a_loop_and_adds_up_over_images():
    rng = np.random.default_rng(0)
    pred = rng.integers(0, 200, (2, 9, 7)).astype(np.uint8)
    target = rng.choice([*range(200), 255], (2, 9, 7)).astype(np.uint8)
    slow = np.zeros((200, 200), np.int64)
    for p, t in zip(pred.ravel(), target.ravel(), strict=True):
        if t != 255:
            slow[t, p] += 1
    total = confusion(pred[0], target[0], 200) + confusion(pred[1], target[1], 200)
    np.testing.assert_array_equal(total, slow)
    assert total.dtype == np.int64


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.array([3]), np.array([0]), r"prediction holds 3\.\.3; classes are 0\.\.2"),
        (np.array([0]), np.array([7]), r"ground truth holds 7\.\.7"),
        (np.array([0, 1]), np.array([0]), "prediction of"),
    ],
)
def test_values_outside_the_classes_are_refused(pred, target, message):
    with pytest.raises(ValueError, match=message):
        confusion(pred, target, 3)
