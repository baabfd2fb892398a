"""Claims about risk-coverage: the counts by hand, thresholds that keep what they say, any device's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.parts.scoring.risk import BINS, COVERAGES, RiskCurve, nearest_bin, threshold_of


def test_the_curve_is_the_one_counted_by_hand() -> None:
    # Ten labelled pixels, confidence 1..10; the three of lowest confidence are wrong. Two without a label, at 1 and 9.
    found = torch.zeros(2, 1, 12)
    found[0, 0, :10] = torch.arange(1.0, 11)
    found[0, 0, 10:] = torch.tensor([1.0, 9.0])
    labels = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 255, 255]], dtype=torch.uint8)
    curve = RiskCurve(2, 1.0, torch.device("cpu"))
    curve.add(found, labels)
    risk = curve.risk()
    assert risk is not None and len(risk.points) == len(COVERAGES)
    at = {p.coverage: p for p in risk.points}
    assert at[100].risk == 30 and at[80].risk == 12.5 and at[70].risk == 0
    assert at[100].unlabelled == 100 and at[90].unlabelled == 50 and at[10].unlabelled == 0
    kept = found.amax(0)[0, :10].sigmoid() >= at[70].threshold - 1e-6
    assert int(kept.sum()) == 7
    asked = curve.at(at[70].threshold)
    assert asked == at[70] == curve.keeping(70) and curve.keeping(65) == at[70]
    assert (curve.at(0.0), curve.at(1.0)) != (None, None)
    assert risk.aurc == pytest.approx(100 * np.mean([0] * 7 + [1 / 8, 2 / 9, 3 / 10]), abs=0.01)


def test_alpha_moves_thresholds_and_nothing_else_and_parts_add_up() -> None:
    torch.manual_seed(0)
    found, labels = torch.randn(3, 20, 20), torch.randint(0, 3, (20, 20), dtype=torch.uint8)
    curves = [RiskCurve(3, alpha, torch.device("cpu")) for alpha in (1.0, 2.0)]
    for curve in curves:
        for rows in (slice(0, 7), slice(7, 20)):
            curve.add(found[:, rows], labels[rows])
    one, two = (curve.risk() for curve in curves)
    assert one is not None and two is not None
    assert one.points[0].risk == two.points[0].risk and abs(one.aurc - two.aurc) < 0.5
    half = [next(p.threshold for p in risk.points if p.coverage >= 50 and p.coverage < 55) for risk in (one, two)]
    assert np.log(half[1] / (1 - half[1])) == pytest.approx(2 * np.log(half[0] / (1 - half[0])), abs=0.05)


def test_without_a_label_there_is_no_curve_and_scores_out_of_reach_are_at_its_ends() -> None:
    curve = RiskCurve(2, 1.0, torch.device("cpu"))
    curve.add(torch.tensor([[[1e6, -1e6]], [[0.0, -2e6]]]), torch.full((1, 2), 255, dtype=torch.uint8))
    assert curve.risk() is None
    curve.add(torch.tensor([[[1e6, -1e6]], [[0.0, -2e6]]]), torch.zeros((1, 2), dtype=torch.uint8))
    risk = curve.risk()
    assert risk is not None and risk.points[0].coverage == 100 and risk.aurc == 0


def test_a_threshold_that_is_written_down_is_found_again() -> None:
    places = [*range(0, BINS, 97), *range(BINS - 40, BINS)]
    assert [nearest_bin(threshold_of(place)) for place in places] == places
