"""Claims about photometric distortion: what is drawn, and what it does to pixels, beside a slow reference."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from stages.parts.data.photometric import distorted, draw_distortion

NOTHING = (0.0, 1.0, 1.0, 0.0, 1.0)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 9, 11), np.uint8))


def changed(colour: tuple[float, ...], how: tuple[float, ...]) -> list[float]:
    """One colour under one distortion, by the whole pipeline."""
    pixel = torch.tensor(colour).view(1, 3, 1, 1)
    return distorted(pixel, torch.tensor([how])).flatten().tolist()


def slow(colour: tuple[float, ...], how: tuple[float, ...]) -> list[float]:
    """The public code's steps on one colour, through the standard library's HSV."""

    def clipped(values: list[float]) -> list[float]:
        return [min(max(v, 0.0), 255.0) for v in values]

    shift, before, saturation, turn, after = how
    levels = clipped([v * before for v in clipped([v + shift for v in colour])])
    hue, colourful, value = colorsys.rgb_to_hsv(*(v / 255 for v in levels))
    levels = [v * 255 for v in colorsys.hsv_to_rgb((hue + turn / 6) % 1, min(colourful * saturation, 1), value)]
    return clipped([v * after for v in levels])


def test_every_colour_comes_out_as_the_slow_reference_says() -> None:
    random = np.random.default_rng(1)
    colours = [(0, 0, 0), (255, 255, 255), (7, 7, 7), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (9, 200, 9)]
    colours += [tuple(c) for c in random.integers(0, 256, (60, 3)).tolist()]
    for seed in range(40):
        how = tuple(draw_distortion(seed).tolist())
        pixels = torch.tensor(colours, dtype=torch.uint8).T.reshape(1, 3, 1, -1)
        found = distorted(pixels, torch.tensor([how])).reshape(3, -1).T
        np.testing.assert_allclose(found, [slow(c, how) for c in colours], atol=2e-2, err_msg=f"seed {seed}")


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (NOTHING, (110, 240, 0)),
        ((32, 1, 1, 0, 1), (142, 255, 32)),  # brightness adds, and clips
        ((0, 1, 1, 0, 0.5), (55, 120, 0)),  # contrast scales
        ((-20, 1.5, 1, 0, 1), (135, 255, 0)),  # brightness first: 1.5 * (v - 20)
        ((0, 1, 0, 0, 1), (240, 240, 240)),  # no saturation leaves V, not the luma
        ((0, 1, 0.5, 0, 1), (175, 240, 120)),  # half of it: half the way to V
        ((0, 1, 1.5, 0, 1), (110, 240, 0)),  # S is 1 already, and no more
        ((0, 1, 1, 2, 1), (0, 110, 240)),  # a third of the circle: red to green, green to blue
    ],
)
def test_hand_worked_steps(how: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    assert changed((110.0, 240.0, 0.0), how) == pytest.approx(wanted, abs=1e-3)


def test_saturation_keeps_brightness_where_a_blend_with_the_luma_would_not() -> None:
    red, green, blue = changed((200.0, 60.0, 20.0), (0, 1, 0.5, 0, 1))
    assert (red, green, blue) == pytest.approx((200, 130, 110), abs=1e-3)  # S 0.9 -> 0.45, V 200


def test_contrast_before_saturation_is_not_contrast_after_it() -> None:
    # 1.5 * 200 is clipped at 255 first, so that S is taken off another V.
    assert changed((200.0, 100.0, 100.0), (0, 1.5, 0.5, 0, 1)) == pytest.approx((255, 202.5, 202.5), abs=1e-3)
    assert changed((200.0, 100.0, 100.0), (0, 1, 0.5, 0, 1.5)) == pytest.approx((255, 225, 225), abs=1e-3)


def test_what_happens_is_a_pure_function_of_the_seed() -> None:
    drawn = [draw_distortion(seed) for seed in range(50)]
    np.random.default_rng(0).random()
    np.testing.assert_array_equal(drawn, [draw_distortion(seed) for seed in range(50)])
    assert len({tuple(d) for d in drawn}) > 40 and drawn[0].dtype == np.float32


def test_each_kind_happens_half_of_the_time_within_its_published_range() -> None:
    drawn = np.array([draw_distortion(seed) for seed in range(4000)])
    shift, before, saturation, turn, after = drawn.T
    for happens in (shift != 0, (before != 1) | (after != 1), saturation != 1):
        assert abs(happens.mean() - 0.5) < 0.04  # five standard deviations
    assert not ((before != 1) & (after != 1)).any()
    assert abs((before != 1).mean() - (after != 1).mean()) < 0.05
    assert abs((drawn == NOTHING).all(1).mean() - 1 / 16) < 0.02
    assert shift.min() < -31 and shift.max() > 31 and np.abs(shift).max() <= 32
    assert saturation.min() < 0.51 and saturation.max() > 1.49
    steps = np.round(turn * 30).astype(int)  # 2 degrees each
    np.testing.assert_allclose(steps / 30, turn, atol=1e-6)
    assert set(steps) == set(range(-18, 18))


def test_a_crop_comes_out_the_same_whatever_else_is_in_its_batch() -> None:
    how = torch.from_numpy(np.stack([draw_distortion(seed) for seed in range(4)]))
    together = distorted(IMAGES, how)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], distorted(IMAGES[i : i + 1], how[i : i + 1]), rtol=0, atol=1e-4)
    assert torch.equal(together, distorted(IMAGES, how))
    assert together.min() >= 0 and together.max() <= 255


def test_the_levels_given_stay_as_they_are() -> None:
    before, floats = IMAGES.clone(), IMAGES.float()
    how = torch.tensor([[20, 1.2, 0.5, 1, 1]]).repeat(4, 1)
    torch.testing.assert_close(distorted(floats, how), distorted(IMAGES, how))
    assert torch.equal(IMAGES, before) and torch.equal(floats, before.float())
