"""Polygons and run lengths against COCO's own library, and what damaged ones are refused for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as theirs

from stages.parts.data.formats.drawing import Region, compose, decode_runs, polygon, union

SIZE = (40, 50)


def on_canvas(region: Region | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    canvas = np.zeros(size, bool)
    if region is not None:
        height, width = region.inside.shape
        canvas[region.top : region.top + height, region.left : region.left + width] = region.inside
    return canvas


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_run_lengths_are_read_as_cocos_library_reads_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    inside = random.random(SIZE) < random.random()
    packed = theirs.encode(np.asfortranarray(inside, np.uint8))
    assert (decode_runs(packed["counts"].decode(), SIZE) == inside).all()
    flat = inside.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    assert (decode_runs(counts, SIZE) == inside).all()


@pytest.mark.parametrize("counts", ["", "0", "zzzz", "PPYo0", "é", "o" * 99, [50], [-1, 2001], [2**40], ["x"], None])
def test_damaged_run_lengths_are_refused(counts: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_runs(counts, SIZE)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_polygon_covers_the_pixels_whose_centres_it_encloses() -> None:
    random = np.random.default_rng(0)
    differing = total = 0
    for _ in range(50):
        angles = np.sort(random.uniform(0, 2 * np.pi, 7))
        radius = random.uniform(8, 24, 7)
        points = [(25 + r * np.cos(a), 20 + r * np.sin(a)) for a, r in zip(angles, radius, strict=True)]
        coco = theirs.decode(theirs.merge(theirs.frPyObjects([np.ravel(points).tolist()], *SIZE))).astype(bool)
        ours = on_canvas(polygon(1, points, SIZE))
        differing += int((ours ^ coco).sum())
        total += int(coco.sum())
    assert differing < 0.02 * total  # COCO's rule moves an edge by less than a pixel
    box = on_canvas(polygon(1, [(-5, 3), (7, 3), (7, 99), (-5, 99)], SIZE))
    assert box[3:, :7].all() and box.sum() == 37 * 7
    assert polygon(1, [(60, 3), (70, 3), (70, 9)], SIZE) is None


@pytest.mark.parametrize("points", [[(1, 1), (2, 2)], [(1, 1), (2, float("nan")), (3, 3)], [(0, 0), (1e9, 0), (0, 9)]])
def test_an_impossible_polygon_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="corner"):
        polygon(1, points, SIZE)


def test_the_smaller_object_is_in_front_and_overlaps_are_counted() -> None:
    large = Region(1, 0, 0, np.ones((20, 20), bool))
    small = Region(2, 5, 5, np.ones((4, 4), bool))
    for order in ([large, small], [small, large]):
        drawing = compose(order, SIZE)
        assert drawing.overlapped == 16 and (drawing.values[5:9, 5:9] == 2).all() and (drawing.values == 1).sum() == 384
    assert compose([large, Region(1, 5, 5, small.inside)], SIZE).overlapped == 0
    both = union([small, None, Region(2, 30, 30, np.ones((2, 3), bool))])
    assert on_canvas(both).sum() == 16 + 6
