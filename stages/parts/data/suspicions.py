"""Masks that decode well and mean something else: smoothed, numbered by object, or binary. Found from counts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.settings import IGNORE

NO_LABEL = (IGNORE, 65535)
"""Raw values that mean "no label" unless somebody names them: the highest of 8 and of 16 bits."""
_MAX_RAW = 65535
_THIN = 0.1
_LEAST_THIN = 5
_LEAST_OBJECTS = 5
_MANY = 10


@dataclass(frozen=True)
class MaskValues:
    """What one mask holds."""

    pixels: dict[int, int]
    """Pixels of each raw value."""
    inner: dict[int, int]
    """Pixels of each raw value whose four neighbours have it too."""


def mask_values(mask: NDArray[np.integer[Any]]) -> MaskValues:
    """Counts the raw values of a mask [H, W]."""
    centre = mask[1:-1, 1:-1]
    same = (centre == mask[:-2, 1:-1]) & (centre == mask[2:, 1:-1])
    same &= (centre == mask[1:-1, :-2]) & (centre == mask[1:-1, 2:])
    return MaskValues(_counts(mask), _counts(centre[same]))


def _counts(values: NDArray[np.integer[Any]]) -> dict[int, int]:
    if values.size and (values.min() < 0 or values.max() > _MAX_RAW):  # 32 bits: too many for a table
        found, counts = np.unique(values, return_counts=True)
    else:
        table = np.bincount(values.ravel())
        found = np.flatnonzero(table)
        counts = table[found]
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def looks_binary(masks: Sequence[MaskValues], named: Collection[int]) -> bool:
    """Whether the masks hold 0 and 255 alone, and nobody says what 255 is: an object then counts as "no label"."""
    values = {v for mask in masks for v in mask.pixels}
    return values == {0, IGNORE} and IGNORE not in named


def suspicions(masks: Sequence[MaskValues], ignored: Collection[int] = NO_LABEL) -> tuple[str, ...]:
    """What the counts of all masks suggest went wrong, one line each with its likely cause. Empty: nothing."""
    found = []
    pixels: Counter[int] = Counter()
    inner: Counter[int] = Counter()
    for mask in masks:
        pixels.update({v: n for v, n in mask.pixels.items() if v not in ignored})
        inner.update(mask.inner)
    thin = [v for v, n in pixels.items() if inner[v] < _THIN * n]
    if len(thin) >= _LEAST_THIN and 3 * len(thin) >= len(pixels):
        found.append(
            f"{len(thin)} of {len(pixels)} mask values occur only along edges: the masks look smoothed (rotated, "
            "resized or stored as JPEG); make them again with nearest-neighbour interpolation, as PNG"
        )
    elif _numbered(masks, ignored) or _once(masks, ignored):
        found.append(
            f"the {len(pixels)} mask values look like object numbers, not classes (they count up anew in each photo, "
            "or most occur in one photo alone); write the class of each object instead"
        )
    return tuple(found)


def _numbered(masks: Sequence[MaskValues], ignored: Collection[int]) -> bool:
    """Whether every photo's values are 1..n without a gap, for several n and up to many."""
    counts = set()
    for mask in masks:
        values = sorted(v for v in mask.pixels if v not in ignored and v > 0)
        if values != list(range(1, len(values) + 1)):
            return False
        counts.add(len(values))
    return len(counts - {0}) >= 3 and max(counts) >= _LEAST_OBJECTS


def _once(masks: Sequence[MaskValues], ignored: Collection[int]) -> bool:
    """Whether most of many values occur in one photo alone, though there are many photos."""
    photos = Counter(v for mask in masks for v in mask.pixels if v not in ignored and v > 0)
    once = sum(n == 1 for n in photos.values())
    return len(masks) >= _LEAST_OBJECTS and len(photos) >= _MANY and 3 * once >= 2 * len(photos)
