"""What evaluation counts on labelled images: the confusion matrix and, from the same scores, its curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.settings import ignore_index
from stages.parts.data.views import Array
from stages.parts.scoring.background import BackgroundCurve
from stages.parts.scoring.bias_curve import BiasCurve
from stages.parts.scoring.inference import Scorer, checked, every_scores, label_map, pixel_counts
from stages.parts.scoring.risk import RiskCurve
from stages.parts.settings import EvaluateConfig


@dataclass
class Tally:
    """Counts of one pass over images, of `num_seen` seen classes and `classes` in all.

    `bias`: where there are seen and unseen classes; `background`: where it is scored, and then labels have it as the
    value `classes`; for all else it has no label.
    """

    cfg: EvaluateConfig
    num_seen: int
    classes: int
    device: torch.device
    risk: RiskCurve
    bias: BiasCurve | None
    background: BackgroundCurve | None

    def __post_init__(self) -> None:
        self.confusion: NDArray[np.int64] = np.zeros((self.classes, self.classes), np.int64)
        """[K, K]: pixels of each class (rows) taken for each (columns)."""

    def add(self, scorer: Scorer, pairs: Sequence[tuple[Array, Array]]) -> list[NDArray[np.int64]]:
        """The confusion matrix of each image with its labels, counted on the device; one wait for all of them.

        Raises ValueError where a label is of no class.
        """
        if not pairs:
            return []
        counts: dict[int, Tensor] = {}
        plain = [labels if self.background is None else plain_labels(labels, self.classes) for _, labels in pairs]
        for i, found in every_scores(scorer, [image for image, _ in pairs], self.cfg, self.num_seen, self.device):
            if self.background is not None:
                self.background.add(found, torch.from_numpy(pairs[i][1]).to(self.device))
            truth = torch.from_numpy(plain[i]).to(self.device)
            counts[i] = pixel_counts(label_map(found), truth, self.classes)
            self.risk.add(found, truth)
            if self.bias is not None:
                self.bias.add(found, truth)
        each = torch.stack([counts[i] for i in range(len(pairs))]).cpu().numpy()
        confusions = [checked(own, labels, self.classes) for own, labels in zip(each, plain, strict=True)]
        self.confusion += sum(confusions)
        return confusions

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Takes the sums over several processes: `total` gives that of a tensor."""
        self.confusion = total(torch.from_numpy(self.confusion).to(self.device)).cpu().numpy()
        for curve in (self.bias, self.risk, self.background):
            if curve is not None:
                curve.add_up(total)


def plain_labels(labels: Array, classes: int) -> Array:
    """Labels without the background: it is 255, as in `Dataset.labels(i, "all")`."""
    return np.where(labels == classes, labels.dtype.type(ignore_index(classes)), labels)
