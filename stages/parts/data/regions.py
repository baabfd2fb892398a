"""Regions of one image: annotated share of a cell, pseudo masks Y_p, crops for local CLS tokens.

method.md section 1 (local CLS tokens) and section 2, steps 1 and 5. Numpy and PIL only: this runs in the data
loader's workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.views import Array, byte_counts, cell_index, mean_colour


def annotated_share(labels: Array, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each cell's area whose label is not 255: uint8 [H, W], (h, w) -> float32 [h, w] in [0, 1].

    A cell is a rectangle of H/h x W/w pixels; a pixel on a border counts with the part that lies inside.
    """
    (height, width), (h, w) = labels.shape, grid
    annotated = (labels != IGNORE).view(np.uint8)
    # Sums over one axis are whole numbers below 2^24, which float32 holds exactly; over both they need float64.
    rows: NDArray[np.float32]
    if height % h == 0:  # no pixel lies in two rows of cells: numpy adds bytes tens of times as fast as BLAS floats
        tall = height // h
        rows = annotated.reshape(h, tall, width).sum(axis=1, dtype=np.min_scalar_type(tall)) * np.float32(h)
    else:
        rows = _overlap(h, height).astype(np.float32) @ annotated
    covered = rows @ _overlap(w, width).T
    return (covered / (height * width)).astype(np.float32)


def pseudo_mask(labels: Array, cells: Array, num_seen: int) -> Array:
    """Y_p (method.md section 2, step 5): seen labels and latent ids as one map, uint8 [H, W].

    `labels` uint8 [H, W]: seen classes 0..K_s-1, else 255. `cells` uint8 [h, w]: latent ids 0..L-1, 255 = none.
    A pixel without a label takes `num_seen` (K_s) + the id of the cell that holds its centre; a pixel with a
    label keeps it. Raises InputError when K_s + L exceeds 254, the most that a byte holds beside 255.
    """
    rows, cols = cell_index(cells.shape[0], labels.shape[0]), cell_index(cells.shape[1], labels.shape[1])
    return np.where(labels == IGNORE, latent_ids(cells, num_seen)[rows].take(cols, axis=1), labels)


def latent_ids(cells: Array, num_seen: int) -> Array:
    """Cells by their ids in Y_p: K_s + latent id, 255 = none; uint8 [h, w]. Raises InputError as `pseudo_mask`."""
    found = cells[cells != IGNORE]
    latent = int(found.max()) + 1 if found.size else 0
    if num_seen + latent > IGNORE - 1:
        raise InputError(
            f"{num_seen} seen + {latent} latent classes don't fit in one byte (254 at most); "
            "lower the number of latent classes (fewer windows, lower merge threshold)"
        )
    return np.where(cells == IGNORE, IGNORE, cells.astype(np.int64) + num_seen).astype(np.uint8)


def latent_mask(labels: Array, cells: Array) -> Array:
    """The latent part of Y_p alone: latent ids 0..L-1 on unannotated pixels, else 255; uint8 [H, W]."""
    free = np.where(labels == IGNORE, labels, 0)
    return np.where(labels == IGNORE, pseudo_mask(free, cells, 0), np.uint8(IGNORE))


def present_regions(mask: Array) -> list[int]:
    """Ids that occur in a mask, uint8 [H, W], ascending, without 255."""
    return np.flatnonzero(byte_counts(mask)[:IGNORE]).tolist()


def region_crops(image: Array, mask: Array, ids: Sequence[int], size: int) -> Array:
    """One crop per region: uint8 [H, W, 3], [H, W], P ids -> uint8 [P, size, size, 3] (method.md section 1).

    Tight box of the region; outside the mask the image's mean colour (C); resized to a square (bicubic,
    antialiased). Raises ValueError when sizes differ or an id has no pixel.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask of {mask.shape} for an image of {image.shape[:2]}")
    colour = mean_colour(image)
    picture, crops = Image.fromarray(image), np.empty((len(ids), size, size, 3), dtype=np.uint8)
    for crop, region in zip(crops, ids, strict=True):
        inside = mask == region
        rows, cols = _tight_box(inside, region)
        part = Image.new("RGB", (cols.stop - cols.start, rows.stop - rows.start), tuple(colour.tolist()))
        # Pillow lays pictures over each other several times as fast as numpy chooses between them.
        shown = Image.fromarray(inside[rows, cols].astype(np.uint8) * 255)
        part.paste(picture.crop((cols.start, rows.start, cols.stop, rows.stop)), mask=shown)
        crop[:] = np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))
    return crops


@lru_cache(maxsize=64)
def _overlap(cells: int, pixels: int) -> NDArray[np.float64]:
    """Length that each pixel shares with each cell along one axis: [cells, pixels].

    In units of 1/cells of a pixel, where every border is a whole number: shares come out exact, 0 and 1 too.
    """
    edges, starts = np.arange(cells + 1) * pixels, np.arange(pixels) * cells
    shared = np.minimum(edges[1:, None], starts + cells) - np.maximum(edges[:-1, None], starts)
    found = np.maximum(shared, 0).astype(np.float64)
    found.flags.writeable = False  # the same array for all who ask
    return found


def _tight_box(inside: NDArray[np.bool_], region: int) -> tuple[slice, slice]:
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        raise ValueError(f"region {region} has no pixel in this mask")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
