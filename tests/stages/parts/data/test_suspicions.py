"""Claims about masks that decode and mean something else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stages.parts.data.suspicions import looks_binary, mask_values, suspicions


def scene(*values: int, background: int = 0) -> np.ndarray:
    """A mask of 96 x 128 with one block for each value."""
    mask = np.full((96, 128), background, np.uint8)
    for i, value in enumerate(values):
        mask[8 + 44 * (i // 5) : 40 + 44 * (i // 5), 4 + 24 * (i % 5) : 24 + 24 * (i % 5)] = value
    return mask


def found(masks: list[np.ndarray]) -> str:
    return "; ".join(suspicions([mask_values(mask) for mask in masks]))


def test_values_are_counted_with_what_lies_inside() -> None:
    mask = np.zeros((5, 6), np.int32)
    mask[1:4, 1:4] = 7
    counted = mask_values(mask)
    assert counted.pixels == {0: 21, 7: 9} and counted.inner == {7: 1}
    assert mask_values(mask * 10_000).pixels == {0: 21, 70_000: 9}


@pytest.mark.parametrize("how", ["rotated", "resized", "jpeg"])
def test_smoothed_masks_are_told_with_the_likely_cause(how: str) -> None:
    masks = []
    for i in range(12):
        image = Image.fromarray(scene(1 + i % 4, 3, 9, 40, 120))
        if how == "rotated":
            image = image.rotate(17, Image.Resampling.BICUBIC)
        elif how == "resized":
            image = image.resize((200, 150), Image.Resampling.BILINEAR)
        else:
            image.save(file := io.BytesIO(), "JPEG")
            image = Image.open(file)
        masks.append(np.asarray(image))
    assert "smoothed" in found(masks) and "nearest-neighbour" in found(masks)


def test_object_numbers_are_told_apart_from_classes() -> None:
    counting = [scene(*range(1, 2 + i % 6)) for i in range(12)]
    assert "object numbers" in found(counting)
    unique = [scene(*range(3 * i + 1, 3 * i + 4)) for i in range(12)]
    assert "object numbers" in found(unique)


def test_class_masks_raise_no_suspicion() -> None:
    assert found([scene(1, 2)] * 12) == ""
    assert found([scene(*np.random.default_rng(i).permutation(12)[:4] + 1) for i in range(12)]) == ""
    assert found([scene(7)]) == "" and found([]) == ""
    thin = scene(1, 2, 3)
    thin[::8] = 9  # one class of thin lines among solid ones
    assert found([thin] * 5) == ""


def test_nothing_but_0_and_255_looks_binary_until_255_has_a_name() -> None:
    masks = [mask_values(scene(255))]
    assert looks_binary(masks, [1]) and not looks_binary(masks, [255])
    assert not looks_binary([mask_values(scene(1, 255))], [])
