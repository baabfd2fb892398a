"""Focal, dice and cross-entropy of score maps, summed over pixels without keeping one map of the labels' size.

With 171 classes at 512 px such a map takes 2.7 GB at batch 16, and autograd would keep several. Here images are
brought to the labels' size a few at a time, in the forward pass for the sums and again in the backward pass for
their gradient in closed form; what is kept is the scores at the student's own stride and a few numbers a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cache.settings import IGNORE

FOCAL_ALPHA = 0.25
"""Weight of positives in the focal term, 1 - it of negatives (C)."""

DICE_SMOOTHING = 1.0
"""Added above and below in dice (C)."""

_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
"""Elements of a map that is worked on at a time: what a processor's cache holds; what keeps a GPU busy."""


def pixel_sums(logits: Tensor, labels: Tensor, ignored_are_negatives: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(focal, dice, cross-entropy) of scores [B, C, h, w] against labels int64 [B, H, W], column or 255.

    Scores are brought to H x W (bilinear). focal: mean over the image's pixels, summed over (b, c); dice: summed over
    the (b, c) that are present; cross-entropy: summed over the pixels that are not 255 (`losses` says which
    terms). Scalars of the scores' type; the gradient can be taken once.
    """
    sums: tuple[Tensor, Tensor, Tensor] = _PixelSums.apply(logits, labels, ignored_are_negatives)
    return sums


class _Part(NamedTuple):
    """A few images at the labels' size, N = H * W pixels each: scores x [g, C, N], label or 0 [g, 1, N], whether there
    is one [g, N], whether the pixel counts for focal and dice [g, 1, N], how many do [g]."""

    images: slice
    x: Tensor
    column: Tensor
    labelled: Tensor
    counts: Tensor | None
    pixels: Tensor


def _parts(logits: Tensor, labels: Tensor, ignored_are_negatives: bool) -> Iterator[_Part]:
    size = labels.shape[1:]
    together = max(1, _ELEMENTS.get(logits.device.type, 2**20) // (logits.shape[1] * size.numel()))
    for first in range(0, len(logits), together):
        images = slice(first, first + together)
        x = logits[images]
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        flat = labels[images].flatten(1)
        labelled = flat != IGNORE
        counts = None if ignored_are_negatives else labelled[:, None].to(x.dtype)
        pixels = torch.full_like(flat[:, 0], flat.shape[1]) if counts is None else labelled.sum(dim=1).clamp(min=1)
        yield _Part(images, x.flatten(2), torch.where(labelled, flat, 0)[:, None], labelled, counts, pixels)


def _softplus(x: Tensor, p: Tensor) -> Tensor:
    """log(1 + exp(x)) of x and p = sigmoid(x); torch's own takes as long as all the rest together on CPU."""
    return x.relu() - torch.maximum(p, 1 - p).log_()


class _PixelSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored_are_negatives: bool) -> tuple[Tensor, Tensor, Tensor]:
        focal = dice = cross_entropy = logits.new_zeros(())
        kept = []
        for part in _parts(logits, labels, ignored_are_negatives):
            x, p = part.x, part.x.sigmoid()
            target = torch.zeros_like(x, dtype=torch.bool).scatter_(1, part.column, part.labelled[:, None])
            # Every pixel as a negative first; the one class that it is a positive of is then exchanged.
            negative = p.square().mul_(_softplus(x, p))
            own, own_p = x.gather(1, part.column)[:, 0], p.gather(1, part.column)[:, 0]
            wrong = negative.gather(1, part.column)[:, 0]
            positive = (1 - own_p).square() * _softplus(-own, 1 - own_p)
            exchanged = FOCAL_ALPHA * positive - (1 - FOCAL_ALPHA) * wrong
            if part.counts is not None:
                negative, p = negative * part.counts, p * part.counts
            per_image = (1 - FOCAL_ALPHA) * negative.sum(dim=(1, 2)) + (exchanged * part.labelled).sum(dim=1)
            focal = focal + (per_image / part.pixels).sum()

            size = target.sum(dim=2)
            chance, overlap = p.sum(dim=2), torch.where(target, p, 0).sum(dim=2)
            above, below = 2 * overlap + DICE_SMOOTHING, chance + size + DICE_SMOOTHING
            dice = dice + ((1 - above / below) * (size > 0)).sum()
            kept.append(torch.stack([(above / below.square()) * (size > 0), (2 / below) * (size > 0)]))

            cross_entropy = cross_entropy + ((x.logsumexp(dim=1) - own) * part.labelled).sum()
        ctx.save_for_backward(logits, labels, torch.cat(kept, dim=1))
        ctx.ignored_are_negatives = ignored_are_negatives
        return focal, dice, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_focal: Tensor, of_dice: Tensor, of_ce: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, (by_p, by_overlap) = ctx.saved_tensors
        found = torch.empty_like(logits)
        for part in _parts(logits, labels, ctx.ignored_are_negatives):
            x, labelled = part.x, part.labelled
            p = x.sigmoid()
            q = 1 - p
            scale = (of_focal / part.pixels)[:, None]
            # d/dx p^2 softplus(x) = p^2 (2 q softplus(x) + p), and the mirror of it for a positive.
            grad = _softplus(x, p).mul_(q).mul_(2).add_(p).mul_(p).mul_(p)
            own, own_p, own_q = (m.gather(1, part.column)[:, 0] for m in (x, p, q))
            wrong = grad.gather(1, part.column)[:, 0]
            positive = -own_q.square() * (2 * own_p * _softplus(-own, 1 - own_p) + own_q)
            exchanged = scale * (FOCAL_ALPHA * positive - (1 - FOCAL_ALPHA) * wrong)
            grad.mul_((1 - FOCAL_ALPHA) * scale[..., None])
            # dp/dx = p q; dice falls with the overlap and grows with p.
            grad.add_(p.mul_(q).mul_(of_dice * by_p[part.images, :, None]))
            if part.counts is not None:
                grad.mul_(part.counts)
            exchanged -= of_dice * own_p * own_q * by_overlap[part.images].gather(1, part.column[:, 0])
            grad.add_(x.softmax(dim=1).mul_(of_ce * labelled[:, None]))
            grad.scatter_add_(1, part.column, ((exchanged - of_ce) * labelled)[:, None])
            grad = grad.view(len(x), -1, *labels.shape[1:])
            small = logits[part.images].shape
            if grad.shape != small:
                grad = torch.ops.aten.upsample_bilinear2d_backward(grad, labels.shape[1:], small, False, None, None)
            found[part.images] = grad
        return found, None, None
