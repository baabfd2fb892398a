"""The pixel loss: scores of seen and latent classes, NEL and cross-entropy (method.md section 4, Eq. 5).

float32 whatever autocast says. Labels Y_p [B, H, W]: column of the logits, 255 = ignore.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cache.settings import IGNORE
from stages.parts.learning.distributed import mean_count
from stages.parts.learning.pixel_sums import MASKED, pixel_sums
from stages.parts.settings import PixelLossConfig as PixelLossConfig


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


def pixel_loss(
    logits: Tensor,
    masks: Tensor,
    cfg: PixelLossConfig,
    *,
    withheld: Tensor | None = None,
    compiled: bool = False,
) -> dict[str, Tensor]:
    """The terms of L_p, to be added up: {"focal", "dice", "cross_entropy"}, weighted, each finite.

    Logits [B, C, h, w] are brought to the size of Y_p [B, H, W] (bilinear). An id without a column (latent
    ones when latent embedding is off) counts as 255. With several processes all of them must call this. `withheld`
    and `compiled`: as for `pixel_sums`.
    """
    labels = masks.long()
    labels = torch.where(labels < logits.shape[1], labels, IGNORE)
    focal, dice, entropy = unweighted_terms(
        logits, labels, cfg.ignored_are_negatives, withheld=withheld, compiled=compiled
    )
    return {"focal": cfg.focal_weight * focal, "dice": cfg.dice_weight * dice, "cross_entropy": entropy}


def unweighted_terms(
    logits: Tensor,
    labels: Tensor,
    ignored_are_negatives: bool = True,
    *,
    withheld: Tensor | None = None,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(focal, dice, cross-entropy) of [B, C, h, w] against int64 [B, H, W]; the first two make up NEL.

    NEL, the non-mutually exclusive loss, has a sigmoid per class. focal: BCE * (1 - p_t)^2 * alpha_t, mean over the
    image's pixels, summed over (b, c). dice: 1 - (2 sum p t + 1) / (sum p + sum t + 1), summed over the (b, c) that
    are present. Both are divided by N_m, the number of present (b, c), at least 1, its mean over processes. Pixels of
    255: negatives of every class in both terms, as in the public code, or left out of both. Cross-entropy: mean over
    the pixels that are not 255 (mean number over processes); 0 when there is none.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits if logits.dtype == torch.float64 else logits.float()
        focal, dice, entropy = pixel_sums(scores, labels, ignored_are_negatives, withheld=withheld, compiled=compiled)
        # An image's labels as (b, c) pairs: how many differ. No loop over classes, no wait for the device.
        pairs = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
        pairs.scatter_(1, labels.flatten(1), True)
        present = mean_count(pairs[:, :IGNORE].sum())
        return focal / present, dice / present, entropy / mean_count((labels != IGNORE).sum())
