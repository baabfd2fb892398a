"""hIoU at every seen bias from one pass over the images (method.md section 7).

What a pixel becomes at a bias follows from three things: its best seen class, its best unseen class, and how far the
score of the former is above the latter's. Counted by that margin, what every bias gives is a sum over bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.parts.scoring.metrics import scores_of
from stages.parts.scoring.report import per_cent

POINTS = 201
"""Biases of a curve, 0 in their middle."""


def grid(margins: Tensor, points: int = POINTS) -> NDArray[np.float64]:
    """Evenly spaced biases, as many below 0 as above, as far as the margins [n] of some pixels reach."""
    reach = float(margins.abs().max()) if margins.numel() else 1.0
    return np.linspace(-reach, reach, points) if reach > 0 else np.zeros(1)


def biases_of(found: Tensor, num_seen: int) -> NDArray[np.float64]:
    """The biases of a curve: how far scores [K, H, W] reach is the student's own, and a first image says it."""
    return grid(found[:num_seen].amax(0) - found[num_seen:].amax(0))


class BiasCurve:
    """Pixel counts by margin. `biases` [E] ascending: where the curve is wanted, in units of the scores F^T A.

    An IoU needs three counts of its class, so [E + 1, K] is all that is held, and not a confusion matrix a bias.
    """

    def __init__(self, biases: NDArray[np.float64], num_seen: int, classes: int, device: torch.device) -> None:
        self.biases, self.num_seen, self.classes = biases, num_seen, classes
        self.edges = torch.tensor(biases, dtype=torch.float32, device=device)
        # Where the seen class stays and where the unseen one takes over: pixels taken for a class, and those rightly.
        # One place more takes what doesn't count.
        self.counts = torch.zeros(4, (len(biases) + 1) * classes + 1, dtype=torch.int64, device=device)
        self.pixels = torch.zeros(classes + 1, dtype=torch.int64, device=device)

    def add(self, found: Tensor, labels: Tensor) -> None:
        """Scores [K, H, W], no bias taken off, with their ground truth [H, W]; pixels without a class don't count.

        Waits for nothing.
        """
        seen, unseen = found[: self.num_seen].max(dim=0), found[self.num_seen :].max(dim=0)
        truth = labels.long()
        valid = truth < self.classes
        # Bin i: edges[i - 1] <= margin < edges[i]. A tie goes to the seen class, as in argmax.
        bins = torch.bucketize((seen.values - unseen.values).contiguous(), self.edges, right=True)
        ones = self.pixels.new_ones(1).expand(truth.numel())
        self.pixels.scatter_add_(0, torch.where(valid, truth, self.classes).flatten(), ones)
        for side, taken in enumerate((seen.indices, unseen.indices + self.num_seen)):
            place, none = bins * self.classes + taken, self.counts.shape[1] - 1
            for kind, counted in enumerate((valid, valid & (taken == truth))):
                self.counts[2 * side + kind].scatter_add_(0, torch.where(counted, place, none).flatten(), ones)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Takes the sums over several processes: `total` gives that of a tensor."""
        self.counts, self.pixels = total(self.counts), total(self.pixels)

    def tallies(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Pixels that are right [E, K], of the ground truth [K], taken for each class [E, K]."""
        shape = (4, len(self.biases) + 1, self.classes)
        taken_seen, right_seen, taken_unseen, right_unseen = self.counts[:, :-1].cpu().numpy().reshape(shape)

        def at_each(as_seen: NDArray[np.int64], as_unseen: NDArray[np.int64]) -> NDArray[np.int64]:
            above = as_seen[::-1].cumsum(axis=0)[::-1][1:]  # margin >= bias: the seen class stays
            total: NDArray[np.int64] = above + as_unseen.cumsum(axis=0)[:-1]
            return total

        pixels: NDArray[np.int64] = self.pixels[:-1].cpu().numpy()
        return at_each(right_seen, right_unseen), pixels, at_each(taken_seen, taken_unseen)

    def points(self) -> list[Point]:
        """The curve."""
        right, pixels, taken = self.tallies()
        found = [scores_of(r, pixels, t, self.num_seen) for r, t in zip(right, taken, strict=True)]
        return [Point(float(b), s.siou, s.uiou, s.hiou) for b, s in zip(self.biases, found, strict=True)]


@dataclass(frozen=True)
class Point:
    """Scores at a bias; shares in [0, 1]."""

    bias: float
    siou: float
    uiou: float
    hiou: float


def percent(point: Point) -> dict[str, float | None]:
    """A point as JSON, scores in per cent; None where there is none."""
    named = {"hIoU": point.hiou, "sIoU": point.siou, "uIoU": point.uiou}
    return {"bias": round(point.bias, 6), **{name: per_cent(value) for name, value in named.items()}}


def best(points: list[Point]) -> Point:
    """The point of highest hIoU; of equal ones that nearest to a bias of 0. One without hIoU is below all others."""
    return max(points, key=lambda p: (-1.0 if math.isnan(p.hiou) else p.hiou, -abs(p.bias)))


def at(points: list[Point], bias: float) -> Point:
    """The point nearest to a bias."""
    return min(points, key=lambda p: abs(p.bias - bias))
