"""PAMR: scores smoothed where the colours say that pixels belong together (Araslanov and Roth, 2020, section 3.3).

A refinement of what is shown and scored, of a student or of the teacher training-free; training never sees it.
n images, K classes, J = 8 neighbours at each of the distances.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DISTANCES = (8, 16)
"""How far a pixel's neighbours lie, in pixels (C: NACLIP's dilations)."""
AROUND = [(y, x) for d in DISTANCES for y in (-d, 0, d) for x in (-d, 0, d) if y or x]
TEMPERATURE = 0.1
"""Share of the local deviation that a difference of colour is measured in (C: PAMR's own)."""


def pamr(pixels: Tensor, scores: Tensor, rounds: int) -> Tensor:
    """Images [n, 3, H, W], scores [n, K, H, W] -> scores [n, K, H, W], after `rounds` means over the neighbours.

    A constant stays as it is, and so do class biases. Holds three maps of one image besides the result.
    """
    return torch.stack([_one(image, own, rounds) for image, own in zip(pixels, scores, strict=True)])


def _one(pixels: Tensor, scores: Tensor, rounds: int) -> Tensor:
    weights = colour_weights(pixels)
    for _ in range(rounds):
        near = _padded(scores)
        scores = torch.zeros_like(scores)
        # One neighbour at a time: all of them together would be 16 maps of K classes.
        for weight, (y, x) in zip(weights, AROUND, strict=True):
            scores.addcmul_(weight, _shifted(near, y, x))
    return scores


def colour_weights(pixels: Tensor) -> Tensor:
    """The weight of each neighbour of each pixel: [3, H, W] -> [J, H, W], a softmax over J.

    Of minus the mean over channels of |difference| / (0.1 x the deviation of all neighbours and the pixel itself).
    """
    padded = _padded(pixels)
    near = torch.stack([_shifted(padded, y, x) for y, x in AROUND])
    # The pixel itself counts once for each distance, as in the public code.
    deviation = torch.cat([near, pixels.expand(len(DISTANCES), *pixels.shape)]).std(dim=0)
    difference = (near - pixels).abs() / (1e-8 + TEMPERATURE * deviation)
    return (-difference.mean(dim=1)).softmax(dim=0)


def _padded(maps: Tensor) -> Tensor:
    """Edges repeated as far as neighbours reach: [C, H, W] -> [C, H + 2 d, W + 2 d]."""
    return F.pad(maps[None], (max(DISTANCES),) * 4, mode="replicate")[0]


def _shifted(padded: Tensor, y: int, x: int) -> Tensor:
    """The neighbours (y, x) away, of `_padded` maps: [C, H, W]."""
    far = max(DISTANCES)
    height, width = padded.shape[1] - 2 * far, padded.shape[2] - 2 * far
    return padded[:, far + y : far + y + height, far + x : far + x + width]
