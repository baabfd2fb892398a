"""A trained student in use: an image and any class embeddings in, a label map out. No CLIP here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache.settings import Settings, ignore_index
from stages.parts.data.views import Array
from stages.parts.drawing.overlays import overlay, with_legend
from stages.parts.drawing.palette import palette
from stages.parts.scoring.inference import TOGETHER, as_labels, coarse_scores, label_type, student_scorer
from stages.parts.settings import EvaluateConfig

BAND = 2**24
"""Scores upsampled at once (64 MiB in float32), so that a large photo needs no [K, H, W] in memory."""


class SegmentOptions(Settings):
    """How a picture is resized, tiled and thresholded. The defaults are those of `clip2seg predict`."""

    mode: Literal["auto", "whole", "slide"] = "auto"
    """One pass over the whole picture, overlapping tiles, or (auto) tiles where it is larger than four of them."""

    short_side: int = Field(default=0, ge=0, le=16_384)
    """The picture is resized to this short side [pixels], ratio kept; 0: the run's training crop."""

    threshold: float = Field(default=0.0, ge=0, lt=1)
    """Pixels whose best class has a sigmoid score below this become background (255); 0: every pixel has a class."""

    seen_bias: float = 0.0
    """Subtracted from the scores of classes seen in training."""

    pamr: int = Field(default=0, ge=0, le=100)
    """Rounds of PAMR, which moves borders to where the colours change; 0: none."""


