"""The curve over seen biases equals scoring anew at each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.parts.scoring.bias_curve import BiasCurve, Point, at, best, grid
from stages.parts.scoring.metrics import confusion, scores

SEEN, CLASSES = 3, 5


def images():
    random = torch.Generator().manual_seed(0)
    for size in ((6, 9), (12, 5), (7, 7)):
        found = torch.randn(CLASSES, *size, generator=random)
        found[0] += 1.0  # seen classes are favoured, as by training
        labels = torch.randint(0, CLASSES, size, generator=random).to(torch.uint8)
        labels[0, :3] = 255
        yield found, labels


def test_the_curve_equals_scoring_at_each_bias():
    curve = BiasCurve(np.linspace(-2, 2, 41), SEEN, CLASSES, torch.device("cpu"))
    for found, labels in images():
        curve.add(found, labels)
    right, pixels, taken = curve.tallies()
    for bias, hit, all_taken, point in zip(curve.biases, right, taken, curve.points(), strict=True):
        slow = np.zeros((CLASSES, CLASSES), np.int64)
        for found, labels in images():
            shifted = found.double().clone()
            shifted[:SEEN] -= bias
            slow += confusion(shifted.argmax(0).numpy(), labels.numpy(), CLASSES)
        assert np.array_equal(hit, np.diagonal(slow)), bias
        assert np.array_equal(all_taken, slow.sum(0)) and np.array_equal(pixels, slow.sum(1)), bias
        wanted = scores(slow, SEEN)
        assert (point.siou, point.uiou, point.hiou) == (wanted.siou, wanted.uiou, wanted.hiou)


def test_a_tie_goes_to_the_seen_class_as_in_argmax():
    curve = BiasCurve(np.array([0.0, 1.0]), 1, 2, torch.device("cpu"))
    curve.add(torch.tensor([[[1.0, 2.0]], [[1.0, 1.0]]]), torch.zeros(1, 2, dtype=torch.uint8))
    assert curve.tallies()[2].tolist() == [[2, 0], [1, 1]]  # at 1 the margin of 1 is a tie again


def test_parts_of_several_processes_add_up():
    parts = [BiasCurve(np.linspace(-2, 2, 9), SEEN, CLASSES, torch.device("cpu")) for _ in range(3)]
    for k, (found, labels) in enumerate(images()):
        parts[0].add(found, labels)
        parts[1 + k % 2].add(found, labels)
    others = iter([parts[2].counts, parts[2].pixels])
    parts[1].add_up(lambda own: own + next(others))
    assert parts[1].points() == parts[0].points()


def test_the_best_bias_favours_unseen_classes_here_and_the_grid_reaches_it():
    margins = torch.cat([(f[:SEEN].amax(0) - f[SEEN:].amax(0)).flatten() for f, _ in images()])
    curve = BiasCurve(grid(margins), SEEN, CLASSES, torch.device("cpu"))
    for found, labels in images():
        curve.add(found, labels)
    points = curve.points()
    assert points[0].bias == -points[-1].bias and at(points, 0.0).bias == pytest.approx(0)
    assert best(points).hiou >= at(points, 0.0).hiou and 0 < best(points).bias < points[-1].bias
    # At the ends all is unseen, or seen.
    assert points[-1].siou < points[0].siou and points[0].uiou < points[-1].uiou


def test_a_bias_without_scores_is_never_the_best():
    """Where no class unseen in training has a pixel, none has a score at biases that predict none."""
    nan = float("nan")
    points = [
        Point(-1.0, 0.5, nan, nan),
        Point(0.0, 0.4, 0.0, 0.0),
        Point(1.0, 0.2, 0.1, 0.13),
        Point(2.0, nan, nan, nan),
    ]
    assert best(points).bias == 1.0 and best(points[:2]).bias == 0.0
