"""Data of the explorer: quantised tokens, run-length encoded masks, scores of a picture, one HTML file.

Tokens are normalised, projected on the leading singular vectors of their image, and stored as int8 with
one scale each. The page and `packed_cosines` do the same arithmetic in the same order, so they give the same doubles.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.vectors import unit
from stages.parts.data.views import Array
from stages.parts.drawing.pages import page as from_template
from stages.parts.scoring.gallery import mean_iou

DIMS = 96
"""Most axes kept of an image's tokens: 100 KiB an image at 32 x 32 cells."""
LEVELS = 127
NAMES = 3
"""Nearest names kept of a cell."""
_PAIRS = 8


@dataclass(frozen=True)
class Packed:
    """Tokens of one image as the explorer holds them: `codes` int8 [h, w, d], `scales` float32 [h, w].

    A cell's unit token is codes * scale on d axes of the image's own; `energy`: share that these axes hold.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    energy: float


def pack_tokens(dense: NDArray[np.float32], dims: int = DIMS) -> Packed:
    """Dense tokens [h, w, D] of one image -> codes on at most `dims` axes.

    The axes are the image's own and not centred, so they keep dot products within the image best. They are
    not normalised again after truncation: that would inflate every cosine.
    """
    tokens = unit(dense).reshape(-1, dense.shape[-1])
    _, values, axes = np.linalg.svd(tokens.astype(np.float64), full_matrices=False)
    energy = values**2
    turned = tokens @ axes[:dims].T.astype(np.float32)
    scales = np.abs(turned).max(axis=1) / LEVELS
    codes = np.round(turned / np.maximum(scales, np.finfo(np.float32).tiny)[:, None]).astype(np.int8)
    h, w, _ = dense.shape
    kept = float(energy[:dims].sum() / energy.sum()) if energy.sum() > 0 else 1.0
    return Packed(codes.reshape(h, w, -1), scales.reshape(h, w).astype(np.float32), kept)


def packed_cosines(packed: Packed, cell: tuple[int, int]) -> NDArray[np.float64]:
    """Cosine of one cell to all cells of its image, float64 [h, w]: 1 to itself; a zero token gives 0."""
    dots = (packed.codes.astype(np.int64) @ packed.codes[cell].astype(np.int64)).astype(np.float64)
    found = dots * packed.scales.astype(np.float64) * np.float64(packed.scales[cell])
    found[cell] = float(packed.scales[cell] > 0)
    return found


def packing_error(dense: NDArray[np.float32], packed: Packed, every: int = 7) -> NDArray[np.float64]:
    """How far cosines of packed tokens are from those of the given ones [h, w, D]: from every 7th cell to all, flat."""
    tokens, (h, w) = unit(dense).reshape(-1, dense.shape[-1]), dense.shape[:2]
    picked = range(0, h * w, every)
    true = tokens[picked] @ tokens.T
    found = np.stack([packed_cosines(packed, divmod(cell, w)).reshape(-1) for cell in picked])
    return np.abs(found - true).reshape(-1)


def runs(mask: Array) -> list[int]:
    """A mask uint8 [H, W], run-length encoded row by row: [value, length, value, length, ...]."""
    flat = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return np.stack([flat[starts].astype(np.int64), lengths], axis=1).reshape(-1).tolist()


def shrunk(image: Array, longest: int) -> Array:
    """An image [H, W, 3] with its longest side at most `longest` pixels."""
    factor = min(1.0, longest / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def shrunk_mask(mask: Array, size: tuple[int, int]) -> Array:
    """A mask [H, W] at another size (h, w): the nearest pixel."""
    rows, columns = ((2 * np.arange(n) + 1) * whole // (2 * n) for n, whole in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns[None, :]]


def jpeg(image: Array, quality: int = 82) -> str:
    """An image as a data: address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_text(packed: Packed) -> str:
    """Packed tokens as base64: the scales (float32, little-endian), then the codes."""
    scales = np.ascontiguousarray(packed.scales, dtype="<f4").tobytes()
    return base64.b64encode(scales + np.ascontiguousarray(packed.codes).tobytes()).decode()


def cell_names(dense: NDArray[np.float32], text: NDArray[np.float32]) -> str:
    """The names nearest to each cell of tokens [h, w, D] among text embeddings [K, D], as base64.

    First the class of each (uint8 [h w, n], the nearest first), then its cosine in 1/10000 (int16, little-endian).
    """
    cosine = unit(dense).reshape(-1, dense.shape[-1]) @ unit(text).T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :NAMES]
    near = np.round(10_000 * np.take_along_axis(cosine, order, axis=1)).astype("<i2")
    return base64.b64encode(order.astype(np.uint8).tobytes() + near.tobytes()).decode()


def picture_scores(counts: NDArray[np.int64]) -> dict[str, Any]:
    """A picture's confusion matrix [K, K] as the page shows it, all in shares of 1; empty without a labelled pixel.

    `iou`: mean over the classes shown; `ious`: [class, IoU]; `wrong`: of the labelled pixels; `confused`: [true
    class, predicted class, share of the labelled pixels], the largest first.
    """
    labelled, mean = int(counts.sum()), mean_iou(counts)
    if mean is None:
        return {}
    hit = np.diagonal(counts)
    union = counts.sum(1) + counts.sum(0) - hit
    off = counts - np.diag(hit)
    pairs = sorted(np.argwhere(off > 0).tolist(), key=lambda pair: -off[pair[0], pair[1]])[:_PAIRS]
    return {
        "iou": round(mean, 4),
        "ious": [[int(c), round(float(hit[c] / union[c]), 4)] for c in np.flatnonzero(counts.sum(1))],
        "wrong": round(float(off.sum() / labelled), 4),
        "confused": [[t, f, round(float(off[t, f] / labelled), 4)] for t, f in pairs],
    }


def page(data: Mapping[str, Any]) -> str:
    """The explorer as one HTML file around `data` (JSON).

    The data stand in a script element that the browser does not run; `<` is written as \\u003c, so that no name can
    end it. The page shows names with textContent alone, and its Content-Security-Policy allows no request.
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return from_template("explorer.html", script="explorer.js", data=text)
