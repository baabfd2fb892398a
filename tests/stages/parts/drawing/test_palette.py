"""Claims about the colours of classes."""

from __future__ import annotations

import numpy as np
import pytest

from cache.settings import IGNORE
from stages.parts.data.vocabulary import load_vocabulary
from stages.parts.drawing.palette import lab, mask_colours, palette

NAMES = {name: load_vocabulary(name, split).ordered for name, split in (("demo", "official"), ("voc", "official"))}


def _closest(colours: np.ndarray, *, deuteranopia: bool) -> float:
    """The least CIELAB distance (Delta-E 1976) between two of the colours [K, 3]."""
    found = lab(colours, deuteranopia=deuteranopia)
    apart = np.linalg.norm(found[:, None] - found[None], axis=-1)
    return float(apart[~np.eye(len(found), dtype=bool)].min())


def test_lab_is_the_standards() -> None:
    red_white_grey = np.array([[255, 0, 0], [255, 255, 255], [119, 119, 119]], np.uint8)
    np.testing.assert_allclose(lab(red_white_grey), [[53.24, 80.09, 67.20], [100, 0, 0], [50.03, 0, 0]], atol=0.02)
    # Red and the dark yellow that it is to a deuteranope: far apart, and nearly one.
    pair = np.array([[255, 0, 0], [163, 144, 0]], np.uint8)
    assert _closest(pair, deuteranopia=False) > 60 and _closest(pair, deuteranopia=True) < 5


@pytest.mark.parametrize("preset", ["demo", "voc"])
def test_the_classes_of_a_vocabulary_lie_far_apart_for_every_reader(preset: str) -> None:
    names = NAMES[preset]
    colours = palette(names)[: len(names)]
    assert _closest(colours, deuteranopia=False) > 25
    assert _closest(colours, deuteranopia=True) > 19
    assert np.ptp(lab(colours)[:, 0]) > 60


def test_a_name_has_one_colour_in_every_order_and_vocabulary() -> None:
    first = ["cat", "fish", "a red kite", "zebra"]
    one, other = palette(first), palette(["zebra", "sky", "cat", "a red kite", "boat", "fish"])
    for name, k in (("zebra", 0), ("cat", 2), ("a red kite", 3), ("fish", 5)):
        assert one[first.index(name)].tolist() == other[k].tolist()


def test_no_two_names_share_a_colour_and_greys_are_no_class() -> None:
    names = [f"thing {i}" for i in range(200)]
    colours = palette(names)
    assert len({tuple(c) for c in colours[:200].tolist()}) == 200
    assert colours[200].tolist() == [90, 90, 90] and colours[IGNORE].tolist() == [225, 225, 225]


def test_seen_classes_keep_their_colours_and_latent_ids_have_others() -> None:
    seen = NAMES["demo"][:15]
    colours = mask_colours(seen)
    np.testing.assert_array_equal(colours[:15], palette(NAMES["demo"])[:15])
    np.testing.assert_array_equal(colours[IGNORE], palette(seen)[IGNORE])
    first = [tuple(c) for c in colours[: 15 + 30].tolist()]
    assert len(set(first)) == len(first)
