"""Pictures for people: label maps in colour, grids with a legend. Arrays in, PNG bytes out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from cache.settings import IGNORE
from stages.parts.data.views import Array

matplotlib.use("Agg")

BAND = 2**18
"""Pixels that are mixed at once."""


def palette(num_classes: int) -> Array:
    """uint8 [256, 3]: the VOC palette from its colour 1 on, so that class 0 is not black; ignore is light grey."""
    index = np.arange(1, 257)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    colours[num_classes:] = 90
    colours[IGNORE] = 225
    return colours


def overlay(image: Array, labels: Array, colours: Array, strength: float = 0.75) -> Array:
    """Labels uint8 [H, W] laid over an image uint8 [H, W, 3]; ignored pixels keep the image, paled.

    Works in bands of rows: floats of a whole photo of 24 megapixels would take more than a gigabyte.
    """
    mixed = np.empty_like(image)
    rows = max(1, BAND // image.shape[1])
    for start in range(0, len(image), rows):
        band = slice(start, start + rows)
        mixed[band] = np.round(image[band] * (1 - strength) + colours[labels[band]] * strength)
    return mixed


def grid(
    rows: Sequence[Sequence[Array]], titles: Sequence[str], labels: Sequence[Array], names: Sequence[str], num_seen: int
) -> bytes:
    """PNG of a grid of pictures [H, W, 3] with column titles and a legend of the classes found in `labels`.

    Unseen classes stand in bold with a star.
    """
    colours = palette(len(names))
    found = sorted({int(c) for part in labels for c in np.unique(part) if c < len(names)})
    height = 2.1 * len(rows) + 0.35 * -(-len(found) // 5) + 0.6
    figure = Figure(figsize=(2.6 * len(titles), height), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    patches = [Patch(color=colours[c] / 255, label=names[c] + (" *" if c >= num_seen else "")) for c in found]
    legend = figure.legend(
        handles=patches, loc="outside lower center", ncols=5, fontsize=9, title="* never labelled in training"
    )
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
