"""hIoU at every seen bias from one pass over the images (method.md section 7).

What a pixel becomes at a bias follows from three things: its best seen class, its best unseen class, and how far the
score of the former is above the latter's. Counted by that margin, all confusion matrices are sums over bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.settings import IGNORE
from stages.parts.scoring.metrics import scores

POINTS = 201
"""Biases of a curve, 0 in their middle."""


def grid(margins: Tensor, points: int = POINTS) -> NDArray[np.float64]:
    """Evenly spaced biases, as many below 0 as above, as far as the margins [n] of some pixels reach."""
    reach = float(margins.abs().max()) if margins.numel() else 1.0
    return np.linspace(-reach, reach, points) if reach > 0 else np.zeros(1)


class BiasCurve:
    """Pixel counts by margin. `biases` [E] ascending: where the curve is wanted, in units of the scores F^T A."""

    def __init__(self, biases: NDArray[np.float64], num_seen: int, classes: int, device: torch.device) -> None:
        self.biases, self.num_seen, self.classes = biases, num_seen, classes
        self.edges = torch.tensor(biases, dtype=torch.float32, device=device)
        bins = (len(biases) + 1) * classes * classes
        self.as_seen = torch.zeros(bins, dtype=torch.int64, device=device)
        self.as_unseen = torch.zeros_like(self.as_seen)

    def add(self, found: Tensor, labels: Tensor) -> None:
        """Scores [K, H, W], no bias taken off, with their ground truth uint8 [H, W]; pixels of 255 don't count."""
        seen, unseen = found[: self.num_seen].max(dim=0), found[self.num_seen :].max(dim=0)
        # Bin i: edges[i - 1] <= margin < edges[i]. A tie goes to the seen class, as in argmax.
        margin = (seen.values - unseen.values).contiguous()
        bins = torch.bucketize(margin, self.edges, right=True)
        valid = labels != IGNORE
        place = (bins * self.classes + labels.long())[valid] * self.classes
        self.as_seen += torch.bincount(place + seen.indices[valid], minlength=len(self.as_seen))
        self.as_unseen += torch.bincount(place + unseen.indices[valid] + self.num_seen, minlength=len(self.as_unseen))

    def confusions(self) -> NDArray[np.int64]:
        """Confusion matrices [E, K, K], row = ground truth, one for each bias."""
        shape = (len(self.biases) + 1, self.classes, self.classes)
        as_seen, as_unseen = (c.cpu().numpy().reshape(shape) for c in (self.as_seen, self.as_unseen))
        above = as_seen[::-1].cumsum(axis=0)[::-1][1:]  # margin >= bias: the seen class stays
        below = as_unseen.cumsum(axis=0)[:-1]
        total: NDArray[np.int64] = above + below
        return total

    def points(self) -> list[Point]:
        """The curve."""
        found = [scores(c, self.num_seen) for c in self.confusions()]
        return [Point(float(b), s.siou, s.uiou, s.hiou) for b, s in zip(self.biases, found, strict=True)]


@dataclass(frozen=True)
class Point:
    """Scores at a bias; shares in [0, 1]."""

    bias: float
    siou: float
    uiou: float
    hiou: float


def best(points: list[Point]) -> Point:
    """The point of highest hIoU; of equal ones that nearest to a bias of 0."""
    return max(points, key=lambda p: (p.hiou, -abs(p.bias)))


def at(points: list[Point], bias: float) -> Point:
    """The point nearest to a bias."""
    return min(points, key=lambda p: abs(p.bias - bias))
