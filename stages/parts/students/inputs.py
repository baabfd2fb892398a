"""Normalisation of a student's input: ImageNet's statistics, for every encoder."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue, in [0, 1], that public encoders were trained with."""


def normalised(pixels: Tensor) -> Tensor:
    """Pixels 0..255 [B, 3, H, W] -> float32, by ImageNet's mean and standard deviation: the student's input."""
    mean, std = _per_channel(IMAGENET_MEAN, pixels.device), _per_channel(IMAGENET_STD, pixels.device)
    return (pixels.float() / 255 - mean) / std


def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[3, 1, 1]. Filled on the device: a copy from the host's memory would make the host wait for it."""
    return torch.cat([torch.full((1, 1, 1), v, device=device) for v in values])
