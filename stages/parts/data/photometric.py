"""Photometric distortion of the student's input: ranges and order of the public code (C; mmsegmentation).

What happens to a crop is drawn on the CPU from the crop's own seed, five numbers; the pixels are changed where the
batch lies, all crops together. So a replayed, resumed or distributed run distorts each crop alike, and the loader's
processes touch no pixel for it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BRIGHTNESS = 32
"""Most that is added to each channel or taken off [grey levels]."""
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18
"""Hue turns by -18..17 steps of 2 degrees: the public code draws its upper end exclusively."""


def draw_distortion(seed: int) -> NDArray[np.float32]:
    """What happens to one crop: float32 [5], a pure function of the seed.

    Brightness to add [grey levels], contrast factor before saturation and hue, saturation factor, turn of the hue
    [sixths of a circle], contrast factor after them; (0, 1, 1, 0, 1) changes nothing. Each of the four kinds
    happens with probability 1/2; contrast comes first or last with equal chance.
    """
    random = np.random.default_rng(seed)
    shift = random.uniform(-BRIGHTNESS, BRIGHTNESS) if random.random() < 0.5 else 0.0
    contrast = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    saturation = random.uniform(*SATURATION) if random.random() < 0.5 else 1.0
    turn = int(random.integers(-HUE, HUE)) / 30 if random.random() < 0.5 else 0.0
    before, after = (contrast, 1.0) if random.random() < 0.5 else (1.0, contrast)
    return np.array([shift, before, saturation, turn, after], np.float32)


def distorted(images: Tensor, distortion: Tensor) -> Tensor:
    """Crops as `draw_distortion` says: [B, 3, H, W] levels 0..255, float32 [B, 5] -> float32, levels 0..255.

    Saturation scales S of HSV and hue turns H; both keep V. Clipped where the public code clips, after each kind,
    but not rounded to whole levels and to hues of 2 degrees as there.
    """
    shift, before, saturation, turn, after = distortion[:, :, None, None, None].unbind(1)
    # Plane by plane: most steps take one channel against another, which costs several times as much between pixels.
    levels = images.contiguous().float()
    levels = ((levels + shift).clamp_(0, 255) * before).clamp_(0, 255)
    value = levels.amax(1, keepdim=True)
    spread = value - levels.amin(1, keepdim=True)
    # V (1 - S) is the smallest channel: scaling S moves every channel away from V, or towards it, by one factor.
    factor = torch.minimum(saturation, value / spread.clamp(min=_TINY))
    levels, spread = value - (value - levels) * factor, spread * factor
    # HSV -> RGB: red, green and blue lie as many spreads below V as H is away from 0, 2 and 4 on the circle of sixths,
    # less one and at most one.
    away = (_hue(levels, value, spread) + turn - _hues(levels)).div_(6)
    away = (away - away.round()).abs_().mul_(6)
    levels = value - spread * away.sub_(1).clamp_(0, 1)
    return (levels * after).clamp_(0, 255)


_TINY = 1e-6


def _hue(levels: Tensor, value: Tensor, spread: Tensor) -> Tensor:
    """H of HSV [B, 1, H, W] in sixths of a circle from red, -1..5; 0 where there is no colour."""
    red, green, blue = levels.split(1, 1)
    spread = spread.clamp(min=_TINY)
    far = torch.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread)
    return torch.where(value == red, (green - blue) / spread, far)


def _hues(levels: Tensor) -> Tensor:
    """Hues of red, green and blue, 0, 2, 4, as [1, 3, 1, 1]; made on the device: a copy would make the host wait."""
    return torch.arange(0, 6, 2, device=levels.device, dtype=levels.dtype).view(1, 3, 1, 1)
