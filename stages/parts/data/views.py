"""Views: what part of an image is looked at, at which scale, mirrored or not (method.md section 6).

A view is drawn from (seed, image id, view number) alone, never from the state of a worker, so the teacher and
the student see the same crop in whatever process, order or epoch they ask for it. On the CPU: this runs in the data
loader's workers.

A pixel of the view and a pixel of the image are tied by their centres: row y of the resized image stands on
row floor((y + 0.5) * H / H') of the original one. Labels and cells are read there; the image is interpolated.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from cache.settings import IGNORE, Settings

Array = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)

WORTH = 4
"""A crop that ends so far from the image's corner that more than so many crops lie in between is resized by Pillow,
which is faster then."""

CROP_TRIES = 10
"""Crops tried for one that no class fills; the last one is kept (C: mmsegmentation's RandomCrop)."""


class ViewsConfig(Settings):
    """How the views of an image are drawn."""

    count: int = Field(default=1, ge=1)
    """V, views of an image that the teacher encodes. 1: the whole image, and the student crops at random;
    more: those crops exactly, for teacher and student. Any whole number from 1 (D; method.md section 6)."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the drawing, together with image id and view number. Any whole number from 0 (D)."""

    size: int = Field(default=512, ge=8)
    """Side of the student's square crop, in pixels, from 8; the image's short side is scaled around it (P)."""

    scale: Annotated[tuple[float, float], Field(strict=False)] = (0.5, 2.0)
    """Least and greatest short side of the resized image, as a multiple of `size`; 0 < least <= greatest (C)."""

    flip: bool = True
    """Mirror every second view, left to right (C)."""

    max_class_share: float = Field(default=0.75, gt=0, le=1)
    """A crop is drawn again, ten times at most, while one class holds more than this share of its labelled
    pixels; in (0, 1], 1 turns it off (C)."""

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < float("inf"):
            raise ValueError("needs 0 < least <= greatest")
        return value


@dataclass(frozen=True)
class View:
    """One view of an image: resize, then crop, then mirror."""

    resized: tuple[int, int]
    """Height and width [pixels] of the whole image after scaling (H', W')."""

    crop: tuple[int, int, int, int]
    """y0, x0, y1, x1 [pixels of the resized image], square; what lies outside the image is padding."""

    flip: bool
    """Mirrored left to right, after cropping."""

    seed: int
    """63-bit number that this view was drawn from; a source for randomness that belongs to the view."""


def view_seed(seed: int, image_id: str, v: int) -> int:
    """The 63-bit seed of view `v` of an image: sha256 of the three, the same in every process and version."""
    digest = hashlib.sha256(f"{seed}\0{v}\0{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw(cfg: ViewsConfig, seed: int, image_id: str, v: int, size: tuple[int, int], labels: Array) -> View:
    """View `v` of an image of `size` (H, W) pixels: a pure function of its arguments.

    `labels` are the SEEN labels, uint8 [H, W]: unseen ones must be 255 already, or they would choose the crop.
    Scale, crop and mirroring as in the public code (C, method.md section 5). Raises ValueError when the labels
    are not of the image's size.
    """
    return draw_labelled(cfg, seed, image_id, v, size, labels)[0]


def draw_labelled(
    cfg: ViewsConfig, seed: int, image_id: str, v: int, size: tuple[int, int], labels: Array
) -> tuple[View, Array]:
    """`draw`, and the view of the labels, at which drawing looks anyway: `apply_labels` of it."""
    if labels.shape != size:
        raise ValueError(f"labels of {labels.shape} for an image of {size}")
    number = view_seed(seed, image_id, v)
    random = np.random.Generator(np.random.PCG64(number))
    short = cfg.size * random.uniform(*cfg.scale)
    height, width = (max(1, round(side * short / min(size))) for side in size)
    flip = bool(random.random() < 0.5) and cfg.flip
    several = np.count_nonzero(byte_counts(labels)[:IGNORE]) > 1
    shown = None
    for _ in range(CROP_TRIES):
        y = int(random.integers(max(height - cfg.size, 0) + 1))
        x = int(random.integers(max(width - cfg.size, 0) + 1))
        view = View((height, width), (y, x, y + cfg.size, x + cfg.size), flip, number)
        if cfg.max_class_share >= 1:
            break
        # A single class fills whatever it is in: all tries fail, and nothing needs counting.
        if several:
            shown = apply_labels(labels, view)
            if _largest_share(shown) <= cfg.max_class_share:
                break
    return view, apply_labels(labels, view) if shown is None else shown


def least_size(view: View) -> tuple[int, int]:
    """Height and width [pixels] that a photo must have for `apply_image` of a view: twice what it is resized to.

    With that much to average over, a photo that was decoded smaller shows no difference (as `Image.thumbnail` does).
    """
    return 2 * view.resized[0], 2 * view.resized[1]


def apply_image(image: Array, view: View, size: tuple[int, int] | None = None) -> Array:
    """The view of an image: uint8 [H, W, 3] -> [S, S, 3].

    `size` (H, W) of the whole photo, where `image` was decoded at 1/2, 1/4 or 1/8 of it. Bilinear with antialiasing.
    Padding has the image's mean colour: the same neutral fill as outside a region (`stages.parts.data.regions`), so a
    teacher sees no edge brighter than the picture.
    """
    size = size or (image.shape[0], image.shape[1])
    scale = round(size[0] / image.shape[0])  # a decoder rounds sides up, so that the quotient isn't exact
    factors = [view.resized[axis] * scale / size[axis] for axis in (0, 1)]
    bottom, right = _visible(view)
    near = bottom * right <= WORTH * _side(view) ** 2
    shown = (_cut_from_corner if near else _cut)(image, view, factors)
    if shown.shape[:2] == (_side(view),) * 2:
        return np.ascontiguousarray(shown)
    return _padded(shown, view, mean_colour(image))


def _cut_from_corner(image: Array, view: View, factors: list[float]) -> Array:
    """The visible part of a view, mirrored already: [h, w, 3]; `factors` of resizing, y and x.

    A crop begins between two pixels, at which torch's kernels for bytes, several times as fast as Pillow, can't. So
    what lies above it and to its left is resized too.
    """
    import torch  # here, as the command line reads this file's settings, and must start without it
    from torch.nn.functional import interpolate

    (top, left), (bottom, right) = view.crop[:2], _visible(view)
    reached = [math.ceil(end / f + max(1, 1 / f)) + 1 for end, f in zip((bottom, right), factors, strict=True)]
    source = torch.from_numpy(np.array(image[: reached[0], : reached[1]]))[None].permute(0, 3, 1, 2)
    slightly_more = [f * (1 + 1e-9) for f in factors]  # or a side of 588 pixels may be 587.999, and lose one
    resized = interpolate(source, scale_factor=slightly_more, mode="bilinear", antialias=True)
    part = resized[..., top:bottom, left:right]
    shown: Array = (part.flip(-1) if view.flip else part)[0].permute(1, 2, 0).numpy()
    return shown


def _cut(image: Array, view: View, factors: list[float]) -> Array:
    """The same up to rounding, by Pillow, which resizes nothing but the crop."""
    (top, left), (bottom, right) = view.crop[:2], _visible(view)
    ends = [min(end / f, side) for end, f, side in zip((bottom, right), factors, image.shape, strict=False)]
    box = (left / factors[1], top / factors[0], ends[1], ends[0])
    part = Image.fromarray(image).resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)
    return np.array(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else part)  # torch wants to write


def apply_labels(labels: Array, view: View) -> Array:
    """The view of a label map: uint8 [H, W] -> [S, S]; nearest pixel, padding 255."""
    return _gather(labels, *_sources(view, (labels.shape[0], labels.shape[1])), view)


def apply_cells(cells: Array, image_size: tuple[int, int], view: View) -> Array:
    """The view of a grid of cells that covers the image: uint8 [h, w] -> [S, S]; padding 255.

    Equals `apply_labels` of the grid blown up to `image_size` (H, W), without blowing it up.
    """
    rows, cols = _sources(view, image_size)
    h, w = cells.shape
    return _gather(cells, cell_index(h, image_size[0])[rows], cell_index(w, image_size[1])[cols], view)


def inside(view: View) -> NDArray[np.bool_]:
    """Which pixels of the view show the image and not padding: bool [S, S]."""
    (bottom, right), (top, left, _, _) = _visible(view), view.crop
    return _padded(np.ones((bottom - top, right - left), np.uint8), view, np.uint8(0)).view(np.bool_)


def shrunk(image: Array, least: int) -> Array:
    """An image uint8 [H, W, 3] averaged over squares of whole pixels, its short side no less than `least`.

    For resizing further as floats, of which those of a whole photo of 24 megapixels take 300 MB.
    """
    factor = min(image.shape[:2]) // least
    return image if factor < 2 else np.asarray(Image.fromarray(image).reduce(factor))


def whole(image: Array, size: int) -> Array:
    """The whole image squashed to the teacher's square input: uint8 [H, W, 3] -> [size, size, 3], bicubic."""
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def cell_index(cells: int, pixels: int) -> NDArray[np.int64]:
    """The cell that holds the centre of each pixel along one axis: int64 [pixels], values 0..cells-1."""
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)


