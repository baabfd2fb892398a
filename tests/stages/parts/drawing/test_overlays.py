"""Claims about pictures for people."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cache.settings import IGNORE
from stages.parts.drawing.overlays import grid, overlay, where_scored, with_legend
from stages.parts.drawing.palette import palette


def test_an_overlay_mixes_by_its_strength() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, IGNORE]], np.uint8)
    colours = np.full((256, 3), 225, np.uint8)
    colours[0] = (128, 0, 0)
    mixed = overlay(image, labels, colours, strength=0.75, contours=False)
    assert mixed.tolist() == [[[121, 25, 25], [194, 194, 194]]]  # 0.25 * 100 + 0.75 * (128, 0, 0) and * 225
    assert np.array_equal(overlay(image, labels, colours, strength=0.0, contours=False), image)
    kept = overlay(image, labels, colours, strength=0.75, contours=False, pale=False)
    assert kept.tolist() == [[[121, 25, 25], [100, 100, 100]]]


def test_a_contour_is_a_dark_and_a_light_line_where_labels_meet_also_across_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, labels = np.full((1100, 1000, 3), 100, np.uint8), np.zeros((1100, 1000), np.uint8)
    labels[300:700, 200:600] = 1
    whole = overlay(image, labels, palette(["cat", "dog"]))
    dark, light = (whole == 25).all(axis=2), (whole == 245).all(axis=2)
    assert dark[298:300, 400].all() and light[300:302, 400].all() and not (dark | light)[[297, 302], 400].any()
    assert dark[698:700, 400].all() and light[700:702, 400].all()
    assert dark[500, 198:200].all() and light[500, 200:202].all()
    assert not dark[[0, -1]].any() and not light[:, [0, -1]].any()  # the picture's own border is none
    monkeypatch.setattr("stages.parts.drawing.overlays.BAND", 1000)  # one row at a time
    assert np.array_equal(overlay(image, labels, palette(["cat", "dog"])), whole)


def test_names_stand_on_large_regions_of_their_own_class_only() -> None:
    image, labels = np.full((200, 300, 3), 100, np.uint8), np.full((200, 300), IGNORE, np.uint8)
    labels[20:180, 20:140], labels[90:96, 200:206] = 0, 1
    bare, named = (overlay(image, labels, palette(["cat", "dog"]), names=n) for n in ((), ("cat", "dog")))
    where = np.argwhere((bare != named).any(axis=2))
    assert len(where) and (labels[tuple(where.T)] == 0).all()  # the dog is too small for a name
    rows, columns = where.mean(axis=0)
    assert abs(rows - 100) < 15 and abs(columns - 80) < 15
    assert np.array_equal(
        overlay(image[:3, :3], labels[:3, :3], palette(["cat"]), names=["cat"]), image[:3, :3] * 0 + 178
    )


def test_a_legend_is_a_strip_below_the_picture_with_every_colour() -> None:
    picture = np.zeros((50, 400, 3), np.uint8)
    entries = [
        (f"name number {k} 12.5 %", colour) for k, colour in enumerate(palette(["cat", "dog", "sky", "sea"])[:4])
    ]
    shown = with_legend(picture, entries)
    assert np.array_equal(shown[:50], picture) and shown.shape[1:] == (400, 3) and len(shown) > 50
    strip = {tuple(c) for c in shown[50:].reshape(-1, 3).tolist()}
    assert all(tuple(colour.tolist()) in strip for _, colour in entries)
    assert len(with_legend(picture, entries * 5)) > len(shown)  # more lines
    assert with_legend(picture[:, :20], entries).shape[1] == 240
    assert with_legend(picture, []) is picture


def test_an_overlay_of_a_large_photo_takes_little_more_than_its_result() -> None:
    random = np.random.default_rng(0)
    image, labels = random.integers(0, 256, (1100, 1000, 3), np.uint8), random.integers(0, 4, (1100, 1000), np.uint8)
    colours = palette(["a", "b", "c", "d"])
    tracemalloc.start()
    mixed = overlay(image, labels, colours, strength=0.6, contours=False)
    overlay(image, labels, colours, names=["a", "b", "c", "d"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(mixed, np.round(image * 0.4 + colours[labels] * 0.6).astype(np.uint8))
    assert peak < 2 * image.nbytes + 2**25  # two results; floats of the whole would be eight times the image


def test_a_grid_is_a_png_of_all_pictures_and_the_legend() -> None:
    picture, labels = np.zeros((40, 60, 3), np.uint8), np.array([[0, 3, IGNORE]], np.uint8)
    names = ["dog", "<b>cat</b> & $x_1$", "cow", "sofa"]
    small = grid([[picture, picture]], ["image", "truth"], [labels], names, 2)
    large = grid([[picture, picture]] * 3, ["image", "truth"], [labels], names, 2)
    sizes = [Image.open(io.BytesIO(data)).size for data in (small, large)]
    assert sizes[0][0] == sizes[1][0] and sizes[1][1] > 2 * sizes[0][1]


def test_a_grid_without_any_labelled_pixel_is_drawn(recwarn: object) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    data = grid([[picture]], ["image"], [np.full((8, 8), IGNORE, np.uint8)], ["a"], 1)
    assert data.startswith(b"\x89PNG")


def test_names_that_look_like_formulas_are_written_as_they_are() -> None:
    picture, labels = np.zeros((8, 8, 3), np.uint8), np.array([[0, 1]], np.uint8)
    plain = grid([[picture]], ["image"], [labels], ["a$", "b$"], 1)
    assert plain.startswith(b"\x89PNG")
    assert grid([[picture]], ["image"], [labels], ["$\\frac$", "cost $5 _and_ $6"], 1).startswith(b"\x89PNG")


def test_what_is_not_scored_is_left_out_of_a_prediction_in_labels_of_8_and_of_16_bits() -> None:
    narrow = where_scored(np.array([[1, 2]], np.uint8), np.array([[255, 0]], np.uint8), 3)
    assert narrow.tolist() == [[255, 2]] and narrow.dtype == np.uint8
    wide = where_scored(np.array([[255, 299]], np.uint16), np.array([[255, 65535]], np.uint16), 300)
    assert wide.tolist() == [[255, 65535]] and wide.dtype == np.uint16
