"""Claims about photometric distortion."""

from __future__ import annotations

import numpy as np
import pytest

from stages.parts.data import photometric
from stages.parts.data.photometric import distorted

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
GREY = np.repeat(np.arange(60, 188, dtype=np.uint8)[None, :, None], 3, axis=2)


def test_it_is_a_pure_function_of_image_and_seed() -> None:
    before = IMAGE.copy()
    for seed in range(5):
        first = distorted(IMAGE, seed)
        assert first.shape == IMAGE.shape and first.dtype == np.uint8
        np.testing.assert_array_equal(first, distorted(IMAGE, seed))
    np.testing.assert_array_equal(IMAGE, before)


def test_each_step_happens_half_of_the_time() -> None:
    same = sum(np.array_equal(distorted(IMAGE, seed), IMAGE) for seed in range(400))
    assert 10 <= same <= 42  # 1/16 of 400 is 25, standard deviation 4.8


def test_a_grey_image_stays_grey_within_the_published_range() -> None:
    """Saturation and hue leave grey alone, so what remains is contrast * (level +- 32), or that shifted."""
    mean = GREY.mean()
    for seed in range(60):
        out = distorted(GREY, seed).astype(int)
        assert np.ptp(out, axis=2).max() <= 1
        low, high = 0.5 * (mean - 32), min(255.0, 1.5 * (mean + 32))
        assert low - 2 <= out.mean() <= high + 2


class Fixed:
    """A generator that takes every step, or the one named, with given numbers."""

    def __init__(self, coins: list[float], values: list[float]) -> None:
        self.coins, self.values = iter(coins), iter(values)

    def random(self) -> float:
        return next(self.coins)

    def uniform(self, *_: float) -> float:
        return next(self.values)

    def integers(self, *_: int, endpoint: bool = False) -> int:
        assert endpoint
        return int(next(self.values))


@pytest.mark.parametrize(
    ("coins", "values", "wanted"),
    [
        ([0, 1, 1, 1, 1], [32.0], [[142, 255, 32]]),  # brightness adds, and clips
        ([1, 0, 1, 1, 0], [0.5], [[55, 120, 0]]),  # contrast scales
        ([0, 0, 1, 1, 0], [-20.0, 1.5], [[135, 255, 0]]),  # brightness first: 1.5 * (v - 20)
        ([1, 1, 0, 1, 1], [0.0], [[174, 174, 174]]),  # no saturation leaves the luma 0.299, 0.587, 0.114
        ([1, 1, 1, 0, 1], [0.0], [[110, 240, 0]]),  # hue turned by nothing
    ],
)
def test_hand_worked_steps(
    monkeypatch: pytest.MonkeyPatch, coins: list[float], values: list[float], wanted: list[list[int]]
) -> None:
    monkeypatch.setattr(photometric.np.random, "default_rng", lambda _: Fixed(coins, values))
    out = distorted(np.array([[[110, 240, 0]]], np.uint8), 0)
    assert out[0].tolist() == wanted


def test_hue_turns_red_towards_yellow_by_its_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photometric.np.random, "default_rng", lambda _: Fixed([1, 1, 1, 0, 1], [18.0]))
    red, green, blue = (int(v) for v in distorted(np.array([[[255, 0, 0]]], np.uint8), 0)[0, 0])
    # 18 of 180 is 36 degrees: red 1, green 36 / 60 = 0.6
    assert (red, blue) == (255, 0) and abs(green - 153) <= 6