@dataclass(frozen=True)
class ClassEmbeddings:
    """Class names with their text embeddings [K, D], unit norm; `seen[k]`: labelled in training.

    `owners`: where a class has several rows, of which the best counts, the class of each row; `text` is then [R, D].
    """

    names: tuple[str, ...]
    text: Tensor
    seen: tuple[bool, ...]
    owners: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segmentation:
    """What a student found in one picture: `labels` uint8 [H, W], an index into `classes` or 255 = background.

    Of more than 254 classes `labels` is uint16 and the background 65535.
    """

    image: Array
    labels: Array
    classes: tuple[str, ...]

    @property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class found, largest first."""
        shares = [(name, float((self.labels == k).mean())) for k, name in enumerate(self.classes)]
        return dict(sorted((s for s in shares if s[1]), key=lambda s: -s[1]))

    def mask(self, name: str) -> Any:
        """Where a class is: bool [H, W]. Raises KeyError for a name that was not looked for."""
        if name not in self.classes:
            raise KeyError(f"{name!r} is not one of the classes looked for: {', '.join(self.classes)}")
        return self.labels == self.classes.index(name)

    @property
    def colours(self) -> Array:
        """The colour of each class in `overlay`: uint8 [K, 3] RGB."""
        return palette(self.classes)[: len(self.classes)]

    def overlay(self, strength: float = 0.6, *, plain: bool = False) -> Array:
        """The labels laid over the picture, uint8 [H, W, 3]; background keeps the picture.

        With contours, and names on large regions; `plain`: colours alone.
        """
        names = () if plain else self.classes
        table = palette(self.classes)
        return overlay(self.image, self.labels, table, strength, names=names, contours=not plain, pale=False)

    def with_legend(self, strength: float = 0.6) -> Array:
        """`overlay` above a strip with colour, name and area of each class found, largest first.

        uint8 [H + strip, W, 3]; W is 240 at least, so that a name fits; the background is listed where there is any.
        """
        colour = dict(zip(self.classes, self.colours, strict=True))
        entries = [(f"{name} {100 * share:.1f} %", colour[name]) for name, share in self.areas.items()]
        if background := float((self.labels == ignore_index(len(self.classes))).mean()):
            entries.append((f"(background) {100 * background:.1f} %", np.full(3, 255, np.uint8)))
        return with_legend(self.overlay(strength), entries)


class Segmenter:
    """A student on a device. `size`: side of its training crop; `alpha`: the factor its scores were trained with."""

    def __init__(self, student: nn.Module, size: int, alpha: float, device: torch.device) -> None:
        self.student, self.size, self.alpha, self.device = student.to(device).eval(), size, alpha, device

    def labels(self, image: Array, words: ClassEmbeddings, options: SegmentOptions) -> Array:
        """Class of each pixel of an image uint8 [H, W, 3]: uint8 [H, W], 255 = background.

        The same resizing, tiles and bilinear scores as `eval`; `short_side` 0 is the training crop.
        """
        return self.labels_of([image], words, options)[0]

    def labels_of(self, images: Sequence[Array], words: ClassEmbeddings, options: SegmentOptions) -> list[Array]:
        """`labels` of each image; on a GPU those of one size that follow each other are one pass of the network."""
        score, found = student_scorer(self.student, words.text.to(self.device), words.owners), list[Array]()
        for _, group in itertools.groupby(images, key=lambda image: image.shape):
            same, most = list(group), TOGETHER[self.device.type]
            for batch in (same[i : i + most] for i in range(0, len(same), most)):
                scores = coarse_scores(score, np.stack(batch), self._view(batch[0], options), self.device)
                found += [self._labels(one, image, words, options) for one, image in zip(scores, batch, strict=True)]
        return found

    def _labels(self, scores: Tensor, image: Array, words: ClassEmbeddings, options: SegmentOptions) -> Array:
        """Labels of one image from its coarse scores [K, h, w]."""
        if options.seen_bias:
            scores = scores - options.seen_bias * torch.tensor(words.seen, device=self.device)[:, None, None]
        # sigmoid is monotone, so the threshold can be applied to the raw scores.
        least = math.log(options.threshold / (1 - options.threshold)) / self.alpha if options.threshold else -math.inf
        return argmax_at(scores, (image.shape[0], image.shape[1]), least)

    def _view(self, image: Array, options: SegmentOptions) -> EvaluateConfig:
        short = options.short_side or self.size
        long = short * max(image.shape[:2]) / min(image.shape[:2])
        auto: Literal["slide", "whole"] = "slide" if short * long > 4 * self.size**2 else "whole"
        crop = max(self.size, 16)
        return EvaluateConfig(
            mode=auto if options.mode == "auto" else options.mode,
            short_side=max(short, 16),
            crop=crop,
            stride=crop - crop // 6,  # 426 of 512, as in evaluation
            pamr=options.pamr,
        )


def argmax_at(scores: Tensor, size: tuple[int, int], least: float = -math.inf) -> Array:
    """Best class at `size` = (H, W) of scores [K, h, w] upsampled bilinearly: uint8 [H, W]; 255 below `least`.

    Works in bands of rows: the same numbers as interpolating [K, H, W] at once, without its memory.
    """
    height, width = size
    rows = max(1, BAND // (scores.shape[0] * width))
    found = torch.empty(size, dtype=label_type(len(scores)), device=scores.device)  # to the host once, not band by band
    # F.interpolate's own rule with align_corners=False: pixel centres meet, edges repeat.
    centre = ((torch.arange(height, dtype=torch.float64) + 0.5) * scores.shape[1] / height - 0.5).clamp(min=0)
    upper = centre.floor().long().clamp(max=scores.shape[1] - 1)
    lower = (upper + 1).clamp(max=scores.shape[1] - 1)
    share = (centre - upper).to(scores)[:, None]
    upper, lower = upper.to(scores.device), lower.to(scores.device)  # once, not band by band
    for start in range(0, height, rows):
        band = slice(start, start + rows)
        mixed = scores[:, upper[band]] * (1 - share[band]) + scores[:, lower[band]] * share[band]
        wide = F.interpolate(mixed[None], (mixed.shape[1], width), mode="bilinear", align_corners=False)[0]
        best, label = wide.max(0)
        label[best < least] = ignore_index(len(scores))
        found[band] = label.to(found.dtype)
    return as_labels(found)
