"""Pseudo labels: the names that the teacher itself gives the cells of a photo, where it is sure of them."""

from __future__ import annotations

import numpy as np

from cache.settings import IGNORE
from cache.vectors import unit
from stages.parts.data.views import Array
from stages.parts.settings import PseudoLabelConfig


def pseudo_labels(tokens: np.ndarray, text: np.ndarray, cfg: PseudoLabelConfig) -> Array:
    """Class of each cell, 255 where none is certain: tokens [h, w, D], unit embeddings of names [K, D] -> uint8 [h, w].

    Certain is a name whose probability, by softmax over the cosines to all names, reaches `cfg.confidence`. A token of
    zeros is near to no name.
    """
    logits = (unit(tokens) @ text.T) / np.float32(cfg.temperature)
    # The best name's own term is exp(0), so its probability is one over the sum.
    best = 1 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1)
    sure = (best >= cfg.confidence) & (np.abs(tokens).max(axis=-1) > 0)
    return np.where(sure, logits.argmax(axis=-1), IGNORE).astype(np.uint8)
