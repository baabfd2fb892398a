"""What training reads of the cache: the tokens of all views in memory, and where concepts lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.learning.batches import Batch, CachedTokens, EpochBatchSampler, TrainingSet, collate
from stages.running.compute import Compute
from stages.running.loading import loaded


@dataclass(frozen=True)
class CachedTeacher:
    """The cache as training's source of tokens; `tiers` None: labels alone (the baseline of Table 3)."""

    tiers: CacheTiers | None
    compute: Compute
    concepts: bool = False
    """Whether the concepts of latent regions are read too."""
    min_confidence: float = 0.0
    """Least confidence of a region for its concept to be known."""
    pseudo_labels: bool = False
    """Whether pseudo labels are read too."""
    latent: bool = True
    """Whether latent classes are read; pseudo labels alone train without them."""

    def tokens(self, num_seen: int, rows: int) -> CachedTokens | None:
        """The tokens of all views. Raises InputError where a tier is not complete, or not of `rows` views."""
        if self.tiers is None:
            return None
        membership = self.tiers.membership if self.concepts else None
        latent = self.tiers.latent if self.latent else None
        pseudo = self.tiers.pseudo if self.pseudo_labels else None
        made = (self.tiers.tokens, latent, membership, pseudo)
        return load_cache(*made, num_seen=num_seen, rows=rows, min_confidence=self.min_confidence)

    def batches(self, training: TrainingSet, sampler: EpochBatchSampler) -> Iterator[Batch]:
        """The batches of the sampler, made by loader processes."""
        return loaded(training, sampler, collate, self.compute)


def load_cache(
    tokens: Artifact,
    latent: Artifact | None,
    membership: Artifact | None = None,
    pseudo: Artifact | None = None,
    *,
    num_seen: int,
    rows: int,
    min_confidence: float = 0.0,
) -> CachedTokens:
    """What training reads of complete artifacts, made of `rows` views of the data set, bad ones included.

    `latent` None: no latent class anywhere. `membership`: the concepts of latent regions, `pseudo`: pseudo labels, if
    they are to be read; regions of less than `min_confidence` are of no concept. Raises InputError where one is not
    complete, they differ, or a token is not finite.
    """
    made_by = {"extract": tokens, "mine-latent": latent, "mine-concepts": membership, "pseudo-label": pseudo}
    for stage, artifact in made_by.items():
        if artifact is not None and artifact.summary() is None:
            raise InputError(f"{artifact}: not complete; run `clip2seg {stage}` first")
    tokens.check_rows(rows)
    ids = tokens.ids()
    if latent is not None and ids != latent.ids():
        raise InputError(f"{latent}: mined for other views than {tokens} holds; run `clip2seg mine-latent` again")
    if membership is not None and membership.ids() != ids:
        raise InputError(f"{membership}: of other views than {tokens} holds; run `clip2seg mine-concepts` again")
    if pseudo is not None and pseudo.ids() != ids:
        raise InputError(f"{pseudo}: of other views than {tokens} holds; run `clip2seg pseudo-label` again")
    seen = tokens.load(["global", "local", "local_region", "local_offsets", "labels_crc", "photo_crc"])
    mined = {
        "cells": np.full((len(ids), 1, 1), IGNORE, np.uint8),
        "local": seen["local"][:0],
        "local_region": np.zeros(0, np.uint8),
        "local_offsets": np.zeros(len(ids) + 1, np.int64),
    }
    checked = [(tokens, "global", seen), (tokens, "local", seen)]
    if latent is not None:
        mined = latent.load(list(mined))
        checked.append((latent, "local", mined))
    for artifact, name, values in checked:
        bad = np.flatnonzero(~np.isfinite(values[name]).all(axis=1))
        if len(bad):
            row = int(bad[0])
            view = row if name == "global" else int(np.searchsorted(values["local_offsets"], row, side="right")) - 1
            raise InputError(
                f"{artifact}: {len(bad)} {name} tokens are not finite, first of view {ids[view]}; move it away and "
                f"run `clip2seg {artifact.provenance().get('stage', 'extract')}` again"
            )
    concept = None
    if membership is not None:
        of = membership.load(["concept", "confidence"])
        concept = np.where(of["confidence"] >= min_confidence, of["concept"].astype(np.int64), -1)
    found = CachedTokens.joined(ids, seen, mined, num_seen, concept)
    return found if pseudo is None else replace(found, pseudo=pseudo.load(["labels"])["labels"])


def load_prototypes(concepts: Artifact) -> torch.Tensor:
    """The mean unit token of each concept [K_c, D], unit norm. Raises InputError where they are not complete."""
    if concepts.summary() is None:
        raise InputError(f"{concepts}: not complete; run `clip2seg mine-concepts` first")
    return torch.from_numpy(concepts.read(0, ["token"])["token"])
