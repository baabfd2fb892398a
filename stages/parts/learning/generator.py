"""Latent embedding generation: a class embedding for each latent region (the paper's Sec. 3.3; method.md section 4).

Training only: inference scores pixels with text embeddings and drops this module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cache.settings import IGNORE
from stages.parts.learning.batches import Batch, Regions
from stages.parts.settings import GeneratorConfig as GeneratorConfig

FFN = 2048
"""Width of the hidden layer (R: with it the parameters of Table 2 are met)."""


def concept_classes(batch: Batch, prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The latent regions of an image that are of one concept, as one class. `prototypes` [K_c, D], of the concepts.

    Returns Y_p [B, H, W], in which they bear the least id among them; C_l [R, D], in which the direction of a region of
    a known concept is the concept's, its length its own; which regions give their class its id, bool [R].
    """
    regions = batch.regions
    if not len(regions):
        return batch.masks, batch.local, torch.zeros_like(regions.id, dtype=torch.bool)
    known = regions.concept >= 0
    one = (regions.image[:, None] == regions.image) & (regions.concept[:, None] == regions.concept)
    first = torch.where(known, torch.where(one, regions.id, IGNORE).amin(dim=1), regions.id)
    ids = torch.arange(IGNORE + 1, dtype=torch.uint8, device=first.device).repeat(len(batch.masks), 1)
    ids[regions.image, regions.id] = first.to(torch.uint8)
    masks = ids.gather(1, batch.masks.flatten(1).long()).view_as(batch.masks)
    length = batch.local.norm(dim=1, keepdim=True)
    local = torch.where(known[:, None], prototypes[regions.concept.clamp(min=0)] * length, batch.local)
    return masks, local, first == regions.id


class LatentGenerator(nn.Module):
    """Prototypes F_u and teacher tokens -> latent embeddings A'_u.

    transformer: Q = F_u, K = V = memory, one `nn.TransformerDecoderLayer` with an FFN of 2048: 4,204,032
    parameters at D = 512 (R). 8 heads, or the most below 8 that divide D. Its self-attention runs over the
    latent regions of the image. mlp: Linear(D, 2048), ReLU, Linear(2048, D).
    """

    def __init__(self, cfg: GeneratorConfig, dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.layer: nn.Module | None = None
        if cfg.calibrator == "transformer":
            heads = max(n for n in range(1, 9) if dim % n == 0)
            self.layer = nn.TransformerDecoderLayer(dim, heads, FFN, cfg.dropout, batch_first=True)
        elif cfg.calibrator == "mlp":
            self.layer = nn.Sequential(nn.Linear(dim, FFN), nn.ReLU(), nn.Linear(FFN, dim))

    def forward(
        self,
        means: Tensor,
        global_tokens: Tensor,
        local_tokens: Tensor,
        regions: Regions,
        num_seen: int,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A'_u [B, L, D] and the mask of its valid rows [B, L] bool; row j is the class with id num_seen + j.

        `means` f [R, D] of ALL regions of the batch (`distillation.region_means`), C_g [B, D], C_l [R, D]. L, the
        largest latent id + 1, is at least 1, so that every parameter takes part in every step. Invalid rows
        are finite. `counted` bool [R]: the regions that there are classes of, and memory; None: all.
        """
        latent = max(regions.latent(num_seen), 1)
        batch, dim = global_tokens.shape
        column = regions.id - num_seen
        wanted = column >= 0 if counted is None else (column >= 0) & counted
        # Regions that are not latent are written to the spare column `latent`, so no shape depends on the data.
        column = torch.where(wanted, column, latent)
        queries = local_tokens if self.cfg.inputs == "cls" else means
        rows = queries.new_zeros(batch, latent + 1, dim)
        rows = rows.index_put((regions.image, column), queries)[:, :latent]
        filled = wanted.new_zeros(batch, latent + 1).index_put((regions.image, column), wanted)[:, :latent]
        if self.layer is None:
            return rows, filled
        if self.cfg.calibrator == "mlp":
            return self.layer(rows), filled
        memory, known = self._memory(global_tokens, local_tokens, regions, counted)
        return self._attend(rows, filled, memory, known), filled

    def _memory(
        self, global_tokens: Tensor, local_tokens: Tensor, regions: Regions, counted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[C_g; C_l] of each image, [B, 1 + most, D], and which rows are tokens, [B, 1 + most]."""
        batch, dim = global_tokens.shape
        most = max(regions.most, 1)
        local = local_tokens.new_zeros(batch, most, dim).index_put((regions.image, regions.slot), local_tokens)
        there = torch.ones_like(regions.id, dtype=torch.bool) if counted is None else counted
        known = there.new_zeros(batch, most).index_put((regions.image, regions.slot), there)
        both = torch.cat([global_tokens[:, None].to(local.dtype), local], dim=1)
        known = torch.cat([known.new_ones(batch, 1), known], dim=1)
        if self.cfg.memory == "local":
            return both[:, 1:], known[:, 1:]
        if self.cfg.memory == "global":
            return both[:, :1], known[:, :1]
        return both, known

    def _attend(self, rows: Tensor, filled: Tensor, memory: Tensor, known: Tensor) -> Tensor:
        """The decoder layer with padding masked out of both attentions."""
        assert self.layer is not None
        # An image without latent regions has nothing to attend to: NaN in some attention kernels. It attends
        # to its padding instead; the result is never used.
        empty = ~filled.any(dim=1, keepdim=True)
        return self.layer(
            rows,
            memory.to(rows.dtype),
            tgt_key_padding_mask=~(filled | empty),
            memory_key_padding_mask=~(known | empty),
        )
