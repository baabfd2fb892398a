"""The labels of one photo, painted from objects: polygons, run lengths, masks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOTHING = 0
"""Value of pixels that no annotation covers."""
NO_LABEL = -1
"""Value of pixels that an annotation takes out of training and scoring: crowds, void."""
_FURTHEST = 1e5
"""The largest coordinate of a corner, in pixels either way."""


class Drawing(NamedTuple):
    """The labels of one photo."""

    values: NDArray[np.integer[Any]]
    """[H, W]: 0 = nothing, -1 = no label, else a class; raw mask values as they are where `Source.raw`."""
    overlapped: int = 0
    """Pixels that two objects of different classes claim; the smaller object has them."""
    unknown: int = 0
    """Pixels of a colour that no table names; they are no label."""


@dataclass(frozen=True)
class Region:
    """One object: its value and the rectangle [h, w] of the photo that says where it is."""

    value: int
    top: int
    left: int
    inside: NDArray[np.bool_]


def compose(regions: Sequence[Region], size: tuple[int, int]) -> Drawing:
    """Objects painted onto (H, W), the largest first: where they overlap the smaller one is seen."""
    values = np.zeros(size, np.int32)
    overlapped = np.zeros(size, np.bool_)
    for one in sorted(regions, key=lambda r: -int(r.inside.sum())):
        height, width = one.inside.shape
        window = np.s_[one.top : one.top + height, one.left : one.left + width]
        below = values[window]
        overlapped[window] |= one.inside & (below != NOTHING) & (below != one.value)
        below[one.inside] = one.value
    return Drawing(values, int(overlapped.sum()))


def polygon(value: int, corners: Sequence[tuple[float, float]], size: tuple[int, int]) -> Region | None:
    """The pixels of (H, W) whose centres lie inside the (x, y) corners, pixel i from i to i + 1; None where none does.

    Parts that a polygon encloses twice are outside of it. Raises ValueError for fewer than three corners, and for one
    that is no number or far outside. Pillow's polygons are no substitute: theirs cover a rim of pixels more.
    """
    points = np.asarray(corners, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} corners")
    if not (np.abs(points) <= _FURTHEST).all():  # false for NaN, too
        raise ValueError("a corner far outside of the photo")
    left, top = np.maximum(np.floor(points.min(0)).astype(int), 0).tolist()
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int), size[::-1]).tolist()
    if left >= right or top >= bottom:
        return None
    crossings = np.zeros((bottom - top, right - left + 1), np.uint8)
    centres = np.arange(top, bottom) + 0.5
    for (x, y), (u, v) in zip(points, np.roll(points, -1, 0), strict=True):
        rows = np.flatnonzero((centres >= min(y, v)) & (centres < max(y, v)))
        if rows.size:
            at = x + (centres[rows] - y) * (u - x) / (v - y)
            # The first pixel whose centre is right of the edge.
            columns = np.clip(np.ceil(at - 0.5).astype(int) - left, 0, right - left)
            crossings[rows, columns] ^= 1
    inside = np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1] == 1
    return Region(value, top, left, inside) if inside.any() else None


def union(regions: Sequence[Region | None]) -> Region | None:
    """The parts of one object as one region."""
    parts = [r for r in regions if r is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    top, left = min(r.top for r in parts), min(r.left for r in parts)
    bottom, right = (max(r.top + r.inside.shape[0] for r in parts), max(r.left + r.inside.shape[1] for r in parts))
    inside = np.zeros((bottom - top, right - left), np.bool_)
    for r in parts:
        y, x = r.top - top, r.left - left
        inside[y : y + r.inside.shape[0], x : x + r.inside.shape[1]] |= r.inside
    return Region(parts[0].value, top, left, inside)


def decode_runs(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """COCO's run lengths [H, W]: pixels column by column, outside and inside by turns. Raises ValueError.

    Decoded here, not by pycocotools: fed with damaged files, its C code returns uninitialised memory for run lengths
    that end early, and a corner at 1e9 fills the machine's memory. On sound files both agree (tested).
    """
    runs = _unpacked(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(runs)} pixels for {size[0] * size[1]}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(inside.reshape(size[::-1]).T)


def _unpacked(text: str) -> list[int]:
    """Run lengths from COCO's string: 5 bits a character from 48 on, bit 5 "goes on", the last one's bit 4 the sign;
    from the fourth on, each is the difference to the one before the last."""
    runs: list[int] = []
    number = shift = 0
    for character in text.encode("latin-1"):
        code = character - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError("its run lengths aren't COCO's")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("its run lengths end early")
    return runs
