"""Inference of the student alone: scores of every class for every pixel (method.md section 7). No CLIP here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cache.settings import MOST_IN_A_BYTE, ignore_index
from stages.parts.data.views import Array, shrunk
from stages.parts.scoring.pamr import pamr
from stages.parts.settings import EvaluateConfig
from stages.parts.students.inputs import normalised

TOGETHER = {"cpu": 1, "cuda": 8}
"""Images in one pass of the network, where they are of one size. On a processor one alone: more of them are no faster
there, and may change the last bit of a score."""
Scorer = Callable[[Tensor], Tensor]
"""Images float [n, 3, H, W] in 0..255 -> class scores [n, K, h, w]."""


def student_scorer(student: Callable[[Tensor], Tensor], text: Tensor, owners: Sequence[int] = ()) -> Scorer:
    """Scores F^T A of a student, normalised images -> features F: `text` A [K, D], unit norm, seen classes first.

    With `owners`, the class of each row, A is [R, D], and of a class's rows the best counts.
    """

    def score(pixels: Tensor) -> Tensor:
        features = student(normalised(pixels))
        return best_of(torch.einsum("bdhw,kd->bkhw", features.float(), text), owners)

    return score


def best_of(scores: Tensor, owners: Sequence[int]) -> Tensor:
    """The best of each class's rows, at each position: [n, R, h, w] -> [n, K, h, w]; without `owners` as they are."""
    if not owners:
        return scores
    places = torch.tensor(owners, device=scores.device)[:, None, None].expand_as(scores)
    best = scores.new_full((len(scores), max(owners) + 1, *scores.shape[2:]), -math.inf)
    return best.scatter_reduce(1, places, scores, "amax")


@torch.no_grad()
def class_scores(score: Scorer, image: Array, cfg: EvaluateConfig, num_seen: int, device: torch.device) -> Tensor:
    """Scores of one image uint8 [H, W, 3] at its own size: float32 [K, H, W].

    `cfg.seen_bias` is taken off the seen classes.
    """
    return _at_size(coarse_scores(score, image[None], cfg, device), image.shape[:2], cfg, num_seen)


@torch.no_grad()
def every_scores(
    score: Scorer, images: Sequence[Array], cfg: EvaluateConfig, num_seen: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """`class_scores` of images uint8 [H, W, 3], each at its own size, with its place among them; in no order.

    Images of one size go through the network together, then each alone to its size: K maps of one image are all that
    is held. Waits for nothing but the images' way to the device.
    """
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(image.shape[:2], []).append(i)
    for size, own in sizes.items():
        coarse = coarse_scores(score, np.stack([images[i] for i in own]), cfg, device)
        for i, one in zip(own, coarse.split(1), strict=True):
            yield i, _at_size(one, size, cfg, num_seen)


def label_map(scores: Tensor) -> Tensor:
    """Class of each pixel: scores [K, H, W] -> `label_type` [H, W] on the device."""
    return scores.argmax(0).to(label_type(len(scores)))


def _at_size(coarse: Tensor, size: tuple[int, ...], cfg: EvaluateConfig, num_seen: int) -> Tensor:
    """[1, K, h, w] -> [K, H, W], the bias taken off the seen classes."""
    scores = F.interpolate(coarse, size, mode="bilinear", align_corners=False)[0]
    scores[:num_seen] -= cfg.seen_bias
    return scores


@torch.no_grad()
def coarse_scores(score: Scorer, images: Array, cfg: EvaluateConfig, device: torch.device) -> Tensor:
    """Scores of images uint8 [n, H, W, 3] as the network gives them: float32 [n, K, h, w].

    They are resized to `cfg.short_side`, ratio kept; `slide` averages overlapping windows, and its scores are
    as fine as the resized images, and so are those that `cfg.pamr` smoothed.
    """
    height, width = images.shape[1:3]
    smaller = np.stack([shrunk(image, 2 * cfg.short_side) for image in images])
    # In one layout, whatever the strides of one image are: kernels of another one round otherwise.
    pixels = torch.tensor(smaller, device=device).permute(0, 3, 1, 2).float().contiguous()
    factor = cfg.short_side / min(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    scores = score(pixels) if cfg.mode == "whole" else _slide(score, pixels, cfg.crop, cfg.stride)
    if cfg.pamr:
        scores = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)
        scores = pamr(pixels, scores, cfg.pamr)
    return scores


def _slide(score: Scorer, pixels: Tensor, crop: int, stride: int) -> Tensor:
    n, _, height, width = pixels.shape
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width, device=pixels.device)
    for y in window_starts(height, crop, stride):
        for x in window_starts(width, crop, stride):
            window = pixels[:, :, y : y + crop, x : x + crop]
            found = F.interpolate(score(window), window.shape[2:], mode="bilinear", align_corners=False)
            if total is None:
                total = found.new_zeros(n, found.shape[1], height, width)
            total[:, :, y : y + crop, x : x + crop] += found
            count[:, :, y : y + crop, x : x + crop] += 1
    assert total is not None
    return total / count


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Starts of windows of `crop` pixels every `stride`, the last one flush with the end."""
    last = max(length - crop, 0)
    return sorted({*range(0, last + 1, stride), last})


def predicted(scores: Tensor) -> Array:
    """Class index of each pixel: [K, H, W] -> uint8 [H, W], uint16 for more than 254 classes."""
    return as_labels(label_map(scores))


def label_type(classes: int) -> torch.dtype:
    """What holds labels of so many classes on a device: uint8, or int32 (torch computes little in uint16)."""
    return torch.uint8 if classes <= MOST_IN_A_BYTE else torch.int32


def as_labels(found: Tensor) -> Array:
    """Labels of a device as numpy's: uint8, or uint16 where they are wider."""
    labels: np.ndarray = found.cpu().numpy()
    return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)


def pixel_counts(found: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`metrics.confusion` where the maps lie: uint8 [H, W] twice -> int64 [K * K + 1]; waits for nothing.

    The last number counts the pixels that are left out; `checked` looks at it.
    """
    rows, columns = labels.long(), found.long()
    inside = (rows < num_classes) & (columns < num_classes)
    place = torch.where(inside, rows * num_classes + columns, num_classes**2).flatten()
    counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=found.device)
    return counts.scatter_add_(0, place, counts.new_ones(1).expand(place.numel()))


def checked(counts: NDArray[np.int64], labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """The matrix [K, K] of `pixel_counts`. Raises ValueError where a counted pixel holds a value outside 0..K-1."""
    left_out = int((labels == ignore_index(num_classes)).sum())
    if counts[-1] != left_out:
        raise ValueError(f"{counts[-1] - left_out} pixels hold a value outside 0..{num_classes - 1}")
    return counts[:-1].reshape(num_classes, num_classes)
