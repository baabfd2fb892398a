from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.regions import annotated_share, present_regions, pseudo_mask, region_crops
from stages.parts.data.views import ViewsConfig, apply_labels, cell_index, draw

I = IGNORE  # noqa: E741
sides = st.integers(1, 12)
maps = hnp.arrays(np.uint8, st.tuples(sides, sides), elements=st.sampled_from([0, 1, 2, IGNORE]))


def slow_share(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Plain loops: area of each pixel's overlap with each cell, summed over labelled pixels."""
    (height, width), (h, w) = labels.shape, grid
    share = np.zeros(grid)
    for r in range(h):
        for c in range(w):
            for y in range(height):
                for x in range(width):
                    tall = min((r + 1) * height / h, y + 1) - max(r * height / h, y)
                    wide = min((c + 1) * width / w, x + 1) - max(c * width / w, x)
                    if labels[y, x] != IGNORE and tall > 0 and wide > 0:
                        share[r, c] += tall * wide / (height / h * width / w)
    return share


def test_a_pixel_on_a_cell_border_counts_with_the_part_inside() -> None:
    # Three pixels over two cells: each cell is one pixel and a half.
    assert annotated_share(np.array([[0, I, I]], np.uint8), (1, 2)).tolist() == [[np.float32(2 / 3), 0.0]]
    assert annotated_share(np.array([[I, 0, I]], np.uint8), (1, 2)).tolist() == [[np.float32(1 / 3)] * 2]


def test_shares_of_whole_cells_are_plain_counts() -> None:
    labels = np.full((4, 4), IGNORE, np.uint8)
    labels[0, 0] = labels[2:, 2:] = 5
    assert annotated_share(labels, (2, 2)).tolist() == [[0.25, 0.0], [0.0, 1.0]]


@settings(deadline=None)
@given(labels=maps, grid=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_shares_agree_with_plain_loops(labels: np.ndarray, grid: tuple[int, int]) -> None:
    share = annotated_share(labels, grid)
    assert share.dtype == np.float32
    np.testing.assert_allclose(share, slow_share(labels, grid), atol=1e-6)
    assert share.mean() == pytest.approx((labels != IGNORE).mean(), abs=1e-6)


@given(size=st.tuples(st.integers(1, 400), st.integers(1, 400)), grid=st.tuples(sides, sides))
def test_shares_of_fully_and_never_labelled_images_are_exactly_one_and_zero(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert (annotated_share(np.zeros(size, np.uint8), grid) == 1).all()
    assert (annotated_share(np.full(size, IGNORE, np.uint8), grid) == 0).all()


def test_a_pseudo_mask_by_hand() -> None:
    labels = np.array([[0, I, I, I], [I, I, 2, I]], np.uint8)
    cells = np.array([[1, I]], np.uint8)
    assert pseudo_mask(labels, cells, num_seen=3).tolist() == [[0, 4, I, I], [4, 4, 2, I]]


@settings(deadline=None)
@given(labels=maps, cells=hnp.arrays(np.uint8, st.tuples(sides, sides), elements=st.sampled_from([0, 1, 7, I])))
def test_a_pseudo_mask_never_overwrites_an_annotated_pixel(labels: np.ndarray, cells: np.ndarray) -> None:
    mask = pseudo_mask(labels, cells, num_seen=3)
    annotated = labels != IGNORE
    assert np.array_equal(mask[annotated], labels[annotated])
    assert not np.isin(mask[~annotated], [0, 1, 2]).any()
    assert set(present_regions(mask)) <= {0, 1, 2, 3, 4, 10}


@settings(deadline=None)
@given(
    labels=maps,
    cells=hnp.arrays(np.uint8, st.tuples(sides, sides), elements=st.sampled_from([0, 1, I])),
    key=st.tuples(st.integers(0, 9), st.text(max_size=3), st.integers(0, 9)),
)
def test_a_view_of_the_pseudo_mask_is_the_pseudo_mask_of_the_view(
    labels: np.ndarray, cells: np.ndarray, key: tuple[int, str, int]
) -> None:
    size = labels.shape[0], labels.shape[1]
    view = draw(ViewsConfig(size=16), *key, size, labels)
    rows, columns = (cell_index(n, side) for n, side in zip(cells.shape, size, strict=True))
    of_view = pseudo_mask(apply_labels(labels, view), apply_labels(cells[rows][:, columns], view), 3)
    assert np.array_equal(apply_labels(pseudo_mask(labels, cells, 3), view), of_view)


def test_more_classes_than_a_byte_holds_are_refused() -> None:
    labels, cells = np.full((1, 1), IGNORE, np.uint8), np.zeros((1, 1), np.uint8)
    assert pseudo_mask(labels, cells, num_seen=253).tolist() == [[253]]
    with pytest.raises(InputError, match="254 at most"):
        pseudo_mask(labels, cells, num_seen=254)


def test_present_regions_are_ascending_and_without_ignore() -> None:
    assert present_regions(np.array([[I, 9], [0, 9], [4, I]], np.uint8)) == [0, 4, 9]
    assert present_regions(np.full((2, 2), IGNORE, np.uint8)) == []


def test_a_region_crop_is_its_tight_box_with_the_mean_outside() -> None:
    image = np.zeros((6, 6, 3), np.uint8)
    image[1:4, 2:5] = (240, 120, 60)  # a quarter of the image, so the mean is (60, 30, 15)
    mask = np.full((6, 6), IGNORE, np.uint8)
    mask[1:4, 2:5] = 7
    mask[3, 4] = IGNORE
    crop = region_crops(image, mask, [7], 3)[0]  # the box is 3 x 3 already
    inside, outside = [240, 120, 60], [60, 30, 15]
    assert crop.tolist() == [[inside] * 3, [inside] * 3, [inside, inside, outside]]


def test_a_crop_shows_nothing_of_what_lies_outside_its_region() -> None:
    image = np.full((30, 30, 3), 100, np.uint8)
    mask = np.full((30, 30), IGNORE, np.uint8)
    mask[5:15, 5:15] = 1
    mask[8:10, 8:10] = IGNORE
    changed = image.copy()
    changed[8:10, 8:10] = (0, 200, 100)
    changed[20:, 20:22] = (200, 0, 100)
    changed[25:, 25:27] = (200, 200, 100)
    changed[25:, 28:30] = (0, 0, 100)
    both = [region_crops(i, mask, [1], 16) for i in (image, changed)]
    assert np.abs(both[0].astype(int) - both[1]).max() <= 2  # the mean moved by a little; the region did not


def test_a_region_of_one_pixel_fills_its_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    mask = np.full((9, 9), IGNORE, np.uint8)
    mask[3, 8] = 0
    assert (region_crops(image, mask, [0], 12)[0] == image[3, 8]).all()


def test_crops_come_in_the_order_of_the_ids_and_none_is_fine() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 200
    mask = np.array([[0, 0, 5, 5]] * 4, np.uint8)
    crops = region_crops(image, mask, [5, 0], 3)
    assert (crops[0] == 200).all() and (crops[1] == 0).all()
    assert region_crops(image, mask, [], 3).shape == (0, 3, 3, 3)


def test_an_absent_region_and_a_mask_of_another_size_are_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="region 3 has no pixel"):
        region_crops(image, np.zeros((4, 4), np.uint8), [3], 8)
    with pytest.raises(ValueError, match="mask of"):
        region_crops(image, np.zeros((4, 5), np.uint8), [0], 8)
