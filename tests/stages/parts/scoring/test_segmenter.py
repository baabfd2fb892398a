from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from stages.parts.scoring import segmenter
from stages.parts.scoring.segmenter import (
    ClassEmbeddings,
    Segmentation,
    Segmenter,
    SegmentOptions,
    argmax_at,
)


class Colours(nn.Module):
    """F = the normalised colours at stride 4: enough of a student to know what it should find."""

    divisor = 4

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 4)


WORDS = ClassEmbeddings(("red", "green", "blue"), torch.eye(3), (True, True, False))


def halves() -> np.ndarray:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48, 0] = 255
    image[:, 48:, 2] = 255
    return image


def made(size: int = 64, alpha: float = 1.0) -> Segmenter:
    return Segmenter(Colours(), size, alpha, torch.device("cpu"))


def test_each_half_gets_the_class_of_its_colour() -> None:
    labels = made().labels(halves(), WORDS, SegmentOptions())
    assert labels.shape == (64, 96) and labels.dtype == np.uint8
    assert (labels[:, :40] == 0).all() and (labels[:, 56:] == 2).all()


def test_bands_give_the_same_labels_as_one_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    for size in ((41, 53), (7, 9), (3, 4), (100, 9)):
        whole = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
        monkeypatch.setattr(segmenter, "BAND", 5 * size[1] * 3)  # three rows at once
        assert (argmax_at(scores, size) == whole).all(), size


def test_pixels_below_the_threshold_become_background() -> None:
    scores = torch.tensor([[[0.1, 3.0]], [[0.0, 1.0]]])  # best: 0.1 and 3.0
    assert argmax_at(scores, (1, 2)).tolist() == [[0, 0]]
    assert argmax_at(scores, (1, 2), least=0.5).tolist() == [[255, 0]]


def test_the_threshold_is_a_sigmoid_of_the_score_as_it_was_trained() -> None:
    image = np.full((64, 64, 3), 120, np.uint8)  # red's score is close to 0: the sigmoid is about a half
    score = (120 / 255 - 0.485) / 0.229
    words = ClassEmbeddings(("red",), torch.tensor([[1.0, 0, 0]]), (True,))
    for alpha in (1.0, 4.0):
        sigmoid = 1 / (1 + math.exp(-alpha * score))
        just_below, just_above = SegmentOptions(threshold=sigmoid - 0.01), SegmentOptions(threshold=sigmoid + 0.01)
        assert (made(alpha=alpha).labels(image, words, just_below) == 0).all()
        assert (made(alpha=alpha).labels(image, words, just_above) == 255).all()


def test_seen_bias_moves_pixels_to_classes_never_labelled() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    words = ClassEmbeddings(("red", "blue"), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), (False, True))
    assert (made().labels(image, words, SegmentOptions()) == 1).all()  # blue's normalised score is the higher one
    assert (made().labels(image, words, SegmentOptions(seen_bias=10.0)) == 0).all()


def test_a_large_picture_is_looked_at_in_tiles_and_gives_the_same_answer() -> None:
    wide = np.concatenate([halves()] * 6, axis=1)
    one = made()
    assert one._view(wide, SegmentOptions()).mode == "slide"
    assert one._view(halves(), SegmentOptions()).mode == "whole"
    tiled, whole = (one.labels(wide, WORDS, SegmentOptions(mode=m)) for m in ("slide", "whole"))
    assert (tiled == whole).mean() > 0.98


@pytest.mark.parametrize("values", [{"threshold": 1.0}, {"threshold": -0.1}, {"mode": "fast"}, {"short_side": -1}])
def test_impossible_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SegmentOptions.model_validate(values)


def test_areas_and_masks_count_what_is_there() -> None:
    labels = np.array([[0, 0, 2, 255]], np.uint8)
    found = Segmentation(np.zeros((1, 4, 3), np.uint8), labels, ("cat", "dog", "cow"))
    assert found.areas == {"cat": 0.5, "cow": 0.25}
    assert found.mask("cow").tolist() == [[False, False, True, False]]
    with pytest.raises(KeyError, match="horse"):
        found.mask("horse")


def test_an_overlay_leaves_the_background_as_it_is() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    shown = Segmentation(image, np.array([[0, 255]], np.uint8), ("cat",)).overlay(plain=True)
    assert shown[0, 1].tolist() == [100, 100, 100] and shown[0, 0].tolist() != [100, 100, 100]
