"""The pictures that a student does best and worst on, by the mean IoU of the classes that they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.parts.metrics import confusion
from stages.parts.views import Array


@dataclass(frozen=True)
class Scored:
    """One picture: mean IoU in [0, 1], image [H, W, 3], labels and prediction [H, W]."""

    iou: float
    name: str
    image: Array
    labels: Array
    found: Array


class Extremes:
    """Keeps the `size` best and the `size` worst pictures as they come; ties go to the one that came first."""

    def __init__(self, size: int, num_classes: int) -> None:
        self.size, self.num_classes = size, num_classes
        self.best: list[Scored] = []
        self.worst: list[Scored] = []

    def offer(self, name: str, image: Array, labels: Array, found: Array) -> None:
        """Looks at one more picture; one without a labelled pixel has no score."""
        share = mean_iou(labels, found, self.num_classes)
        if share is None or not self.size:
            return
        one = Scored(share, name, image, labels, found)
        self.best = sorted([*self.best, one], key=lambda s: -s.iou)[: self.size]
        self.worst = sorted([*self.worst, one], key=lambda s: s.iou)[: self.size]


def mean_iou(labels: Array, found: Array, num_classes: int) -> float | None:
    """Mean IoU over the classes with a labelled pixel in one picture; None where no pixel is labelled."""
    counts = confusion(found, labels, num_classes)
    hit, shown = np.diagonal(counts), counts.sum(1)
    present = shown > 0
    if not present.any():
        return None
    union = shown + counts.sum(0) - hit
    return float((hit[present] / union[present]).mean())
