"""What a student is fed: pixels by ImageNet's statistics, whatever encoder it has."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue, in [0, 1], that public encoders were trained with."""


def normalised(pixels: Tensor) -> Tensor:
    """Pixels 0..255 [B, 3, H, W] -> float32, by ImageNet's mean and standard deviation: the student's input."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std
