"""Claims about inference: sizes, windows, bias; against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cache.settings import IGNORE
from stages.parts.data.views import shrunk
from stages.parts.scoring.inference import (
    checked,
    class_scores,
    every_scores,
    label_map,
    pixel_counts,
    predicted,
    student_scorer,
    window_starts,
)
from stages.parts.scoring.metrics import confusion
from stages.parts.settings import EvaluateConfig
from stages.parts.students.inputs import normalised

CPU = torch.device("cpu")


def config(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"short_side": 32, "crop": 24, "stride": 16, **settings})


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def colours(pixels: Tensor) -> Tensor:
    """A scorer at stride 4: class k is the mean of channel k."""
    return F.avg_pool2d(pixels, 4)


@pytest.mark.parametrize(
    ("length", "crop", "stride", "starts"),
    [
        (512, 512, 426, [0]),
        (683, 512, 426, [0, 171]),
        (938, 512, 426, [0, 426]),
        (939, 512, 426, [0, 426, 427]),
        (100, 512, 426, [0]),  # smaller than the window
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_windows_lie_at_every_stride_and_flush_with_the_end(
    length: int, crop: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(length, crop, stride) == starts
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + crop] = True
    assert covered.all()


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (32, 32), (7, 90), (1, 1)])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_scores_come_at_the_images_own_size(size: tuple[int, int], mode: str) -> None:
    scores = class_scores(colours, photo(*size), config(mode=mode), 2, CPU)
    assert scores.shape == (3, *size) and scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert predicted(scores).shape == size


def test_the_short_side_is_brought_to_its_size_and_the_ratio_kept() -> None:
    asked: list[tuple[int, ...]] = []

    def spy(pixels: Tensor) -> Tensor:
        asked.append(tuple(pixels.shape))
        assert float(pixels.min()) >= 0 and float(pixels.max()) <= 255.01
        return colours(pixels)

    for size in ((40, 60), (60, 40), (16, 24)):
        class_scores(spy, photo(*size), config(), 2, CPU)
    assert asked == [(1, 3, 32, 48), (1, 3, 48, 32), (1, 3, 32, 48)]


def test_a_large_photo_is_averaged_before_it_becomes_floats() -> None:
    coarse = Image.fromarray(photo(5, 7))
    image = np.asarray(coarse.resize((707, 503), Image.Resampling.BICUBIC))
    seen: list[Tensor] = []

    def spy(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return colours(pixels)

    scores = class_scores(spy, image, config(short_side=40, mode="whole"), 2, CPU)
    assert scores.shape == (3, 503, 707)
    whole = torch.tensor(image).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(whole, (40, 56), mode="bilinear", antialias=True)
    assert seen[0].shape == wanted.shape and float((seen[0] - wanted).abs().mean()) < 1.5
    assert shrunk(image, 80).shape == (84, 118, 3) and shrunk(image, 300) is image


def test_slide_averages_overlapping_windows_like_a_plain_loop() -> None:
    calls = 0

    def uneven(pixels: Tensor) -> Tensor:  # scores that depend on the window they stand in
        nonlocal calls
        calls += 1
        return colours(pixels) + calls

    image, cfg = photo(32, 50), config(mode="slide")
    got = class_scores(uneven, image, cfg, 0, CPU)
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    total, count, number = torch.zeros(3, 32, 50, dtype=torch.float64), np.zeros((32, 50)), 0
    for y in (0, 8):
        for x in (0, 16, 26):
            number += 1
            window = F.avg_pool2d(pixels[:, :, y : y + 24, x : x + 24], 4) + number
            large = F.interpolate(window, (24, 24), mode="bilinear")[0].double()
            for i in range(24):
                for j in range(24):
                    total[:, y + i, x + j] += large[:, i, j]
                    count[y + i, x + j] += 1
    assert calls == number == 6
    torch.testing.assert_close(got.double(), total / torch.tensor(count), rtol=1e-6, atol=1e-4)


def test_one_window_over_the_whole_image_is_the_whole_mode() -> None:
    image = photo(32, 32)
    slide = class_scores(colours, image, config(mode="slide", crop=32, stride=32), 1, CPU)
    torch.testing.assert_close(slide, class_scores(colours, image, config(), 1, CPU))


def test_seen_bias_is_taken_off_seen_classes_alone() -> None:
    image = photo(32, 40)
    plain = class_scores(colours, image, config(), 2, CPU)
    biased = class_scores(colours, image, config(seen_bias=7.5), 2, CPU)
    torch.testing.assert_close(plain[:2] - 7.5, biased[:2])
    assert torch.equal(plain[2:], biased[2:])
    assert (predicted(biased) == 2).sum() > (predicted(plain) == 2).sum()


def test_the_student_scores_by_dot_products_of_normalised_input() -> None:
    text = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    pixels = torch.tensor(photo(4, 6)).permute(2, 0, 1)[None].float()
    scores = student_scorer(nn.Identity(), text)(pixels)
    features = normalised(pixels)[0]
    for k in range(5):
        for y in range(4):
            for x in range(6):
                wanted = sum(float(text[k, d]) * float(features[d, y, x]) for d in range(3))
                assert float(scores[0, k, y, x]) == pytest.approx(wanted, abs=1e-5)
    best = student_scorer(nn.Identity(), text, (0, 1, 1, 0, 2))(pixels)  # of each class's rows, in whatever order
    assert torch.equal(best, torch.stack([scores[:, rows].amax(1) for rows in ([0, 3], [1, 2], [4])], dim=1))


def test_the_prediction_is_the_class_of_the_highest_score() -> None:
    scores = torch.tensor([[[0.0, 3.0]], [[1.0, 2.0]], [[-1.0, 2.5]]])
    assert predicted(scores).tolist() == [[1, 0]]
    assert predicted(scores).dtype == np.uint8
    many = torch.zeros(200, 1, 1)
    many[190] = 1
    assert predicted(many).item() == 190


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    scores = class_scores(lambda p: colours(p) * weight, photo(8, 8), config(), 1, CPU)
    assert not scores.requires_grad


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_images_together_have_the_labels_of_each_alone(mode: str) -> None:
    images = [photo(40, 56), photo(30, 30), 255 - photo(40, 56), photo(56, 40)]
    cfg = config(mode=mode, seen_bias=3.0)
    together = {i: label_map(found) for i, found in every_scores(colours, images, cfg, 2, CPU)}
    assert len(together) == len(images)
    for i, image in enumerate(images):
        found = together[i]
        np.testing.assert_array_equal(found.numpy(), predicted(class_scores(colours, image, cfg, 2, CPU)))


def test_pixels_counted_on_the_device_are_the_confusion_matrix() -> None:
    random = np.random.default_rng(0)
    found, labels = (random.integers(0, 4, (9, 7), np.uint8) for _ in range(2))
    labels[random.random((9, 7)) < 0.3] = IGNORE
    counts = pixel_counts(torch.from_numpy(found), torch.from_numpy(labels), 4)
    np.testing.assert_array_equal(checked(counts.numpy(), labels, 4), confusion(found, labels, 4))
    labels[0, 0] = 4
    with pytest.raises(ValueError, match=r"1 pixels hold a value outside 0\.\.3"):
        checked(pixel_counts(torch.from_numpy(found), torch.from_numpy(labels), 4).numpy(), labels, 4)
