"""The concepts of a cache, for whoever reads them: centroids, parts, and the shards that are looked at."""

from __future__ import annotations

import numpy as np

from cache.errors import InputError
from cache.store import Artifact
from stages.parts.mining.concepts import Concepts, halves

SHARDS = 64
"""Most shards whose tokens are looked at: of a large cache, evenly spread ones."""


def read_concepts(artifact: Artifact) -> Concepts:
    """The concepts of a complete artifact. Raises InputError where there are none."""
    if artifact.summary() is None:
        raise InputError(f"{artifact}: no concepts there; run `clip2seg mine-concepts` first")
    arrays = artifact.read(0)
    return Concepts(arrays["centroid"], arrays["token"], arrays["mean"])


def looked_at(membership: Artifact) -> list[int]:
    """The shards that pictures, names and parts of concepts come from."""
    every = list(membership.shards())
    return every[:: max(1, -(-len(every) // SHARDS))]


def half_centroids(concept: int, concepts: Concepts, latent: Artifact, membership: Artifact) -> np.ndarray:
    """Unit centroids [2, D] (centred) of the two parts of a concept, the larger first, as the page shows them."""
    tokens = [
        latent.read(shard, ["local"])["local"][membership.read(shard, ["concept"])["concept"] == concept]
        for shard in looked_at(membership)
    ]
    return halves(np.concatenate(tokens).astype(np.float32), concepts)[0]
