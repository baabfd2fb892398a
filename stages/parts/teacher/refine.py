"""Refinement of a stored dense map: [refine] and [affinity] at work, for any teacher and recipe (docs/teachers.md).

h w token grid, N = h*w, D embedding size, C channels of the map of features (which has its own grid).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.parts.settings import AffinityConfig, RefineConfig, reads_network
from stages.parts.teacher.affinity import cosine_affinity, outliers, pooled_by, repaired

PROXY_SCALE, PROXY_SHIFT = 3.0, 1.2
"""ProxyCLIP's gamma and beta."""


@dataclass(frozen=True)
class Refiner:
    """What becomes of a stored map before it is mined, scored or drawn; by default nothing.

    `features`: the map that [affinity] names, of the same view, wanted where `needs_features`.
    """

    refine: RefineConfig = field(default_factory=RefineConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)

    @property
    def needs_features(self) -> bool:
        """Whether mining reads the features of [affinity]."""
        return reads_network(self.refine, self.affinity)

    @property
    def _refines(self) -> bool:
        return self.refine.outliers or self.refine.affinity != "none"

    def tokens(self, dense: Tensor, features: Tensor | None = None) -> Tensor:
        """Dense tokens [B, h, w, D] and, where wanted, features [B, h', w', C] -> refined tokens [B, h, w, D]."""
        grid, rows = (dense.shape[1], dense.shape[2]), dense.flatten(1, 2)
        if self.refine.outliers:
            rows = repaired(rows, outliers(rows), grid)
        if self.refine.affinity != "none":
            own = rows if self.refine.affinity == "tokens" else on_grid(features, grid).flatten(1, 2)
            alike = cosine_affinity(own)
            if self.refine.form == "threshold":
                rows = pooled_by(alike, rows, self.refine.threshold)
            else:
                rows = proxy_attention(alike) @ rows
        return rows.unflatten(1, grid)

    def stored(self, dense: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """`tokens` of one view as the cache holds it: [h, w, D], [h', w', C] -> float32 [h, w, D]."""
        if not self._refines:
            return _floats(dense).numpy()
        found = None if features is None else _floats(features)[None]
        with torch.no_grad():
            return self.tokens(_floats(dense)[None], found)[0].numpy()

    def cells(
        self, dense: np.ndarray, features: np.ndarray | None = None, only: np.ndarray | None = None
    ) -> np.ndarray:
        """What mining clusters, one view: the refined tokens and, by `kmeans_weight`, the features: [h, w, D (+ C)].

        With `only` (bool [h, w]) those cells alone: [n, D (+ C)].

        Unit tokens and unit features side by side, each scaled by the root of its weight: the cosine of two cells is
        the weighted mean of both cosines.
        """
        if only is not None:
            plain = not (self._refines or self.affinity.kmeans_weight)
            return _floats(dense[only]).numpy() if plain else self.cells(dense, features)[only]
        tokens, weight = self.stored(dense, features), self.affinity.kmeans_weight
        if not weight:
            return tokens
        assert features is not None
        on = on_grid(_floats(features)[None], (tokens.shape[0], tokens.shape[1]))[0]
        parts = (math.sqrt(1 - weight) * F.normalize(torch.from_numpy(tokens), dim=-1), math.sqrt(weight) * on)
        return torch.cat(parts, dim=-1).numpy()


def _floats(tokens: np.ndarray) -> Tensor:
    """Stored tokens as float32: torch converts from float16 ten times as fast as numpy does."""
    return torch.from_numpy(np.ascontiguousarray(tokens)).float()


def on_grid(features: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """Unit features on the teacher's grid: [B, h', w', C] -> [B, h, w, C], bilinear, antialiased."""
    assert features is not None
    unit = F.normalize(features, dim=-1).permute(0, 3, 1, 2)
    if unit.shape[2:] != grid:
        unit = F.interpolate(unit, grid, mode="bilinear", antialias=True, align_corners=False)
    return F.normalize(unit.permute(0, 2, 3, 1), dim=-1)


def proxy_attention(affinity: Tensor) -> Tensor:
    """ProxyCLIP's weights from cosines [B, N, N]: softmax(gamma (s - beta mean s)), what is below 0 left out.

    A token always counts for itself.
    """
    logits = PROXY_SCALE * (affinity - PROXY_SHIFT * affinity.mean(dim=(1, 2), keepdim=True))
    itself = torch.eye(affinity.shape[1], dtype=torch.bool, device=affinity.device)
    return logits.masked_fill((logits < 0) & ~itself, -math.inf).softmax(dim=-1)
