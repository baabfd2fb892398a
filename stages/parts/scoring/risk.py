"""Risk-coverage: how often the best class is wrong among the pixels whose score is highest (selective prediction).

A pixel's confidence is the score of its best class; `predict --threshold` keeps the pixels above one. Counted by it,
the whole curve comes from one pass over the images. Pixels without a label count apart: where they are background, the
threshold that loses them is the one that says "none of these".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.parts.eval_report import Risk, RiskPoint

REACH, FINENESS = 16.0, 512
"""Scores are told apart from -REACH to REACH in steps of 1 / FINENESS: a teacher's cosines differ by hundredths."""
BINS = int(2 * REACH * FINENESS)
COVERAGES = (100, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 5)
"""Shares of the labelled pixels [%] that the report has a point for."""
Kept = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Pixels without a label, wrong ones and labelled ones at or above each bin's lower edge."""
_RIGHT, _WRONG, _UNLABELLED = range(3)


CLIP_SCALE = 100.0
"""CLIP's own logit scale, the factor of its cosines in a softmax."""


def bins_of(found: Tensor, alpha: float | None) -> Tensor:
    """The bin of each pixel's confidence: scores [K, H, W] -> int64 [H, W].

    With `alpha`, the factor that scores F^T A were trained with, it is the sigmoid of the best class's score, as
    `predict` has it; with None, for a teacher's cosines, which were trained against each other, the best class's
    probability by softmax, as in published training-free work. Bins divide its log-odds.
    """
    if alpha is None:
        odds = torch.logit(torch.softmax(CLIP_SCALE * found, dim=0).amax(0), eps=1e-7)
    else:
        odds = alpha * found.amax(0)
    return ((odds + REACH) * FINENESS).long().clamp(0, BINS - 1)


def nearest_bin(threshold: float) -> int:
    """The bin whose lower edge is nearest to a threshold (a sigmoid)."""
    edge = float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else (threshold - 0.5) * np.inf
    return int(np.clip(np.round((edge + REACH) * FINENESS), 0, BINS - 1))


def threshold_of(place: int) -> float:
    """A bin's lower edge as a sigmoid, told apart from its neighbours' (`nearest_bin` finds the bin again)."""
    return round(float(1 / (1 + np.exp(REACH - place / FINENESS))), 12)


class RiskCurve:
    """Pixel counts by confidence; `alpha`: see `bins_of`."""

    def __init__(self, classes: int, alpha: float | None, device: torch.device) -> None:
        self.classes, self.alpha = classes, alpha
        self.counts = torch.zeros(3, BINS, dtype=torch.int64, device=device)

    def add(self, found: Tensor, labels: Tensor) -> None:
        """Scores [K, H, W] with their ground truth [H, W]. Waits for nothing."""
        best, truth = found.argmax(dim=0), labels.long()
        kind = torch.where(truth < self.classes, (best != truth).long(), _UNLABELLED)
        ones = self.counts.new_ones(1).expand(truth.numel())
        self.counts.view(-1).scatter_add_(0, (kind * BINS + bins_of(found, self.alpha)).flatten(), ones)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Takes the sums over several processes: `total` gives that of a tensor."""
        self.counts = total(self.counts)

    def risk(self) -> Risk | None:
        """The curve at `COVERAGES`; None where no pixel has a label."""
        kept = self._kept()
        points = [point for share in COVERAGES if (point := _keeping(kept, share))]
        if not points:
            return None
        _, wrong, labelled = kept
        steps = labelled - np.append(labelled[1:], 0)
        risks = np.divide(wrong, labelled, out=np.zeros(len(wrong)), where=labelled > 0)
        return Risk(aurc=round(float(100 * (risks * steps).sum() / labelled[0]), 2), points=tuple(points))

    def keeping(self, share: float) -> RiskPoint | None:
        """The highest threshold that keeps so many per cent of the labelled pixels; None where no pixel has a label."""
        return _keeping(self._kept(), share)

    def at(self, threshold: float) -> RiskPoint | None:
        """What a threshold (a sigmoid) keeps; None where no pixel has a label."""
        kept = self._kept()
        return _point(kept, nearest_bin(threshold)) if kept[2][0] else None

    def _kept(self) -> Kept:
        """Waits for the device."""
        kept = self.counts.cpu().numpy()[:, ::-1].cumsum(axis=1)[:, ::-1]
        return kept[_UNLABELLED], kept[_WRONG], kept[_RIGHT] + kept[_WRONG]


def _keeping(kept: Kept, share: float) -> RiskPoint | None:
    labelled = kept[2]
    return _point(kept, int(np.flatnonzero(labelled * 100 >= share * labelled[0])[-1])) if labelled[0] else None


def _point(kept: Kept, place: int) -> RiskPoint:
    unlabelled, wrong, labelled = kept
    return RiskPoint(
        threshold=threshold_of(place),
        coverage=_share(labelled[place], labelled[0]) or 0.0,
        risk=_share(wrong[place], labelled[place]) or 0.0,
        unlabelled=_share(unlabelled[place], unlabelled[0]),
    )


def _share(part: int, whole: int) -> float | None:
    return round(100 * float(part) / float(whole), 2) if whole else None
