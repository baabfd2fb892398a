from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from cache.settings import IGNORE
from stages.parts.data import views
from stages.parts.data.views import View, ViewsConfig, apply_cells, apply_image, apply_labels, draw, inside, whole

ROOT = Path(__file__).resolve().parents[4]
CFG = ViewsConfig(size=24)
GOLDEN = View(resized=(44, 58), crop=(8, 9, 32, 33), flip=True, seed=3988478786152893306)


def blocks(height: int, width: int, side: int = 6) -> np.ndarray:
    """Labels in blocks of `side` pixels: 0..249, so that 255 and the fill can't be mistaken for one."""
    rows, cols = np.arange(height) // side, np.arange(width) // side
    return ((rows[:, None] * 7 + cols[None, :] * 3) % 250).astype(np.uint8)


sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))
keys = st.tuples(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 300))


@settings(deadline=None)
@given(size=sizes, key=keys)
def test_labels_show_what_a_slow_reading_of_the_geometry_shows(
    size: tuple[int, int], key: tuple[int, str, int]
) -> None:
    labels = blocks(*size)
    view = draw(CFG, *key, size, labels)
    (height, width), (y0, x0, _, _) = view.resized, view.crop
    slow = np.full((24, 24), IGNORE, np.uint8)
    for i in range(24):
        for j in range(24):
            y, x = y0 + i, x0 + (23 - j if view.flip else j)
            if y < height and x < width:
                slow[i, j] = labels[(2 * y + 1) * size[0] // (2 * height), (2 * x + 1) * size[1] // (2 * width)]
    assert np.array_equal(apply_labels(labels, view), slow)


@settings(deadline=None)
@given(size=st.tuples(st.integers(30, 60), st.integers(30, 60)), key=keys)
def test_labels_and_image_move_together(size: tuple[int, int], key: tuple[int, str, int]) -> None:
    # Two halves, black and white: away from the border between them, colour tells the label.
    labels = np.zeros(size, np.uint8)
    labels[:, size[1] // 2 :] = 1
    labels[: size[0] // 3] = 0
    image = np.repeat(labels[..., None] * 255, 3, axis=2)
    view = draw(CFG, *key, size, labels)
    pixels, seen, shown = apply_image(image, view)[..., 0], apply_labels(labels, view), inside(view)
    sure = shown & ((pixels < 10) | (pixels > 245))
    assert np.array_equal(pixels[sure] > 127, seen[sure] == 1)
    assert sure.sum() > 0.5 * shown.sum()


@settings(deadline=None)
@given(size=sizes, key=keys, grid=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_cells_move_as_their_pixels_do(size: tuple[int, int], key: tuple[int, str, int], grid: tuple[int, int]) -> None:
    cells = np.arange(grid[0] * grid[1], dtype=np.uint8).reshape(grid)
    view = draw(CFG, *key, size, blocks(*size))
    rows, cols = (views.cell_index(n, pixels) for n, pixels in zip(grid, size, strict=True))
    assert np.array_equal(apply_cells(cells, size, view), apply_labels(cells[rows][:, cols], view))


@settings(deadline=None)
@given(size=sizes, key=keys)
def test_mirroring_is_an_involution_and_nothing_but_a_mirroring(
    size: tuple[int, int], key: tuple[int, str, int]
) -> None:
    labels = blocks(*size)
    image = np.repeat(labels[..., None], 3, axis=2)
    view = draw(CFG, *key, size, labels)
    other = replace(view, flip=not view.flip)
    assert np.array_equal(apply_image(image, other)[:, ::-1], apply_image(image, view))
    assert np.array_equal(apply_labels(labels, other)[:, ::-1], apply_labels(labels, view))
    assert np.array_equal(inside(other)[:, ::-1], inside(view))


@settings(deadline=None)
@given(size=sizes, key=keys)
def test_padding_is_ignored_and_wears_the_mean_colour(size: tuple[int, int], key: tuple[int, str, int]) -> None:
    labels = blocks(*size)
    image = np.stack([labels, 255 - labels, labels // 2], axis=2)
    view = draw(CFG, *key, size, labels)
    outside = ~inside(view)
    mean = np.floor(image.reshape(-1, 3).mean(axis=0) + 0.5)
    assert (apply_labels(labels, view)[outside] == IGNORE).all()
    assert (apply_labels(labels, view)[~outside] != IGNORE).all()
    assert np.abs(apply_image(image, view)[outside] - mean).sum() == 0


def test_an_image_smaller_than_the_crop_stands_in_its_corner() -> None:
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    view = View(resized=(2, 2), crop=(0, 0, 4, 4), flip=False, seed=0)
    I = IGNORE  # noqa: E741
    assert apply_labels(labels, view).tolist() == [[1, 2, I, I], [3, 4, I, I], [I, I, I, I], [I, I, I, I]]
    assert apply_labels(labels, replace(view, flip=True))[0].tolist() == [I, I, 2, 1]


def test_an_unscaled_crop_is_a_plain_slice_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    view = View(resized=(40, 50), crop=(7, 11, 31, 35), flip=False, seed=0)
    assert np.array_equal(apply_image(image, view), image[7:31, 11:35])


def test_the_resized_short_side_stays_within_the_scale_and_keeps_the_ratio() -> None:
    cfg = ViewsConfig(size=100, scale=(0.5, 2.0))
    shapes = [draw(cfg, 0, "a", v, (60, 90), blocks(60, 90)).resized for v in range(200)]
    shorts = [h for h, _ in shapes]
    assert 50 <= min(shorts) < 60 and 190 < max(shorts) <= 200
    assert all(abs(w - 1.5 * h) <= 1.25 for h, w in shapes)


def test_about_every_second_view_is_mirrored_and_none_without_flip() -> None:
    labels = blocks(40, 40)
    flips = [draw(CFG, 0, "a", v, (40, 40), labels).flip for v in range(400)]
    assert 150 < sum(flips) < 250
    still = ViewsConfig(size=24, flip=False)
    assert not any(draw(still, 0, "a", v, (40, 40), labels).flip for v in range(40))


def test_a_crop_that_one_class_fills_is_drawn_again() -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[:, 170:] = 1
    free, strict = ViewsConfig(size=50, scale=(4, 4), max_class_share=1), ViewsConfig(size=50, scale=(4, 4))

    def filled(cfg: ViewsConfig) -> int:
        crops = [apply_labels(labels, draw(cfg, 0, "a", v, (200, 200), labels)) for v in range(60)]
        return sum(max(np.mean(crop == 0), np.mean(crop == 1)) > 0.75 for crop in crops)

    assert filled(free) > 40 > 25 > filled(strict)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(20, 90), st.integers(20, 90)), count=st.integers(1, 4))
def test_the_crop_is_the_first_that_a_slow_count_accepts(seed: int, size: tuple[int, int], count: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, count, (9, 9)).astype(np.uint8).repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
    labels[random.random(size) < 0.3] = IGNORE
    cfg = ViewsConfig(size=24, max_class_share=0.5)
    view = draw(cfg, seed, "a", 0, size, labels)
    again = np.random.Generator(np.random.PCG64(view.seed))
    again.uniform(), again.random()
    for _ in range(10):
        y, x = (int(again.integers(max(side - 24, 0) + 1)) for side in view.resized)
        tried = apply_labels(labels, replace(view, crop=(y, x, y + 24, x + 24)))
        counts = [np.count_nonzero(tried == k) for k in range(count)]
        if sum(counts) and max(counts) <= 0.5 * sum(counts):
            break
    assert view.crop[:2] == (y, x)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("resized", [(41, 53), (90, 117), (97, 126), (181, 236)])
def test_both_ways_of_resizing_a_crop_show_the_same(resized: tuple[int, int], flip: bool) -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 117, 3), np.uint8)
    factors = [resized[0] / 90, resized[1] / 117]
    for y, x in ((0, 0), (3, 11), (resized[0] - 32, resized[1] - 32)):
        view = View(resized, (y, x, y + 32, x + 32), flip, 0)
        fast, near = views._cut_from_corner(image, view, factors), views._cut(image, view, factors)
        difference = np.abs(fast.astype(int) - near)
        assert difference.max() <= 2 and difference.mean() < 0.1
        assert any(np.array_equal(apply_image(image, view), one) for one in (fast, near))


def test_a_crop_far_inside_a_panorama_resizes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_cut_from_corner", None)  # it would resize 400 times as much as is seen
    apply_image(np.zeros((16, 4000, 3), np.uint8), View((32, 8000), (0, 6000, 24, 6024), False, 0))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_photo_decoded_at_a_fraction_shows_the_same_view(factor: int, flip: bool) -> None:
    random = np.random.default_rng(3)
    size = (203, 301)  # no multiple of the factor: a decoder rounds up
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    image = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    height, width = -(-size[0] // factor), -(-size[1] // factor)
    padded = np.pad(image, ((0, height * factor - size[0]), (0, width * factor - size[1]), (0, 0)), "edge")
    small = padded.reshape(height, factor, width, factor, 3).mean((1, 3)).round().astype(np.uint8)
    for crop in ((0, 0, 12, 12), (3, 13, 15, 25), (0, 0, 30, 30)):
        view = View(resized=(20, 30), crop=crop, flip=flip, seed=0)
        difference = apply_image(small, view, size).astype(int) - apply_image(image, view)
        assert np.abs(difference).mean() < 1.5 and np.abs(difference).max() < 16


def test_twice_what_a_view_is_resized_to_is_enough() -> None:
    assert views.least_size(View((20, 30), (0, 0, 8, 8), False, 0)) == (40, 60)


def test_an_image_of_one_class_or_of_none_still_gets_a_view() -> None:
    for value in (3, IGNORE):
        labels = np.full((30, 30), value, np.uint8)
        assert draw(CFG, 0, "a", 0, (30, 30), labels).crop[2:] != (0, 0)


def test_the_same_key_gives_the_same_view_in_another_process() -> None:
    code = (
        "import numpy as np; from stages.parts.data.views import *;"
        "l = (np.arange(1200).reshape(30, 40) // 100).astype(np.uint8);"
        "print([draw(ViewsConfig(size=24), 7, 'bild é', v, (30, 40), l) for v in range(5)])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    labels = (np.arange(1200).reshape(30, 40) // 100).astype(np.uint8)
    assert run.stdout.strip() == str([draw(CFG, 7, "bild é", v, (30, 40), labels) for v in range(5)])


def test_a_drawn_view_never_changes_between_releases() -> None:
    # Caches hold tokens of these views: a change here makes every cache of V views stale. Raise the schema then.
    assert draw(CFG, 7, "a", 3, (30, 40), blocks(30, 40)) == GOLDEN


def test_seed_image_and_view_number_each_change_the_view() -> None:
    seeds = [views.view_seed(0, "a", 0), views.view_seed(1, "a", 0), views.view_seed(0, "b", 0)]
    seeds += [views.view_seed(0, "a", 1), views.view_seed(1, "0a", 0), views.view_seed(10, "a", 0)]
    assert len(set(seeds)) == len(seeds)


def test_drawing_uses_no_shared_random_state() -> None:
    labels = blocks(40, 40)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    draw(CFG, 0, "a", 0, (40, 40), labels)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_views_stay_writable_for_torch() -> None:
    image = np.zeros((24, 24, 3), np.uint8)
    view = View((24, 24), (0, 0, 24, 24), False, 0)
    for array in (apply_image(image, view), apply_labels(image[..., 0], view), whole(image, 8)):
        assert array.flags.writeable and array.flags.c_contiguous


def test_the_whole_image_is_squashed_to_a_square() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 30:] = 200
    small = whole(image, 10)
    assert small.shape == (10, 10, 3)
    assert (small[:, :4] < 5).all() and (small[:, 6:] > 195).all()


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="labels of"):
        draw(CFG, 0, "a", 0, (30, 30), blocks(30, 31))


@pytest.mark.parametrize("bad", [(0.0, 1.0), (2.0, 0.5), (-1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_impossible_scales_are_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValidationError):
        ViewsConfig(scale=bad)


def test_a_scale_may_come_as_a_list_as_toml_gives_it() -> None:
    assert ViewsConfig.model_validate({"scale": [0.75, 1.5]}).scale == (0.75, 1.5)
