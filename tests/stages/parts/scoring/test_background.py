"""Claims about the background as a class: scores at any threshold are those of a plain loop, parts add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.settings import IGNORE
from stages.parts.scoring.background import BackgroundCurve

CPU = torch.device("cpu")
CLASSES = 3


def plain(scores: np.ndarray, truth: np.ndarray, threshold: float, alpha: float) -> list[float]:
    """IoU in per cent of three classes and the background, by loops over pixels."""
    hit, wanted, found = [0] * 4, [0] * 4, [0] * 4
    for s, t in zip(scores.reshape(CLASSES, -1).T, truth.ravel(), strict=True):
        if t == IGNORE:
            continue
        p = int(s.argmax()) if 1 / (1 + np.exp(-alpha * s.max())) >= threshold else CLASSES
        hit[t] += p == t
        wanted[t] += 1
        found[p] += 1
    return [100 * h / (w + f - h) if w + f - h else 0.0 for h, w, f in zip(hit, wanted, found, strict=True)]


@pytest.mark.parametrize("alpha", [1.0, 6.0])
def test_scores_at_a_threshold_are_those_of_a_plain_loop(alpha: float) -> None:
    draw = np.random.default_rng(0)
    # Scores in the middle of the bins that they are counted in, so that none lies on a threshold.
    scores = ((draw.integers(-400, 400, (2, CLASSES, 9, 11)) + 0.5) / 512 / alpha).astype(np.float32)
    truth = draw.choice([0, 1, 2, CLASSES, IGNORE], (2, 9, 11)).astype(np.uint8)
    curve = BackgroundCurve(CLASSES, alpha, CPU)
    for one, labels in zip(scores, truth, strict=True):
        curve.add(torch.from_numpy(one), torch.from_numpy(labels))
    both, labels = np.concatenate([*scores], axis=1), np.concatenate([*truth])
    for threshold in (0.0, 0.4, 0.5, 0.61, 1 - 1e-9):
        found = curve.background("things-4", threshold, None)
        assert found is not None
        at = found.threshold if 0 < threshold < 0.9 else threshold
        wanted = plain(both, labels, at, alpha)
        assert found.mIoU == pytest.approx(np.mean(wanted), abs=0.006), threshold
        assert found.IoU == pytest.approx(wanted[-1], abs=0.006)
        assert abs(found.threshold - threshold) < 0.001
        assert found.best.mIoU >= found.mIoU
    assert found.best.mIoU == pytest.approx(max(np.mean(plain(both, labels, t, alpha)) for t in grid()), 1e-3)


def grid() -> np.ndarray:
    """The thresholds between all scores."""
    steps = np.arange(-401, 402) / 512
    return np.asarray(1 / (1 + np.exp(-steps)))


def test_a_teachers_confidence_is_the_probability_of_its_best_class() -> None:
    cosines = torch.tensor([[[0.30, 0.30]], [[0.20, 0.29]], [[0.20, 0.29]]])  # the second pixel is between three names
    curve = BackgroundCurve(CLASSES, None, CPU)
    curve.add(cosines, torch.tensor([[0, CLASSES]], dtype=torch.uint8))
    sure = 1 / (1 + 2 * np.exp(-1))  # of the second pixel: 0.576
    apart, together = (curve.background("x", t, None) for t in (sure + 0.01, sure - 0.01))
    assert apart is not None and (apart.mIoU, apart.IoU) == (100, 100)
    assert together is not None and (together.mIoU, together.IoU) == (25, 0)


def test_parts_add_up_and_a_class_that_is_nowhere_is_not_counted() -> None:
    torch.manual_seed(0)
    scores = torch.randn(CLASSES, 8, 8)
    scores[2] = -5  # never the best
    labels = torch.randint(0, 2, (8, 8), dtype=torch.uint8)
    labels[:4, :4] = CLASSES
    whole, parts = BackgroundCurve(CLASSES, 1.0, CPU), BackgroundCurve(CLASSES, 1.0, CPU)
    whole.add(scores, labels)
    for rows in (slice(0, 3), slice(3, 8)):
        parts.add(scores[:, rows], labels[rows])
    assert whole.background("x", 0.5, 95.0) == parts.background("x", 0.5, 95.0)
    before = whole.background("x", 0.5, None)
    whole.add_up(lambda counts: 2 * counts)
    assert whole.background("x", 0.5, None) == before
    everything = whole.background("x", 1 - 1e-9, None)
    assert everything is not None and everything.IoU == 25  # 16 of 64 pixels
    assert everything.mIoU == pytest.approx(25 / 3, abs=0.01)  # two classes and the background


def test_without_a_label_there_is_no_score() -> None:
    curve = BackgroundCurve(CLASSES, 1.0, CPU)
    curve.add(torch.zeros(CLASSES, 2, 2), torch.full((2, 2), IGNORE, dtype=torch.uint8))
    assert curve.background("x", 0.5, None) is None
