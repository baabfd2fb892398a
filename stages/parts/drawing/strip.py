"""A wide strip of pictures for a first look: one row an image, one column for each way of seeing it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from stages.parts.data.views import Array
from stages.parts.drawing.overlays import font, overlay

SHAPE = (0.625, 1.0)
"""Height and width of a panel over the image's width: flat, so that three rows fit beside a text."""


def window(labels: Array, num_seen: int) -> tuple[int, int]:
    """First row and number of rows [pixels] of the part of labels uint8 [H, W] that a panel shows.

    As wide as the image; of all places the one that cuts off least of the unseen classes, counted each by its share.
    """
    rows = min(labels.shape[0], round(labels.shape[1] * SHAPE[0]))
    weight = np.zeros(labels.shape[0])
    for k in np.unique(labels):
        if num_seen <= k < np.iinfo(labels.dtype).max:
            weight += (labels == k).sum(axis=1) / (labels == k).sum()
    inside = np.convolve(weight, np.ones(rows), mode="valid")
    # Of equals the middle one.
    best = np.flatnonzero(inside >= inside.max() - 1e-9)
    return int(best[len(best) // 2]), rows


def panel(image: Array, labels: Array | None, colours: Array, names: Sequence[str], width: int) -> Array:
    """An image [h, w, 3] at `width` pixels under its labels [h, w] (None: alone); ignored pixels are pale."""
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    drawn = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return drawn if labels is None else overlay(drawn, resized(labels, size), colours, names=names, text=width // 18)


def resized(labels: Array, size: tuple[int, int]) -> Array:
    """Labels uint8 [h, w] at `size` (width, height) with smooth borders: each pixel's class is the nearest one."""
    present = np.unique(labels)
    round_off = ImageFilter.GaussianBlur(0.8 * size[0] / labels.shape[1])
    cover = [
        np.asarray(
            Image.fromarray(np.uint8(255) * (labels == k)).resize(size, Image.Resampling.BICUBIC).filter(round_off)
        )
        for k in present
    ]
    return present[np.argmax(np.stack(cover), axis=0)]


def strip(rows: Sequence[Sequence[Array]], titles: Sequence[str], note: str) -> Array:
    """Panels [h, w, 3] of one width as uint8 [H, W, 3] on white: a title above each column, a line of text below."""
    height, width = max(row[0].shape[0] for row in rows), rows[0][0].shape[1]
    gap, size = max(4, width // 50), max(11, width // 16)
    head = round(1.9 * size)
    sheet = Image.new("RGB", ((width + gap) * len(titles) - gap, (height + gap) * len(rows) + 2 * head - gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + width // 2, head // 2), title, "#1c2330", font(size), anchor="mm")
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (column * (width + gap), head + line * (height + gap)))
    draw.text((sheet.width // 2, sheet.height - head // 2), note, "#555f6d", font(round(0.85 * size)), anchor="mm")
    return np.asarray(sheet)
