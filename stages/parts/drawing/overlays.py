"""Pictures for people: label maps in colour, with contours, names and legends. Arrays in, arrays or PNG bytes out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cache.settings import ignore_index
from stages.parts.data.views import Array
from stages.parts.drawing.palette import palette

matplotlib.use("Agg")

Box = tuple[int, int, int, int]
"""Top, left, bottom, right [pixels]; bottom and right are the first outside."""

BAND = 2**18
"""Pixels that are mixed at once."""
_DARK, _LIGHT = 25, 245
_COARSE = 96
"""Longest side of the label map in which places for names are looked for."""


def overlay(
    image: Array,
    labels: Array,
    colours: Array,
    strength: float = 0.62,
    *,
    names: Sequence[str] = (),
    contours: bool = True,
    pale: bool = True,
    text: int = 0,
) -> Array:
    """Labels uint8 [H, W] laid over an image uint8 [H, W, 3]: a new array of the image's shape.

    names: class k is called `names[k]`, written on its widest region where there is room; none: nothing is written.
    contours: a dark and a light line where two labels meet, so that it shows on every ground.
    pale: ignored pixels (255; the last row of `colours`) are paled; else they keep the image. Ignored means: no label,
    not scored, or background.
    text: height of the names [pixels]; 0: by the picture's size.

    Works in bands of rows: floats of a whole photo of 24 megapixels would take more than a gigabyte.
    """
    mixed = np.empty_like(image)
    rows = max(1, BAND // image.shape[1])
    thick = max(1, round(min(labels.shape) / 500))
    for start in range(0, len(image), rows):
        stop = min(start + rows, len(image))
        band, own = slice(start, stop), labels[start:stop]
        mixed[band] = np.round(image[band] * (1 - strength) + colours[own] * strength)
        if not pale:
            none = own == len(colours) - 1
            mixed[band][none] = image[band][none]
        if contours:
            above, below = max(0, start - thick), min(len(labels), stop + thick)
            dark, light = _edges(labels[above:below], thick)
            inside = slice(start - above, stop - above)
            mixed[band][light[inside]] = _LIGHT
            mixed[band][dark[inside]] = _DARK
    taken: list[Box] = []
    for name, place in _places(labels, names):
        _write(mixed, name, place, text or max(10, min(mixed.shape[:2]) // 22), taken)
    return mixed


def where_scored(found: Array, truth: Array, classes: int) -> Array:
    """A prediction [H, W] with "no label" where the truth has none: what is not scored must not look like an error."""
    return np.where(truth == ignore_index(classes), truth, found)


def _edges(labels: Array, thick: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels with another label to the right or below, and to the left or above, at most `thick` pixels away."""
    dark, light = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    for step in range(1, thick + 1):
        for axis in (0, 1):
            a, b = np.swapaxes(labels, 0, axis)[:-step], np.swapaxes(labels, 0, axis)[step:]
            differs = a != b
            np.swapaxes(dark, 0, axis)[:-step] |= differs
            np.swapaxes(light, 0, axis)[step:] |= differs
    return dark, light


def _places(labels: Array, names: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """For each class with a name: (row, column) deepest inside its regions, and their width there [pixels]."""
    factor = -(-max(labels.shape) // _COARSE)
    small = labels[factor // 2 :: factor, factor // 2 :: factor] if min(labels.shape) > factor else labels[:0]
    found = []
    for k in (int(k) for k in np.unique(small) if k < len(names)):
        left, depth = np.pad(small == k, 1), 0
        inside = left
        while left.any():
            inside, depth = left, depth + 1
            left = left.copy()
            left[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        rows, columns = np.nonzero(inside)
        # Of the last that are left, one that exists: the middle of two regions would lie between them.
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        at = [int((place[middle] - 1) * factor + factor // 2) for place in (rows, columns)]
        found.append((names[k], (at[0], at[1], (2 * depth - 1) * factor)))
    return found


def _write(picture: Array, name: str, place: tuple[int, int, int], size: int, taken: list[Box]) -> None:
    """White with a dark rim, centred at `place`; nothing where the region is too flat, or the picture too narrow.

    A name that would cover one of those `taken` goes above or below it, if it fits there.
    """
    row, column, room = place
    rim = max(1, size // 9)
    left, top, right, bottom = (round(v) for v in font(size).getbbox(name, stroke_width=rim))
    wide, high = right - left, bottom - top
    if room < 1.2 * size or wide > picture.shape[1] or high > picture.shape[0]:
        return
    x = min(max(0, column - wide // 2), picture.shape[1] - wide)
    middle = min(max(0, row - high // 2), picture.shape[0] - high)
    for y in (middle, middle - high, middle + high):
        if 0 <= y <= picture.shape[0] - high and not any(_meet((y, x, y + high, x + wide), box) for box in taken):
            break
    else:
        return
    taken.append((y, x, y + high, x + wide))
    # Only the patch goes through Pillow: a whole photo would be copied for every name.
    patch = Image.fromarray(np.ascontiguousarray(picture[y : y + high, x : x + wide]))
    ImageDraw.Draw(patch).text((-left, -top), name, "white", font(size), stroke_width=rim, stroke_fill="#141414")
    picture[y : y + high, x : x + wide] = np.asarray(patch)


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own DejaVu Sans: Pillow's built-in font has Latin letters only."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf", size)


def with_legend(picture: Array, entries: Sequence[tuple[str, Array]]) -> Array:
    """A picture [H, W, 3] above a white strip with a colour and a text for each entry, in lines as wide as the picture.

    A picture narrower than 240 pixels gets white to its right, so that a text fits.
    """
    if not entries:
        return picture
    wide = max(240, picture.shape[1])
    size = max(11, wide // 60)
    letters, gap, line = font(size), size // 2, round(1.5 * size)
    places: list[tuple[int, int]] = []
    x, y = gap, gap
    for text, _ in entries:
        length = round(size + gap + letters.getlength(text) + 2 * gap)
        if x > gap and x + length > wide:
            x, y = gap, y + line
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (wide, y + line), "white")
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + size, y + size), fill=tuple(colour.tolist()), outline="#555555")
        draw.text((x + size + gap, y + size // 2), text, "#141414", letters, anchor="lm")
    full = np.full((picture.shape[0], wide, 3), 255, np.uint8)
    full[:, : picture.shape[1]] = picture
    return np.concatenate([full, np.asarray(strip)])


def grid(
    rows: Sequence[Sequence[Array]],
    titles: Sequence[str],
    labels: Sequence[Array],
    names: Sequence[str],
    num_seen: int,
    note: str = "",
) -> bytes:
    """PNG of a grid of pictures [H, W, 3] with column titles and a legend of the classes found in `labels`.

    Unseen classes stand in bold with a star. `note`: one more line above the legend.
    """
    colours = palette(names)
    found = sorted({int(c) for part in labels for c in np.unique(part) if c < len(names)})
    height = 2.1 * len(rows) + 0.35 * -(-len(found) // 5) + 0.8
    figure = Figure(figsize=(2.6 * len(titles), height), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    patches = [
        Patch(facecolor=colours[c] / 255, edgecolor="#555555", label=names[c] + (" *" if c >= num_seen else ""))
        for c in found
    ]
    title = "\n".join(line for line in (note, "* never labelled in training") if line)
    legend = figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=9, title=title)
    for text, c in zip(legend.get_texts(), found, strict=True):
        text.set_fontweight("bold" if c >= num_seen else "normal")
    return png(figure)


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes. Text is drawn literally: `$x$` in a class name is not read as a formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the user can do nothing about matplotlib's warning.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
