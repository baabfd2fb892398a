"""Claims about pictures for people."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
from PIL import Image

from cache.settings import IGNORE
from stages.parts.drawing.overlays import grid, overlay, palette


def test_the_palette_is_vocs_from_its_colour_1_on() -> None:
    colours = palette(20)
    assert colours[:5].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert colours[19].tolist() == [0, 64, 128]  # VOC's 20th, tvmonitor
    assert len({tuple(c) for c in palette(200)[:200].tolist()}) == 200
    assert colours[20].tolist() == [90, 90, 90] and colours[IGNORE].tolist() == [225, 225, 225]


def test_an_overlay_mixes_by_its_strength() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, IGNORE]], np.uint8)
    mixed = overlay(image, labels, palette(1), strength=0.75)
    assert mixed.tolist() == [[[121, 25, 25], [194, 194, 194]]]  # 0.25 * 100 + 0.75 * (128, 0, 0) and * 225
    assert np.array_equal(overlay(image, labels, palette(1), strength=0.0), image)


def test_an_overlay_of_a_large_photo_takes_little_more_than_its_result() -> None:
    random = np.random.default_rng(0)
    image, labels = random.integers(0, 256, (1100, 1000, 3), np.uint8), random.integers(0, 4, (1100, 1000), np.uint8)
    tracemalloc.start()
    mixed = overlay(image, labels, palette(4), strength=0.6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(mixed, np.round(image * 0.4 + palette(4)[labels] * 0.6).astype(np.uint8))
    assert peak < image.nbytes + 2**25  # floats of the whole would be eight times the image


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
