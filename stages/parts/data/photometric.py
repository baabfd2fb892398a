"""Photometric distortion of the student's input, in the order and ranges of the public code (C; mmsegmentation)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from stages.parts.data.views import Array

BRIGHTNESS = 32
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18
"""Degrees of 180."""


def distorted(image: Array, seed: int) -> Array:
    """uint8 [H, W, 3] -> uint8 [H, W, 3]: brightness, contrast, saturation, hue, each with probability 1/2.

    A pure function of image and seed. Contrast comes before saturation and hue, or after, with equal chance.
    """
    random = np.random.default_rng(seed)
    shift = random.uniform(-BRIGHTNESS, BRIGHTNESS) if random.random() < 0.5 else 0.0
    contrast = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    saturation = random.uniform(*SATURATION) if random.random() < 0.5 else 1.0
    hue = random.integers(-HUE, HUE, endpoint=True) if random.random() < 0.5 else 0
    first = random.random() < 0.5
    levels = np.arange(256) + shift
    before, after = (contrast, 1.0) if first else (1.0, contrast)
    picture = Image.fromarray(_scaled(levels, before)[image])
    if saturation != 1.0:
        picture = ImageEnhance.Color(picture).enhance(saturation)
    if hue:
        h, s, v = picture.convert("HSV").split()
        turn = round(int(hue) * 256 / 180)
        h = h.point([(level + turn) % 256 for level in range(256)])
        picture = Image.merge("HSV", (h, s, v)).convert("RGB")
    pixels = np.array(picture)
    return pixels if after == 1.0 else _scaled(np.arange(256), after)[pixels]


def _scaled(levels: np.ndarray, factor: float) -> Array:
    table: Array = np.clip(np.round(levels * factor), 0, 255).astype(np.uint8)
    return table
