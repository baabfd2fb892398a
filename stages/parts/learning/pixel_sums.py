"""Focal, dice and cross-entropy of score maps, summed over pixels without keeping one map of the labels' size.

With 171 classes at 512 px such a map takes 2.7 GB at batch 16, and autograd would keep several. Here images are
brought to the labels' size a few at a time, in the forward pass for the sums and again in the backward pass for
their gradient in closed form; what is kept is the scores at the student's own stride and a few numbers a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
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


MASKED = -1e4
"""Score of a column that has no part: no probability, no gradient, and finite, so that it can be interpolated."""


def pixel_sums(
    logits: Tensor,
    labels: Tensor,
    ignored_are_negatives: bool,
    *,
    withheld: Tensor | None = None,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(focal, dice, cross-entropy) of scores [B, C, h, w] against labels int64 [B, H, W], column or 255.

    Scores are brought to H x W (bilinear). focal: mean over the image's pixels, summed over (b, c); dice: summed over
    the (b, c) that are present; cross-entropy: summed over the pixels that are not 255 (`losses` says which
    terms). Scalars of the scores' type; the gradient can be taken once. `withheld` bool [B, K_s]: seen classes of
    which an image's mask says nothing: their columns have no part in its pixels but those that are of another seen
    class. `compiled`: by torch.compile, which makes a few passes over the scores of some eighty, and takes a compiler
    and its time at the first step.
    """
    if not len(logits):  # a batch without a labelled photo: no number, and a gradient of 0 for whoever waits for one
        return logits.sum(), logits.sum(), logits.sum()
    sums: tuple[Tensor, Tensor, Tensor] = _PixelSums.apply(logits, labels, ignored_are_negatives, compiled, withheld)
    return sums


class Part(NamedTuple):
    """A few images at the labels' size, N = H * W pixels each: scores x [g, C, N], label or 0 [g, 1, N], whether there
    is one [g, N], whether the pixel counts for focal and dice [g, 1, N], how many do [g]."""

    images: slice
    x: Tensor
    column: Tensor
    labelled: Tensor
    counts: Tensor | None
    pixels: Tensor