def mean_colour(image: Array) -> Array:
    """Mean colour of an image [H, W, 3]: uint8 [3], rounded."""
    pixels = image.shape[0] * image.shape[1]
    total = image.sum(axis=0, dtype=np.uint32).sum(axis=0, dtype=np.int64)  # integers: the same on every machine
    return ((2 * total + pixels) // (2 * pixels)).astype(np.uint8)


def _side(view: View) -> int:
    return view.crop[2] - view.crop[0]


def _visible(view: View) -> tuple[int, int]:
    """Where the visible part of the crop ends: y, x in the resized image."""
    return min(view.crop[2], view.resized[0]), min(view.crop[3], view.resized[1])


def _sources(view: View, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the original image that the visible rows and columns of the view stand on."""
    bottom, right = _visible(view)
    rows = (2 * np.arange(view.crop[0], bottom) + 1) * size[0] // (2 * view.resized[0])
    cols = (2 * np.arange(view.crop[1], right) + 1) * size[1] // (2 * view.resized[1])
    return rows, cols


def _gather(values: Array, rows: NDArray[np.int64], cols: NDArray[np.int64], view: View) -> Array:
    cols, first, last = cols[::-1] if view.flip else cols, rows[0], rows[-1] + 1
    # A row is copied as a whole, columns one by one: so columns are taken of as few rows as there are.
    if last - first < len(rows):
        part = values[first:last].take(cols, axis=1)[rows - first]
    else:
        part = values[rows].take(cols, axis=1)
    return part if part.shape == (_side(view),) * 2 else _padded(part, view, no_label(part.dtype))


def no_label(of: np.dtype[np.uint8]) -> np.uint8:
    """The ignore index of labels of a type: its highest value."""
    highest: np.uint8 = of.type(np.iinfo(of).max)
    return highest


def _padded(part: Array, view: View, fill: np.uint8 | Array) -> Array:
    """The visible part [h, w] or [h, w, 3], mirrored already, in the view's square: top left, if mirrored top right."""
    side = _side(view)
    row = np.full((side, *part.shape[2:]), fill, part.dtype)
    square = np.repeat(row[None], side, axis=0)  # by whole rows: numpy fills with a colour byte by byte
    left = side - part.shape[1] if view.flip else 0
    square[: part.shape[0], left : left + part.shape[1]] = part
    return square


def _largest_share(labels: Array) -> float:
    """Share of the most frequent class among labelled pixels; 1 where nothing is labelled, to try again."""
    counts = byte_counts(labels)[:IGNORE]
    total = int(counts.sum())
    return int(counts.max()) / total if total else 1.0


def byte_counts(values: Array) -> NDArray[np.int64]:
    """How often each value 0..255 occurs in uint8 [H, W]: int64 [256]. Pillow counts bytes; numpy copies them first."""
    return np.array(Image.fromarray(values).histogram())
