"""Inference of the student alone: scores of every class for every pixel (method.md section 7). No CLIP here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.parts.data.views import Array, shrunk
from stages.parts.settings import EvaluateConfig
from stages.parts.students.inputs import normalised

Scorer = Callable[[Tensor], Tensor]
"""Images float [1, 3, H, W] in 0..255 -> class scores [1, K, h, w]."""


def student_scorer(student: nn.Module, text: Tensor) -> Scorer:
    """Scores F^T A of a student: `text` A [K, D], unit norm, seen classes first."""

    def score(pixels: Tensor) -> Tensor:
        features = student(normalised(pixels))
        return torch.einsum("bdhw,kd->bkhw", features.float(), text)

    return score


@torch.no_grad()
def class_scores(score: Scorer, image: Array, cfg: EvaluateConfig, num_seen: int, device: torch.device) -> Tensor:
    """Scores of one image uint8 [H, W, 3] at its own size: float32 [K, H, W].

    `cfg.seen_bias` is taken off the seen classes.
    """
    scores = coarse_scores(score, image, cfg, device)
    scores = F.interpolate(scores, image.shape[:2], mode="bilinear", align_corners=False)[0]
    scores[:num_seen] -= cfg.seen_bias
    return scores


@torch.no_grad()
def coarse_scores(score: Scorer, image: Array, cfg: EvaluateConfig, device: torch.device) -> Tensor:
    """Scores of one image uint8 [H, W, 3] as the network gives them: float32 [1, K, h, w].

    The image is resized to `cfg.short_side`, ratio kept; `slide` averages overlapping windows, and its scores are
    as fine as the resized image.
    """
    height, width = image.shape[:2]
    image = shrunk(image, 2 * cfg.short_side)
    pixels = torch.tensor(image, device=device).permute(2, 0, 1)[None].float()
    factor = cfg.short_side / min(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return score(pixels) if cfg.mode == "whole" else _slide(score, pixels, cfg.crop, cfg.stride)


def _slide(score: Scorer, pixels: Tensor, crop: int, stride: int) -> Tensor:
    _, _, height, width = pixels.shape
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width, device=pixels.device)
    for y in window_starts(height, crop, stride):
        for x in window_starts(width, crop, stride):
            window = pixels[:, :, y : y + crop, x : x + crop]
            found = F.interpolate(score(window), window.shape[2:], mode="bilinear", align_corners=False)
            if total is None:
                total = found.new_zeros(1, found.shape[1], height, width)
            total[:, :, y : y + crop, x : x + crop] += found
            count[:, :, y : y + crop, x : x + crop] += 1
    assert total is not None
    return total / count


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Starts of windows of `crop` pixels every `stride`, the last one flush with the end."""
    last = max(length - crop, 0)
    return sorted({*range(0, last + 1, stride), last})


def predicted(scores: Tensor) -> Array:
    """Class index of each pixel: [K, H, W] -> uint8 [H, W]."""
    labels: np.ndarray = scores.argmax(0).to(torch.uint8).cpu().numpy()
    return labels
