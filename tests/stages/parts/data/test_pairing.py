"""Claims about photos and masks whose names differ by an affix."""

from __future__ import annotations

import pytest

from stages.parts.data.pairing import paired


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("{}", "{}"),
        ("{}", "{}_mask"),
        ("{}", "{}-labels"),
        ("{}", "mask_{}"),
        ("{}_image", "{}_mask"),
        ("img_{}", "mask_{}"),
        ("day__{}", "day__{}_L"),
    ],
)
def test_names_that_differ_by_one_affix_pair(photo: str, mask: str) -> None:
    keys = ["p1", "p2", "p10", "p11"]
    masks = {mask.format(k): f"{mask.format(k)}.png" for k in keys}
    assert paired([photo.format(k) for k in keys], masks) == {photo.format(k): f"{mask.format(k)}.png" for k in keys}


def test_an_affix_that_one_mask_lacks_leaves_that_photo_alone() -> None:
    masks = {f"p{i}_mask": f"p{i}_mask.png" for i in range(5)}
    assert sorted(paired([f"p{i}" for i in range(6)], masks)) == [f"p{i}" for i in range(5)]


def test_two_affixes_that_fit_alike_are_ambiguous() -> None:
    masks = {f"p{i}_{kind}": f"p{i}_{kind}.png" for i in range(4) for kind in ("mask", "edges")}
    assert paired([f"p{i}" for i in range(4)], masks) == {}


def test_equal_names_are_preferred() -> None:
    masks = {name: f"{name}.png" for name in ("p1", "p2", "p1_mask", "p2_mask")}
    assert paired(["p1", "p2"], masks) == {"p1": "p1.png", "p2": "p2.png"}


def test_a_number_is_no_prefix_of_a_longer_one() -> None:
    assert paired(["p1", "p2"], {"p10": "p10.png", "p2": "p2.png"}) == {"p2": "p2.png"}
