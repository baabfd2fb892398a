"""The strip of pictures that the demo ends with: which images, which part of them, how they are put together."""

from __future__ import annotations

import numpy as np

from cache.settings import IGNORE
from stages.parts.drawing.strip import panel, resized, strip, window


def test_the_window_keeps_the_unseen_classes() -> None:
    labels = np.zeros((128, 128), np.uint8)
    labels[100:110, 5:20] = 7
    top, rows = window(labels, 5)
    assert rows == 80 and top <= 100 and top + rows >= 110
    labels[:] = IGNORE
    assert window(labels, 5) == (24, 80)  # nothing to keep: the middle
    assert window(np.zeros((40, 128), np.uint8), 5) == (0, 40)  # flatter than a panel


def test_labels_grow_with_smooth_borders_and_no_new_class() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15], labels[0, 0] = 7, IGNORE
    large = resized(labels, (80, 80))
    assert large.shape == (80, 80) and set(np.unique(large)) <= {0, 7, IGNORE}
    assert (large[24:56, 24:56] == 7).all() and large[79, 79] == 0
    corner = np.kron(labels, np.ones((4, 4), np.uint8))[20:24, 20:24]
    assert (corner == 7).all() and large[20, 20] == 0  # rounded off, where repeating would keep the corner


def test_a_strip_holds_every_panel_in_its_place() -> None:
    red, blue = np.full((30, 60, 3), (200, 0, 0), np.uint8), np.full((20, 60, 3), (0, 0, 200), np.uint8)
    sheet = strip([[red, blue], [blue, red]], ["one", "two"], "a note")
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * 60 + 4
    height = sheet.shape[0]
    reds = np.argwhere((sheet == (200, 0, 0)).all(axis=2))
    assert len(reds) == 2 * 30 * 60 and reds[:, 0].min() > 10 and reds[:, 0].max() < height - 10
    assert (sheet[:, :60] == (200, 0, 0)).all(axis=2).sum() == 30 * 60  # one of them in each column


def test_a_panel_is_the_photo_alone_or_under_its_labels() -> None:
    image = np.full((20, 40, 3), 100, np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[1] = (0, 255, 0)
    plain = panel(image, None, colours, (), 80)
    assert plain.shape == (40, 80, 3) and (plain == 100).all()
    green = panel(image, np.ones((20, 40), np.uint8), colours, ("none", "grass"), 80)
    assert green[0, 0, 1] > 150 > green[0, 0, 0] and (green == 255).all(axis=2).any()  # its name in white
