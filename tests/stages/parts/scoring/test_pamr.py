"""Claims about PAMR, against plain loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.parts.scoring.inference import class_scores, coarse_scores
from stages.parts.scoring.pamr import pamr
from stages.parts.scoring.segmenter import ClassEmbeddings, Segmenter, SegmentOptions
from stages.parts.settings import EvaluateConfig

CPU = torch.device("cpu")


def by_loops(pixels: np.ndarray, scores: np.ndarray, rounds: int) -> np.ndarray:
    """The paper's section 3.3 with the public code's neighbours: [3, H, W], [K, H, W] -> [K, H, W]."""
    height, width = pixels.shape[1:]

    def near(y: int, x: int, *, itself: bool) -> list[tuple[int, int]]:
        found = []
        for distance in (8, 16):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if itself or dy or dx:
                        at = y + dy * distance, x + dx * distance
                        found.append((min(max(at[0], 0), height - 1), min(max(at[1], 0), width - 1)))
        return found

    weights = np.zeros((height, width, 16))
    for y in range(height):
        for x in range(width):
            every = [pixels[:, a, b] for a, b in near(y, x, itself=True)]
            deviation = [
                math.sqrt(sum((v[c] - sum(u[c] for u in every) / 18) ** 2 for v in every) / 17) for c in range(3)
            ]
            logits = []
            for a, b in near(y, x, itself=False):
                each = [abs(pixels[c, y, x] - pixels[c, a, b]) / (1e-8 + 0.1 * deviation[c]) for c in range(3)]
                logits.append(-sum(each) / 3)
            total = sum(math.exp(v) for v in logits)
            weights[y, x] = [math.exp(v) / total for v in logits]
    for _ in range(rounds):
        before, scores = scores, np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                for weight, (a, b) in zip(weights[y, x], near(y, x, itself=False), strict=True):
                    scores[:, y, x] += weight * before[:, a, b]
    return scores


def test_it_is_what_plain_loops_over_pixels_give() -> None:
    random = np.random.default_rng(0)
    pixels, scores = random.uniform(0, 255, (2, 3, 11, 19)), random.normal(0, 1, (2, 4, 11, 19))
    got = pamr(torch.from_numpy(pixels), torch.from_numpy(scores), 2)
    for image, own, found in zip(pixels, scores, got.numpy(), strict=True):
        np.testing.assert_allclose(found, by_loops(image, own, 2), rtol=1e-9, atol=1e-12)


def test_a_border_moves_to_where_the_colour_changes() -> None:
    pixels = torch.zeros(1, 3, 48, 48)
    pixels[..., 24:] = 200.0
    scores = torch.zeros(1, 2, 48, 48)
    scores[:, 0, :, :20], scores[:, 1, :, 20:] = 1.0, 1.0  # four columns short of the edge
    labels = pamr(pixels + torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)), scores, 10)[0].argmax(
        0
    )
    assert (labels[:, :24] == 0).all() and (labels[:, 24:] == 1).all()


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_evaluation_smooths_scores_at_the_resized_images_size(mode: str) -> None:
    image = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    plain = EvaluateConfig.model_validate({"mode": mode, "short_side": 32, "crop": 24, "stride": 16})
    smooth = plain.model_copy(update={"pamr": 3})

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 4)

    fine = coarse_scores(score, image[None], smooth, CPU)
    assert fine.shape == (1, 3, 32, 48)
    rough = torch.nn.functional.interpolate(coarse_scores(score, image[None], plain, CPU), (32, 48), mode="bilinear")
    square = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    seen = torch.nn.functional.interpolate(square, (32, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(fine, pamr(seen, rough, 3))
    assert class_scores(score, image, smooth, 1, CPU).shape == (3, 40, 60)


def test_a_prediction_smooths_as_evaluation_does() -> None:
    image = np.random.default_rng(4).integers(0, 256, (48, 48, 3), np.uint8)
    torch.manual_seed(0)
    student, text = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    made = Segmenter(student, 48, 1.0, CPU)
    words = ClassEmbeddings(tuple("abcde"), text, (True,) * 5)
    plain, smooth = (made.labels(image, words, SegmentOptions(pamr=n)) for n in (0, 5))

    def score(pixels: torch.Tensor) -> torch.Tensor:
        from stages.parts.scoring.inference import student_scorer

        return student_scorer(student, text)(pixels)

    wanted = class_scores(score, image, EvaluateConfig(short_side=48, pamr=5), 5, CPU).argmax(0)
    assert (smooth == wanted.numpy()).mean() > 0.999 and (smooth != plain).any()
