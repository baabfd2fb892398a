"""The pixel loss: scores of seen and latent classes, NEL and cross-entropy (method.md section 4, Eq. 5).

float32 whatever autocast says. Labels Y_p [B, H, W]: column of the logits, 255 = ignore.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from cache.settings import IGNORE
from stages.parts.settings import PixelLossConfig as PixelLossConfig

FOCAL_ALPHA = 0.25
"""Weight of positives in the focal term, 1 - it of negatives (C)."""

DICE_SMOOTHING = 1.0
"""Added above and below in dice (C)."""

MASKED = -1e4
"""Score of a padded column: no probability, no gradient, and finite, so that it can be interpolated."""


def pixel_logits(
    features: Tensor, seen: Tensor, latent: Tensor | None, filled: Tensor | None, cfg: PixelLossConfig
) -> Tensor:
    """Eq. 5: cat(alpha * F^T A_s, beta * cos(F, A'_u)), float32 [B, K_s + L, h, w].

    F [B, D, h, w], A_s [K_s, D] unit norm, A'_u [B, L, D] with `filled` [B, L]: columns that are not filled
    score `MASKED` everywhere. `latent` None: seen classes alone.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        logits = cfg.alpha * torch.einsum("bdhw,kd->bkhw", features, seen.float())
        if latent is None or filled is None:
            return logits
        directions = functional.normalize(latent.float(), dim=2)
        # cos(F, A) = F^T A^ / |F|: dividing the few scores is cheaper than the D channels.
        length = features.norm(dim=1, keepdim=True).clamp(min=1e-6)
        cosine = torch.einsum("bdhw,bld->blhw", features, directions) / length
        return torch.cat([logits, (cfg.beta * cosine).masked_fill(~filled[..., None, None], MASKED)], dim=1)


def pixel_loss(logits: Tensor, masks: Tensor, cfg: PixelLossConfig) -> dict[str, Tensor]:
    """The terms of L_p, to be added up: {"focal", "dice", "cross_entropy"}, weighted, each finite.

    Logits [B, C, h, w] are brought to the size of Y_p [B, H, W] (bilinear). An id without a column (latent
    ones when latent embedding is off) counts as 255. With several processes all of them must call this.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = functional.interpolate(logits.float(), masks.shape[1:], mode="bilinear", align_corners=False)
        labels = masks.long()
        labels = torch.where(labels < logits.shape[1], labels, IGNORE)
        focal, dice = nel(logits, labels, cfg.ignored_are_negatives)
        return {
            "focal": cfg.focal_weight * focal,
            "dice": cfg.dice_weight * dice,
            "cross_entropy": cross_entropy(logits, labels),
        }


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not 255 (mean number over processes); 0 when there is none."""
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / _mean_over_ranks((labels != IGNORE).sum())


def nel(logits: Tensor, labels: Tensor, ignored_are_negatives: bool = True) -> tuple[Tensor, Tensor]:
    """The two terms of the non-mutually exclusive loss, unweighted: (focal, dice) of [B, C, H, W], [B, H, W].

    A sigmoid per class. focal: BCE * (1 - p_t)^2 * alpha_t, mean over the image's pixels, summed over (b, c).
    dice: 1 - (2 sum p t + 1) / (sum p + sum t + 1), summed over the (b, c) that are present. Both are divided
    by N_m, the number of present (b, c), its mean over processes, at least 1. Pixels of 255: negatives of every
    class in both terms, as in the public code, or left out of both.
    """
    ignored = labels == IGNORE
    pixels = torch.full_like(labels[:, 0, 0], labels[0].numel())
    if not ignored_are_negatives:
        logits = logits.masked_fill(ignored[:, None], MASKED)
        pixels = (~ignored).sum(dim=(1, 2)).clamp(min=1)
    target = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    size = target.sum(dim=(2, 3))
    present = size > 0
    count = _mean_over_ranks(present.sum())

    # 1 - p_t is sigmoid(-x) for a positive and sigmoid(x) for a negative, BCE the softplus of the same. Few maps
    # of this size are kept for the backward pass: with 171 classes at 512 px each takes 2.7 GB at batch 16.
    away = torch.where(target, -logits, logits)
    miss = away.sigmoid()
    focal = miss.square() * functional.softplus(away)
    positive = (focal * target).sum(dim=(2, 3))
    negative = focal.sum(dim=(2, 3)) - positive
    per_pixel = (FOCAL_ALPHA * positive + (1 - FOCAL_ALPHA) * negative) / pixels[:, None]

    # `miss` is p for negatives and 1 - p for positives: sum p t and sum p follow from its sums.
    missed = (miss * target).sum(dim=(2, 3))
    overlap = size - missed
    chance = miss.sum(dim=(2, 3)) - missed + overlap
    dice = 1 - (2 * overlap + DICE_SMOOTHING) / (chance + size + DICE_SMOOTHING)
    return per_pixel.sum() / count, (dice * present).sum() / count


def _mean_over_ranks(count: Tensor) -> Tensor:
    """A count's mean over the processes, at least 1: gradients averaged over them then equal one process's."""
    count = count.float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)
