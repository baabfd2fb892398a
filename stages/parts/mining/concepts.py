"""Concepts of a data set: clusters of the local tokens of all its latent regions, whatever image they are in.

Spherical k-means by cosine, in the space of unit tokens less their mean: tokens of one teacher share a large common
part, which would hide what tells them apart. Latent regions alone enter, so no unseen label or name does. numpy in and
out, no torch. p: regions, D: embedding size, K: concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cache.vectors import unit
from stages.parts.mining.clustering import Floats, Ints, bare_kmeans, nearest
from stages.parts.settings import ConceptsConfig as ConceptsConfig

JUDGED = 10_000
"""Most tokens that the criterion, and the choice among starts, look at: they decide nothing between two regions."""
FEWEST = 4
"""Fewest concepts that the criterion tries."""
REGIONS = 4
"""Regions that each concept must have on average, of those that the criterion tries."""
PATIENCE = 3
"""Numbers in a row that two halves don't agree on, after which no larger one is tried: the curve falls, with noise."""
STARTS = 4
"""Starts of k-means, of which the one that ends nearest to its tokens goes on."""


@dataclass(frozen=True)
class Concepts:
    """`centroid` [K, D] unit, centred; `token` [K, D] unit, not centred; `mean` [D], subtracted before comparing."""

    centroid: Floats
    token: Floats
    mean: Floats

    def __len__(self) -> int:
        return len(self.centroid)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a `concepts` shard (schema names)."""
        return {"centroid": self.centroid, "token": self.token, "mean": self.mean}


@dataclass(frozen=True)
class Judged:
    """A number of concepts and its prediction strength, in [0, 1]: how far two halves of the regions agree on them."""

    count: int
    strength: float


def cluster(tokens: Floats, cfg: ConceptsConfig, gpu: bool = False) -> tuple[Concepts, list[Judged]]:
    """Concepts of raw tokens [p, D], largest first, and the numbers that the criterion looked at: none if it is set.

    Fewer than asked for where there are fewer different tokens. Same input, same result. Raises ValueError without
    tokens, or where one is not finite.
    """
    if not len(tokens):
        raise ValueError("no token to cluster")
    if not np.isfinite(tokens).all():
        raise ValueError("local tokens hold NaN or infinite values")
    flat = unit(tokens)
    mean = flat.mean(axis=0) if cfg.centre else np.zeros(flat.shape[1], np.float32)
    points = centred(flat, mean)
    random = np.random.default_rng(cfg.seed)
    judged: list[Judged] = []
    count = cfg.count
    if not count:
        some = points[random.permutation(len(points))[:JUDGED]]
        count, *more = steps = ladder(len(some), cfg.most)
        for k in steps if more else ():
            judged.append(Judged(k, _strength(some, k, cfg, random, gpu)))
            if judged[-1].strength >= cfg.agreement:
                count = k
            elif all(one.strength < cfg.agreement for one in judged[-PATIENCE:]) and len(judged) >= PATIENCE:
                break
    centroids = _kmeans(points, count, cfg.iterations, random, gpu)
    which = nearest(points, centroids, 1, gpu)[1][:, 0]
    sizes = np.bincount(which, minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    means = np.stack([flat[which == c].mean(axis=0) for c in order])
    return Concepts(np.ascontiguousarray(centroids[order]), unit(means), mean), judged


def centred(tokens: Floats, mean: Floats) -> Floats:
    """Tokens [p, D] as they are compared: unit, less the mean [D], unit again."""
    return unit(unit(tokens) - mean)


def assign(tokens: Floats, concepts: Concepts, gpu: bool = False) -> tuple[Ints, Floats, Floats]:
    """The nearest concept of raw tokens [p, D]: its number [p], its cosine [p], the confidence [p] in [0, 1].

    Confidence is the simplified silhouette: 1 - (1 - cosine) / (1 - cosine of the second nearest concept).
    """
    if not len(tokens):
        return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
    cosine, found = nearest(centred(tokens, concepts.mean), concepts.centroid, min(2, len(concepts)), gpu)
    return found[:, 0], cosine[:, 0], _confidence(cosine)


def halves(tokens: Floats, concepts: Concepts) -> tuple[Floats, Ints]:
    """Two parts of the regions of one concept: raw tokens [p, D] -> unit centroids [2, D] (centred), part of each [p].

    The larger part is 0. Same input, same parts; equal tokens are one part.
    """
    points = centred(tokens, concepts.mean)
    centroids = _kmeans(points, 2, 20, np.random.default_rng(0), False)
    which = nearest(points, centroids, 1)[1][:, 0]
    order = np.argsort(-np.bincount(which, minlength=len(centroids)), kind="stable")
    return np.ascontiguousarray(centroids[order]), np.argsort(order)[which]


def ladder(tokens: int, most: int) -> list[int]:
    """Numbers of concepts that the criterion tries: from 4, each some 1.4 times the last, to `most` or tokens / 4."""
    last = max(1, min(most, tokens // REGIONS))
    steps = {round(FEWEST * 2 ** (i / 2)) for i in range(2 * last.bit_length())}
    return sorted({k for k in steps if k < last} | {last})


def _strength(points: Floats, count: int, cfg: ConceptsConfig, random: np.random.Generator, gpu: bool) -> float:
    """Mean prediction strength of `count` concepts (Tibshirani and Walther, 2005).

    Each half of the points is clustered alone. Of two points that one half's own concepts hold together, the share that
    the other half's concepts hold together too; mean over its concepts of two points or more.
    """
    half = len(points) // 2
    halves = points[:half], points[half:]
    ours, theirs = (_kmeans(part, min(count, len(part)), cfg.iterations, random, gpu) for part in halves)
    own, other = (nearest(halves[1], found, 1, gpu)[1][:, 0] for found in (theirs, ours))
    table = np.zeros((len(theirs), len(ours)), np.int64)
    np.add.at(table, (own, other), 1)
    sizes = table.sum(axis=1)
    pairs, kept = sizes * (sizes - 1), (table * (table - 1)).sum(axis=1)
    return round(float((kept[pairs > 0] / pairs[pairs > 0]).mean()), 5) if (pairs > 0).any() else 0.0


def _confidence(cosine: Floats) -> Floats:
    """[p, 2] cosines of the two nearest -> [p]; of a single concept every region is certain."""
    if cosine.shape[1] < 2:
        return np.ones(len(cosine), np.float32)
    near, far = 1 - np.minimum(cosine[:, 0], 1), 1 - np.minimum(cosine[:, 1], 1)
    return np.where(far > 0, 1 - near / np.maximum(far, np.finfo(np.float32).tiny), 0).astype(np.float32)


def _kmeans(points: Floats, count: int, iterations: int, random: np.random.Generator, gpu: bool) -> Floats:
    """Unit centroids [at most count, D] of unit points [p, D], from the best of some starts on a part of them."""
    some = points[random.permutation(len(points))[:JUDGED]] if len(points) > JUDGED else points
    starts = [bare_kmeans(some, _plus_plus(some, count, random), iterations, gpu)[0] for _ in range(STARTS)]
    best = max(starts, key=lambda start: float(nearest(some, start, 1, gpu)[0].sum(dtype=np.float64)))
    return best if some is points else bare_kmeans(points, best, iterations, gpu)[0]


def _plus_plus(points: Floats, count: int, random: np.random.Generator) -> Floats:
    """Greedy k-means++: of some points drawn by squared distance to the seeds so far, the one that helps most is next.

    As scikit-learn does it; no two seeds are equal.
    """
    chosen, tried = [int(random.integers(len(points)))], 2 + int(np.log(count))
    distance = 2 - 2 * (points @ points[chosen[0]])
    while len(chosen) < min(count, len(points)):
        weight = np.where(distance > 1e-6, distance, 0).astype(np.float64)  # below it two tokens are one
        if not weight.sum():
            break
        drawn = random.choice(len(points), tried, p=weight / weight.sum())
        left = np.minimum(distance[:, None], 2 - 2 * (points @ points[drawn].T))
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        distance = left[:, best]
    return np.ascontiguousarray(points[chosen])
