"""mine-concepts: local tokens of all latent regions -> concepts of the data set, and the concept of each region.

Clustering reads a sample and is done by one process; assignment goes shard by shard, divided among processes, so that
neither memory nor a stop depends on how many regions there are. Reads the tier `latent` alone: no image, no label, no
text embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cache.claims import writing
from cache.errors import InputError
from cache.schema import ARTIFACTS
from cache.store import Artifact
from cache.tiers import CacheTiers
from stages.parts.mining.clustering import on_gpu, one_blas_thread
from stages.parts.mining.concepts import assign, cluster
from stages.parts.settings import ConceptsConfig
from stages.running.compute import Compute
from stages.running.concepts import read_concepts
from stages.running.progress import Bar, ShardQueue, say


def run(
    cfg: ConceptsConfig,
    tiers: CacheTiers,
    older: Artifact | None = None,
    *,
    compute: Compute,
    kmeans: str = "auto",
) -> dict[str, Any]:
    """Fills the tiers `concepts` and `membership`; does only what is missing; returns the summary.

    `older`: concepts to assign to, instead of new ones. Raises InputError where mining has not finished, or found no
    latent region.
    """
    gpu, latent = on_gpu(kmeans, compute.gpu), tiers.latent
    if latent.summary() is None:
        raise InputError(f"{latent}: mine-latent has not finished; run `clip2seg mine-latent` first")
    # Product threads would reach the last bits of the centroids.
    with one_blas_thread(), writing(tiers.concepts.at, tiers.membership.at):
        _find(cfg, latent, tiers.concepts, older, gpu)
        return _assign_all(latent, tiers.concepts, tiers.membership, gpu)


def _find(cfg: ConceptsConfig, latent: Artifact, out: Artifact, older: Artifact | None, gpu: bool) -> None:
    """Fills the tier `concepts`, unless it is complete."""
    if out.summary(1) is not None:
        return
    about: dict[str, Any] = {}
    with ShardQueue([out], 1) as queue:
        while queue.open():
            for shard in queue.claims():
                if older is not None:
                    found, about = read_concepts(older), {"reused": older.at.name}
                else:
                    tokens = _sampled(latent, cfg)
                    say(f"mine-concepts: clustering {len(tokens)} latent regions")
                    found, judged = cluster(tokens, cfg, gpu)
                    about = {"clustered": len(tokens), "judged": {str(one.count): one.strength for one in judged}}
                out.write(shard, [], found.arrays(), about)
                queue.release(shard)
    mark = out.commit(0) or {}
    out.finish({"concepts": len(out.read(0, ["centroid"])["centroid"]), **mark["stats"]}, 1)


def _sampled(latent: Artifact, cfg: ConceptsConfig) -> np.ndarray:
    """At most `cfg.sample` local tokens float32 [p, D], drawn evenly over the shards, whatever order these come in."""
    counts = {shard: sum(mark["stats"]["classes"]) for shard, mark in latent.marks()}
    if not sum(counts.values()):
        raise InputError(f"{latent}: no latent region was mined, so there is nothing to find concepts in")
    share = min(1.0, cfg.sample / sum(counts.values()))
    kept = []
    for shard, count in counts.items():
        some = np.arange(count)
        if share < 1:
            random = np.random.default_rng([cfg.seed, shard])
            some = np.sort(random.permutation(count)[: max(1, int(count * share))])
        kept.append(latent.read(shard, ["local"])["local"][some].astype(np.float32))
    return np.concatenate(kept)


def _assign_all(latent: Artifact, concepts: Artifact, out: Artifact, gpu: bool) -> dict[str, Any]:
    """Fills the tier `membership`; returns the summary of all of it."""
    found, shards = read_concepts(concepts), len(latent.shards())
    with (
        Bar("mine-concepts", shards, "shards", done=len(out.committed()), divided=True) as bar,
        ShardQueue([out], shards) as queue,
    ):
        while queue.open():
            for shard in queue.claims():
                arrays = latent.read(shard, ["local", "local_offsets"])
                which, cosine, confidence = assign(arrays["local"], found, gpu)
                made = {
                    "concept": which.astype(ARTIFACTS["membership"]["concept"].dtype),
                    "cosine": cosine,
                    "confidence": confidence,
                    "local_offsets": arrays["local_offsets"],
                }
                out.write(shard, latent.shard_ids(shard), made, {"regions": len(which)})
                queue.release(shard)
                bar.advance()
    summary = (concepts.summary() or {}) | _summary(out, range(shards), len(found))
    out.finish(summary, shards)
    return summary


def _summary(out: Artifact, shards: Sequence[int], count: int) -> dict[str, Any]:
    sizes, cosines, confidences = np.zeros(count, np.int64), 0.0, 0.0
    for shard in shards:
        arrays = out.read(shard, ["concept", "cosine", "confidence"])
        sizes += np.bincount(arrays["concept"], minlength=count)
        cosines += float(arrays["cosine"].sum(dtype=np.float64))
        confidences += float(arrays["confidence"].sum(dtype=np.float64))
    regions = int(sizes.sum())
    return {
        "regions": regions,
        "sizes": sizes.tolist(),
        "mean_cosine": round(cosines / max(regions, 1), 4),
        "mean_confidence": round(confidences / max(regions, 1), 4),
    }
