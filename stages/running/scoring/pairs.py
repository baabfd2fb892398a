"""The images that a student is scored on, with their labels, decoded in workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset as TorchDataset

from cache.errors import InputError
from stages.parts.data.datasets import BadSample, Dataset, Quarantine, Which
from stages.parts.data.views import Array
from stages.parts.scoring.inference import Scorer, class_scores
from stages.parts.settings import EvaluateConfig
from stages.running.compute import Compute
from stages.running.loading import loaded, losses_explained
from stages.running.progress import Bar


class Pairs(TorchDataset["tuple[Array, Array] | BadSample"]):
    """Images with their labels `which`; a bad one is a value."""

    def __init__(self, data: Dataset, which: Which = "all") -> None:
        self.data, self.which = data, which

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Array, Array] | BadSample:
        try:
            return self.pair(i)
        except BadSample as error:
            return error

    def pair(self, i: int) -> tuple[Array, Array]:
        """Image and labels. Raises BadSample."""
        return self.data.image(i), self.data.labels(i, self.which)


def each_scored(
    cfg: EvaluateConfig,
    data: Dataset,
    which: Which,
    scorer: Scorer,
    compute: Compute,
    quarantine: Quarantine | None = None,
) -> Iterator[tuple[torch.Tensor, Array]]:
    """Scores [K, H, W] of each image, on the device, with its labels `which`.

    Raises InputError for a bad sample, or for more of them than `quarantine` takes.
    """
    decoded = loaded(Pairs(data, which), [[i] for i in range(len(data))], list, compute)
    with losses_explained(compute), Bar("threshold" if quarantine else "calibrate", len(data), "images") as bar:
        for (pair,) in decoded:
            bar.advance()
            if isinstance(pair, BadSample):
                if quarantine is None:
                    raise InputError(str(pair))
                quarantine.add(pair)
                continue
            yield class_scores(scorer, pair[0], cfg, len(data.vocabulary.seen), compute.device), pair[1]
