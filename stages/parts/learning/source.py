"""Where training's tokens come from: one shape for the cache and for a teacher at work in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from stages.parts.learning.batches import Batch, CachedTokens, EpochBatchSampler, TrainingSet


class TokenSource(Protocol):
    """A teacher as training uses it. The cache and the network itself are interchangeable (method.md section 6)."""

    def tokens(self, num_seen: int, rows: int) -> CachedTokens | None:
        """The tokens of all `rows` views; None where there are none, or where they are made batch by batch."""

    def batches(self, training: TrainingSet, sampler: EpochBatchSampler) -> Iterator[Batch]:
        """The batches that `sampler` names, on the CPU. Raises InputError for a sample that can't be used."""
