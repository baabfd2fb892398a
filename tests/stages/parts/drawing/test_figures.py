"""Claims about the figures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stages.parts.drawing.figures import (
    Heat,
    Panel,
    _running_mean,
    confusion_heat,
    contact_sheet,
    image_figure,
    loss_curves,
    principal_colours,
    singled_out,
)
from stages.parts.drawing.palette import palette


def test_all_but_the_region_is_paled() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    shown = singled_out(image, np.array([[3, 3], [0, 255]], np.uint8), 3)
    assert (shown[0] == 100).all() and (shown[1] == 208).all()
    assert singled_out(image, np.zeros((2, 2), np.uint8), 3) is image


def test_principal_colours_tell_two_kinds_of_token_apart() -> None:
    dense = np.zeros((4, 4, 8), np.float32)
    dense[:, :2, 0], dense[:, 2:, 1] = 1, 1
    colours = principal_colours(dense)
    assert colours.shape == (4, 4, 3)
    assert abs(int(colours[0, 0, 0]) - int(colours[0, 3, 0])) == 255
    assert (colours[:, 2:] == colours[0, 3]).all()


def test_running_mean_looks_back_only() -> None:
    np.testing.assert_allclose(_running_mean(np.array([1.0, 3, 5, 7]), 2), [1, 2, 4, 6])


@pytest.mark.parametrize("count", [1, 7])
def test_every_figure_is_a_png_that_grows_with_what_it_shows(count: int) -> None:
    image = np.full((20, 30, 3), 120, np.uint8)
    heats = [Heat("t", np.eye(4, dtype=np.float32), np.eye(20, 30) > 0) for _ in range(count)]
    figure = image_figure("head", image, [Panel("image", image)], {"teacher": heats}, {"dog": palette(["dog"])[0]})
    sheet = contact_sheet("head", {"first": [Panel("a\nb", image)] * count, "second": []})
    curves = loss_curves("head", [{"iteration": i, "lr": 1.0, "total": 5.0 - i, "global": 100.0**-i} for i in range(3)])
    sizes = [Image.open(io.BytesIO(data)).size for data in (figure, sheet, curves)]
    assert all(width > 300 and height > 100 for width, height in sizes)
    if count == 7:
        one = contact_sheet("head", {"first": [Panel("a", image)]})
        assert sizes[1][1] > Image.open(io.BytesIO(one)).size[1]


def test_a_confusion_matrix_shows_classes_with_pixels_only_and_shares_of_rows() -> None:
    names = [f"class {k}" for k in range(30)]
    counts = np.zeros((30, 30), np.int64)
    counts[:4, :4] = np.diag([10, 20, 30, 40])
    few = Image.open(io.BytesIO(confusion_heat(names, counts, 2)))
    counts[range(30), range(30)] = 5
    many = Image.open(io.BytesIO(confusion_heat(names, counts, 2)))
    assert many.width > few.width
    swapped = np.roll(counts, 1, axis=1)
    assert confusion_heat(names, counts, 2) != confusion_heat(names, swapped, 2)
    assert confusion_heat(names, counts, 2) == confusion_heat(names, 1000 * counts, 2)  # shares, not counts
