"""The background as a class of its own: VOC-21, Context-60. A pixel whose best class scores below a threshold is in it.

Counted by that score, the mIoU at every threshold comes from one pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.parts.eval_report import Background, BackgroundPoint
from stages.parts.scoring.report import per_cent
from stages.parts.scoring.risk import BINS, COVERAGES, bins_of, nearest_bin, threshold_of


class BackgroundCurve:
    """Pixel counts by predicted class and confidence; `alpha`: see `bins_of`."""

    def __init__(self, classes: int, alpha: float | None, device: torch.device) -> None:
        self.classes, self.alpha = classes, alpha
        # Rows: right pixels of each class, all pixels taken for each, pixels of the background; then those left out.
        self.counts = torch.zeros((2 * classes + 1) * BINS + 1, dtype=torch.int64, device=device)
        self.pixels = torch.zeros(classes + 2, dtype=torch.int64, device=device)

    def add(self, found: Tensor, labels: Tensor) -> None:
        """Scores [K, H, W] with their ground truth [H, W], where K is the background. Waits for nothing."""
        best, truth = found.argmax(dim=0), labels.long().clamp(max=self.classes + 1)
        bins, left_out = bins_of(found, self.alpha), self.counts.numel() - 1
        scored = truth <= self.classes
        for rows, use in (
            (best, best == truth),
            (self.classes + best, scored),
            (2 * self.classes, truth == self.classes),
        ):
            place = torch.where(use, rows * BINS + bins, left_out).flatten()
            self.counts.scatter_add_(0, place, self.counts.new_ones(1).expand(place.numel()))
        self.pixels.scatter_add_(0, truth.flatten(), self.pixels.new_ones(1).expand(truth.numel()))

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Takes the sums over several processes: `total` gives that of a tensor."""
        self.counts, self.pixels = total(self.counts), total(self.pixels)

    def background(self, form: str, threshold: float, kept: float | None) -> Background | None:
        """Scores at a threshold (a sigmoid) and over all of them; None where no pixel is labelled.

        `form`: what the data set is called with its background; `kept`: the share of seen pixels of training photos
        that the threshold was fitted to keep.
        """
        iou = self._iou()
        if iou is None:
            return None
        counted = iou[~np.isnan(iou[:, 0])]  # the classes that sIoU and uIoU count, at every threshold
        mean = np.nan_to_num(counted).mean(axis=0)

        def point(place: int) -> BackgroundPoint:
            found = threshold_of(place)
            return BackgroundPoint(threshold=found, mIoU=per_cent(mean[place]) or 0.0, IoU=per_cent(iou[-1, place]))

        at = point(nearest_bin(threshold))
        return Background(
            **at.model_dump(),
            form=form,
            kept=kept,
            best=point(int(mean.argmax())),
            points=tuple(point(place) for place in self._places()),
        )

    def _rows(self) -> NDArray[np.int64]:
        """[2 K + 1, BINS], at or above each bin's lower edge. Waits for the device."""
        rows = self.counts[:-1].view(-1, BINS).cpu().numpy()
        return rows[:, ::-1].cumsum(axis=1)[:, ::-1]

    def _iou(self) -> NDArray[np.float64] | None:
        """IoU [K + 1, BINS] at each bin's lower edge, the background last; NaN where a class is nowhere."""
        rows, truth = self._rows(), self.pixels.cpu().numpy()[: self.classes + 1]
        if not truth.sum():
            return None
        below = rows[self.classes : 2 * self.classes, :1].sum() - rows[self.classes : 2 * self.classes].sum(axis=0)
        hit = np.concatenate([rows[: self.classes], rows[-1:, :1] - rows[-1:]])
        union = truth[:, None] + np.concatenate([rows[self.classes : 2 * self.classes], below[None]]) - hit
        return np.divide(hit, union, out=np.full(union.shape, np.nan), where=union > 0)

    def _places(self) -> list[int]:
        """Bins that keep the shares `COVERAGES` of the pixels of classes."""
        rows = self._rows()
        of_classes = rows[self.classes : 2 * self.classes].sum(axis=0) - rows[-1]
        return [int(np.flatnonzero(of_classes * 100 >= share * of_classes[0])[-1]) for share in COVERAGES]