def parts(
    logits: Tensor, labels: Tensor, ignored_are_negatives: bool, withheld: Tensor | None = None
) -> Iterator[Part]:
    """The images a few at a time, so many as `_ELEMENTS` allows."""
    size = labels.shape[1:]
    together = max(1, _ELEMENTS.get(logits.device.type, 2**20) // (logits.shape[1] * size.numel()))
    for first in range(0, len(logits), together):
        images = slice(first, first + together)
        x = logits[images]
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        x, flat = x.flatten(2), labels[images].flatten(1)
        if withheld is not None:
            unnamed = functional.pad(withheld[images], (0, x.shape[1] - withheld.shape[1]))[..., None]
            x = x.masked_fill(unnamed & (flat >= withheld.shape[1])[:, None], MASKED)
        labelled = flat != IGNORE
        counts = None if ignored_are_negatives else labelled[:, None].to(x.dtype)
        pixels = torch.full_like(flat[:, 0], flat.shape[1]) if counts is None else labelled.sum(dim=1).clamp(min=1)
        yield Part(images, x, torch.where(labelled, flat, 0)[:, None], labelled, counts, pixels)


def _softplus(x: Tensor, p: Tensor) -> Tensor:
    """log(1 + exp(x)) of x and p = sigmoid(x); torch's own takes as long as all the rest together on CPU."""
    return x.relu() - torch.maximum(p, 1 - p).log()


def _by_class(values: Tensor, part: Part) -> Tensor:
    """Sums of values [g, N] over the pixels of each class: [g, C]. Pixels without a label must be 0."""
    shape = part.x.shape[:2]
    if values.is_cuda:  # a comparison costs a compiled kernel nothing; thousands of threads adding to one number wait
        own = torch.arange(shape[1], device=values.device)[:, None] == part.column
        return torch.where(own, values[:, None], 0).sum(dim=2)
    sums = torch.zeros(shape, dtype=torch.float64, device=values.device)
    return sums.scatter_add_(1, part.column[:, 0], values.double()).to(values.dtype)


def forward_sums(part: Part) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The definition: focal, dice and cross-entropy of a part, and what the gradient wants to know again.

    That is the slopes of dice by a class's chances and by their overlap with its pixels, [g, C] each, and the
    logsumexp of each pixel's scores [g, N].
    """
    x, labelled = part.x, part.labelled
    p = x.sigmoid()
    # Every pixel as a negative first; the one class that it is a positive of is then exchanged.
    negative = p.square() * _softplus(x, p)
    if part.counts is not None:
        negative, p = negative * part.counts, p * part.counts
    own = x.gather(1, part.column)[:, 0]
    own_p, own_q = own.sigmoid(), (-own).sigmoid()
    positive, wrong = own_q.square() * _softplus(-own, own_q), own_p.square() * _softplus(own, own_p)
    exchanged = (FOCAL_ALPHA * positive - (1 - FOCAL_ALPHA) * wrong) * labelled
    focal = (((1 - FOCAL_ALPHA) * negative.sum(dim=(1, 2)) + exchanged.sum(dim=1)) / part.pixels).sum()

    size, overlap = _by_class(labelled.to(x.dtype), part), _by_class(own_p * labelled, part)
    above, below = 2 * overlap + DICE_SMOOTHING, p.sum(dim=2) + size + DICE_SMOOTHING
    dice = ((1 - above / below) * (size > 0)).sum()
    by_p, by_overlap = above / below.square() * (size > 0), 2 / below * (size > 0)

    lse = x.logsumexp(dim=1)
    return focal, dice, ((lse - own) * labelled).sum(), by_p, by_overlap, lse


def backward_sums(part: Part, kept: tuple[Tensor, ...], of: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The gradient of `forward_sums`'s three numbers, weighted by the scalars `of`, by x: [g, C, N].

    `kept`: the last three that it returned. None of them is stacked with another, nor the scalars: a compiler takes
    sizes that are equal once, as those of three classes and of three scalars, for one, and compiles again where not.
    """
    x, labelled, (by_p, by_overlap, lse) = part.x, part.labelled, kept
    of_focal, of_dice, of_ce = of
    scale = (of_focal / part.pixels)[:, None]
    p = x.sigmoid()
    q = 1 - p
    # d/dx p^2 softplus(x) = p^2 (2 q softplus(x) + p), and the mirror of it for a positive.
    grad = _softplus(x, p).mul_(q).mul_(2).add_(p).mul_(p).mul_(p).mul_((1 - FOCAL_ALPHA) * scale[..., None])
    # dp/dx = p q; dice falls with the overlap and grows with p.
    grad.add_(p.mul_(q).mul_(of_dice * by_p[..., None]))
    if part.counts is not None:
        grad.mul_(part.counts)
    grad.add_((x - lse[:, None]).exp_().mul_(of_ce * labelled[:, None]))

    own = x.gather(1, part.column)[:, 0]
    own_p, own_q = own.sigmoid(), (-own).sigmoid()
    wrong = own_p.square() * (2 * own_q * _softplus(own, own_p) + own_p)
    positive = -own_q.square() * (2 * own_p * _softplus(-own, own_q) + own_q)
    exchanged = scale * (FOCAL_ALPHA * positive - (1 - FOCAL_ALPHA) * wrong)
    exchanged = exchanged - of_dice * own_p * own_q * by_overlap.gather(1, part.column[:, 0])
    return grad.scatter_add_(1, part.column, ((exchanged - of_ce) * labelled)[:, None])


def gradient_at(grad: Tensor, small: torch.Size) -> Tensor:
    """The gradient by scores of shape `small` [g, C, h, w] from that by the same brought to [g, C, H, W] (bilinear)."""
    if not grad.is_cuda:
        found: Tensor = torch.ops.aten.upsample_bilinear2d_backward(grad, grad.shape[2:], small, False, None, None)
        return found
    # torch's kernel adds up atomically: a tenth of a step at stride 4 or 8, in another order each time.
    return by_products(grad, small)


def by_products(grad: Tensor, small: torch.Size) -> Tensor:
    """`gradient_at` as two products of matrices: what each row and each column of scores gave to those of the map."""
    rows, columns = (_shares(few, many, grad) for few, many in zip(small[2:], grad.shape[2:], strict=True))
    with torch.autocast(grad.device.type, enabled=False):
        return rows @ (grad @ columns.T)


def _shares(few: int, many: int, like: Tensor) -> Tensor:
    """[few, many]: the weight of each of `few` values in each of the `many` that they are interpolated to."""
    one_each = torch.eye(few, dtype=like.dtype, device=like.device)[None]
    return functional.interpolate(one_each, many, mode="linear", align_corners=False)[0]


@cache
def _kernels(compiled: bool) -> tuple[Any, Any]:
    """Both functions; compiled for any number of classes, since each batch has another number of latent ones."""
    if not compiled:
        return forward_sums, backward_sums
    return torch.compile(forward_sums, dynamic=True), torch.compile(backward_sums, dynamic=True)


class _PixelSums(torch.autograd.Function):
    """The sums with their gradient by hand: 1.2 to 1.9 times as fast on a processor as autograd with checkpoints, and
    what a compiler fuses into one pass. `clip2seg benchmark pixel-loss` prints both."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        ignored_are_negatives: bool,
        compiled: bool,
        withheld: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        forward, ctx.gradient = _kernels(compiled)
        found = [forward(part) for part in parts(logits, labels, ignored_are_negatives, withheld)]
        terms = list(zip(*found, strict=True))
        focal, dice, entropy = (torch.stack(sums).sum() for sums in terms[:3])
        ctx.save_for_backward(logits, labels, withheld, *(torch.cat(kept) for kept in terms[3:]))
        ctx.ignored_are_negatives = ignored_are_negatives
        return focal, dice, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_focal: Tensor, of_dice: Tensor, of_ce: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, labels, withheld, *kept = ctx.saved_tensors
        found, of = torch.empty_like(logits), (of_focal, of_dice, of_ce)
        for part in parts(logits, labels, ctx.ignored_are_negatives, withheld):
            own = tuple(each[part.images] for each in kept)
            grad = ctx.gradient(part, own, of).view(len(part.x), -1, *labels.shape[1:])
            small = logits[part.images].shape
            found[part.images] = grad if grad.shape == small else gradient_at(grad, small)
        return found, None, None, None, None
