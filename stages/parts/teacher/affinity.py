"""Tokens of one image seen together: which are like which, which are outliers, means over alike or near ones.

What recipes (`recipes.py`) and the refinement of stored maps (`refine.py`) share. Every function treats each image of
a batch on its own. B images, N = h*w cells in rows, C channels; all float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 30
"""Neighbours that a token's local density is measured with (C: SC-CLIP)."""
OUTLIER_SHARE = 0.05
"""Share of an image's tokens taken for outliers (C: SC-CLIP)."""


def cosine_affinity(tokens: Tensor) -> Tensor:
    """Cosine of every two tokens of an image: [B, N, C] -> [B, N, N]."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def pooled_by(affinity: Tensor, tokens: Tensor, threshold: float) -> Tensor:
    """Each token the mean of all, weighted by its affinity above `threshold`: [B, N, N], [B, N, C] -> [B, N, C].

    A token without any affinity above the threshold (a zero vector) stays as it is.
    """
    weight = torch.where(affinity > threshold, affinity, 0.0)
    total = weight.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weight @ tokens / total.clamp_min(1e-12), tokens)


def local_outlier_factor(tokens: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Breunig's local outlier factor by euclidean distance: [B, N, C] -> [B, N]; about 1 for an ordinary token.

    The mean density of a token's `neighbours` nearest (N - 1 at most) over its own density; a density is the inverse
    mean of max(distance, the neighbour's own distance to its last neighbour).
    """
    count = min(neighbours, tokens.shape[1] - 1)
    tokens = tokens - tokens.mean(dim=1, keepdim=True)  # else their common part costs the small distances their digits
    distance = torch.cdist(tokens, tokens)
    distance.diagonal(dim1=1, dim2=2).fill_(math.inf)
    near, index = distance.topk(count, dim=-1, largest=False)
    flat = index.flatten(1)
    reach = torch.maximum(near, near[..., -1].gather(1, flat).view_as(near))
    density = 1 / (reach.mean(dim=-1) + 1e-10)
    return density.gather(1, flat).view_as(near).mean(dim=-1) / density


def outliers(tokens: Tensor) -> Tensor:
    """The tokens that stand most apart from their neighbours in value: [B, N, C] -> bool [B, N]."""
    count = tokens.shape[1]
    factor = local_outlier_factor(tokens)
    most = factor.topk(math.ceil(OUTLIER_SHARE * (count - 1)), dim=-1).indices
    return torch.zeros_like(factor, dtype=torch.bool).scatter_(1, most, True)


def repaired(tokens: Tensor, wrong: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens marked in `wrong` replaced by the mean of the unmarked among their 3x3 neighbours on the grid.

    [B, N, C], bool [B, N], (h, w) -> [B, N, C]. One without an unmarked neighbour stays as it is.
    """
    right = (~wrong).to(tokens.dtype).unsqueeze(-1)
    both = torch.cat((tokens * right, right), dim=-1).transpose(1, 2).unflatten(2, grid)
    summed = F.avg_pool2d(both, 3, stride=1, padding=1, divisor_override=1).flatten(2).transpose(1, 2)
    total, count = summed[..., :-1], summed[..., -1:]
    return torch.where(wrong.unsqueeze(-1) & (count > 0), total / count.clamp_min(1), tokens)
