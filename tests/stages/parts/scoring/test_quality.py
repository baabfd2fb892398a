"""Claims about the quality numbers, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.parts.scoring.quality import (
    cell_classes,
    cosines,
    matches,
    matches_report,
    names_report,
    on_pixels,
    scores_report,
    zero_shot_accuracy,
    zero_shot_report,
)


def test_naming_counts_the_nearest_and_the_five_nearest_names() -> None:
    text = np.eye(7)
    local = np.array(
        [
            [9.0, 0, 0, 0, 0, 0, 0],  # right: 0
            [0, 1, 2, 0, 0, 0, 0],  # class 1 is second
            [7, 6, 5, 4, 3, 2, 1],  # class 6 is seventh
        ]
    )
    found = zero_shot_accuracy(local, np.array([0, 1, 6], np.uint8), text)
    assert found.count.tolist() == [1, 1, 0, 0, 0, 0, 1]
    assert found.top1.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert found.top5.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert found.taken_for[1, 2] == found.taken_for[6, 0] == 1
    report = zero_shot_report(found, list("abcdefg"))
    assert (report["top1"], report["top5"], report["chance"]) == (33.33, 66.67, 14.29)
    assert report["cosine"] == pytest.approx((1 + 1 / 5**0.5 + 1 / 140**0.5) / 3, abs=1e-4)
    assert report["classes"][1]["mostly"] == "c" and report["classes"][2]["top1"] is None


def test_naming_without_a_region_has_no_score() -> None:
    report = zero_shot_report(zero_shot_accuracy(np.zeros((0, 2)), np.zeros(0, np.uint8), np.eye(2)), "ab")
    assert report["regions"] == 0 and report["top1"] is None


def test_cells_take_the_nearest_name_whatever_their_length() -> None:
    dense = np.array([[[0.1, 0.2], [9.0, 1.0]]])
    assert cell_classes(dense, np.array([[5.0, 0], [0, 1]])).tolist() == [[1, 0]]


def test_a_pixel_takes_the_cell_that_holds_its_centre() -> None:
    assert on_pixels(np.array([[1, 2]], np.uint8), (2, 4)).tolist() == [[1, 1, 2, 2]] * 2
    # Three pixels, two cells: the middle one's centre stands on the border and goes to the second.
    assert on_pixels(np.array([[1, 2]], np.uint8), (1, 3)).tolist() == [[1, 2, 2]]


def test_a_match_is_the_region_of_best_iou_with_its_purity_and_recall() -> None:
    #           region 0 (4 px)  region 1 (3 px)  none
    latent = np.array([[0, 0, 0, 0, 1, 1, 1, 255]], np.uint8)
    truth = np.array([[5, 5, 5, 9, 5, 255, 9, 5]], np.uint8)
    found = matches(latent, truth, [5, 9, 12])
    assert [m.label for m in found] == [5, 9]
    # Class 5 has 5 pixels: region 0 holds 3 of them, IoU 3 / (4 + 5 - 3).
    five, nine = found
    assert (five.pixels, five.iou, five.purity, five.recall, five.covered) == (5, 0.5, 0.75, 0.6, 0.8)
    # Class 9 has 2: region 1 holds 1, IoU 1 / (3 + 2 - 1), better than region 0's 1 / 5.
    assert (nine.iou, nine.purity, nine.recall, nine.covered) == (0.25, pytest.approx(1 / 3), 0.5, 1.0)
    report = matches_report(found, ["-"] * 5 + ["five"] + ["-"] * 3 + ["nine"])
    assert report["iou"] == pytest.approx(100 * (5 * 0.5 + 2 * 0.25) / 7, abs=0.01)
    assert report["classes"]["nine"]["images"] == 1


def test_a_class_that_no_region_covers_scores_nothing() -> None:
    (found,) = matches(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), [0])
    assert (found.iou, found.purity, found.recall, found.covered) == (0, 0, 0, 0)


def test_regions_are_counted_by_their_nearest_name() -> None:
    report = names_report(np.array([[2.0, 0], [3, 1], [0, 4]]), ["x", "y"], np.eye(2))
    assert [(n["name"], n["regions"], n["share"]) for n in report["names"]] == [("x", 2, 66.67), ("y", 1, 33.33)]
    assert report["names"][0]["cosine"] == pytest.approx((1 + 3 / 10**0.5) / 2, abs=1e-4)
    assert names_report(np.zeros((0, 2)), ["x", "y"], np.eye(2))["names"] == []


def test_cosines_do_not_depend_on_lengths_and_a_zero_cell_is_zero() -> None:
    dense = np.array([[[2.0, 0], [0, 3], [5, 5], [0, 0]]])
    np.testing.assert_allclose(cosines(dense, np.array([7.0, 0])), [[1, 0, 0.5**0.5, 0]], atol=1e-6)


def test_scores_of_a_class_that_does_not_occur_are_null() -> None:
    report = scores_report(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "c"], 2)
    assert report["classes"] == {"a": 75.0, "b": 80.0, "c": None}
    assert report["uIoU"] is None and report["sIoU"] == 77.5
