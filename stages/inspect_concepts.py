"""inspect concepts: what a concept looks like, how large and how tight it is, and what it is seen with.

Reads the tiers tokens, latent, concepts and membership; photos only where somebody asks for a picture, and labels of
unseen classes only for `hidden`, which is evaluation. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.settings import IGNORE
from cache.store import Artifact, joined
from cache.vectors import unit
from stages.parts.mining.concepts import Concepts, centred, halves
from stages.parts.scoring.agreement import by_chance, mutual_information, purity
from stages.parts.scoring.naming import same
from stages.running.concepts import looked_at, read_concepts
from stages.running.progress import Bar

MEMBERS = 300
"""Most regions of a concept among which its examples are chosen."""


@dataclass(frozen=True)
class Members:
    """The latent regions that are looked at, one row each: view and region (latent id), concept, cosine, confidence."""

    view: np.ndarray
    region: np.ndarray
    concept: np.ndarray
    cosine: np.ndarray
    confidence: np.ndarray
    token: np.ndarray


class ConceptsOf:
    """The concepts of one cache. Raises InputError where mine-concepts has not finished."""

    def __init__(self, tiers: Mapping[str, Artifact], num_seen: int) -> None:
        self.tokens, self.latent, self.membership = (tiers[kind] for kind in ("tokens", "latent", "membership"))
        self.summary = self.membership.summary()
        if self.summary is None:
            raise InputError(f"{self.membership}: not complete; run `clip2seg mine-concepts` first")
        self.concepts: Concepts = read_concepts(tiers["concepts"])
        self.num_seen = num_seen

    @cached_property
    def shards(self) -> list[int]:
        """The shards that are looked at."""
        return looked_at(self.membership)

    @cached_property
    def ids(self) -> list[str]:
        """The views that are looked at."""
        return [view for shard in self.shards for view in self.membership.shard_ids(shard)]

    @cached_property
    def members(self) -> Members:
        """Their latent regions."""
        mine = [self.membership.read(s, ["concept", "cosine", "confidence", "local_offsets"]) for s in self.shards]
        theirs = [self.latent.read(s, ["local", "local_region"]) for s in self.shards]
        offsets = joined([m["local_offsets"] for m in mine], offsets=True)
        names = ("concept", "cosine", "confidence")
        concept, cosine, confidence = (np.concatenate([m[name] for m in mine]) for name in names)
        local, region = (np.concatenate([t[name] for t in theirs]) for name in ("local", "local_region"))
        view = np.repeat(np.arange(len(self.ids)), np.diff(offsets))
        return Members(view, region.astype(int), concept.astype(int), cosine, confidence, local.astype(np.float32))

    @cached_property
    def seen_present(self) -> np.ndarray:
        """Which seen class each view shows, bool [views, K_s]."""
        read = [self.tokens.read(s, ["local_region", "local_offsets"]) for s in self.shards]
        offsets = joined([r["local_offsets"] for r in read], offsets=True)
        found = np.zeros((len(self.ids), self.num_seen), bool)
        view = np.repeat(np.arange(len(self.ids)), np.diff(offsets))
        found[view, np.concatenate([r["local_region"] for r in read])] = True
        return found

    @cached_property
    def seen_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Seen classes that are there, and the mean of their unit local tokens [., D]."""
        read = [self.tokens.read(s, ["local", "local_region"]) for s in self.shards]
        region, local = (np.concatenate([r[name] for r in read]) for name in ("local_region", "local"))
        there = np.unique(region)
        return there, np.stack([unit(local[region == c]).mean(axis=0) for c in there]) if len(there) else local[:0]

    @cached_property
    def common(self) -> np.ndarray:
        """Mean unit token [D] of all concepts and all seen classes, each counted once."""
        return np.concatenate([self.concepts.token, unit(self.seen_tokens[1])]).mean(axis=0)

    def examples(self, concept: int, count: int) -> np.ndarray:
        """Rows of members that stand for a concept: its medoid, then whatever covers the rest of it best."""
        rows = np.flatnonzero(self.members.concept == concept)
        rows = rows[np.argsort(-self.members.cosine[rows], kind="stable")]
        rows = rows[:: max(1, -(-len(rows) // MEMBERS))]
        points = centred(self.members.token[rows], self.concepts.mean)
        alike = points @ points.T
        chosen: list[int] = []
        covered = np.full(len(rows), -1.0, np.float32)
        while len(chosen) < min(count, len(rows)):
            gain = np.maximum(alike, covered[:, None]).sum(axis=0)
            gain[chosen] = -np.inf
            chosen.append(int(gain.argmax()))
            covered = np.maximum(covered, alike[:, chosen[-1]])
        return rows[chosen]

    def halves(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """Two parts of a concept: unit centroids [2, D] in centred space, and the part of each member, 0 or 1.

        A concept of one region, or of equal ones, has one part.
        """
        own = self.members.token[self.members.concept == concept]
        return halves(own, self.concepts)

    def company(self, concept: int, names: Sequence[str], most: int = 3) -> list[dict[str, Any]]:
        """Seen classes that are in its photos more often than elsewhere: share of its photos, and lift."""
        inside = np.zeros(len(self.ids), bool)
        inside[self.members.view[self.members.concept == concept]] = True
        share = self.seen_present[inside].mean(axis=0) if inside.any() else np.zeros(self.num_seen)
        base = self.seen_present.mean(axis=0)
        lift = share / np.maximum(base, 1e-9)
        order = [int(c) for c in np.argsort(-share * np.log(np.maximum(lift, 1e-9)), kind="stable")]
        found = [c for c in order if lift[c] > 1.1 and share[c] > 0.05][:most]
        return [
            {"class": names[c], "share": round(float(share[c]), 3), "lift": round(float(lift[c]), 2)} for c in found
        ]

    def places(self) -> np.ndarray:
        """The centroids on their two principal axes, in [-1, 1]: [K, 2]."""
        points = self.concepts.centroid - self.concepts.centroid.mean(axis=0)
        axes = np.linalg.svd(points, full_matrices=False)[2][:2]
        flat = points @ axes.T
        if flat.shape[1] < 2:
            flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
        return flat / np.maximum(np.abs(flat).max(axis=0), 1e-9)

    def numbers(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Size, spread, confidence, place and company of every concept, in their order, as JSON."""
        rows, at = [], self.places()
        sizes = self.summary["sizes"] if self.summary else []
        for concept in range(len(self.concepts)):
            own = self.members.concept == concept
            rows.append(
                {
                    "concept": concept,
                    "regions": int(sizes[concept]),
                    "photos": len(np.unique(self.members.view[own])),
                    "spread": round(1 - float(self.members.cosine[own].mean()), 4) if own.any() else None,
                    "confidence": round(float(self.members.confidence[own].mean()), 4) if own.any() else None,
                    "seen with": self.company(concept, names),
                    "at": [round(float(v), 4) for v in at[concept]],
                }
            )
        return rows


def hidden(
    of: ConceptsOf,
    masks: Callable[[str], tuple[np.ndarray, np.ndarray]],
    words: Sequence[str],
    names: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Evaluation only: concepts against the hidden labels of unseen classes.

    A region's hidden class is the one that most of its pixels show; regions that show something else count apart.
    `masks`: all labels and Y_p of a view, uint8 [H, W] each. `words`: the K class names. `names`: the best words of
    each concept.
    """
    members, k = of.members, of.num_seen
    label, pure = np.full(len(members.view), IGNORE), np.zeros(len(members.view))
    starts = np.searchsorted(members.view, np.arange(len(of.ids) + 1))
    with Bar("inspect concepts", len(of.ids), "views") as bar:
        for i, name in enumerate(of.ids):
            bar.advance()
            if starts[i] == starts[i + 1]:
                continue
            truth, pseudo = masks(name)
            for row in range(starts[i], starts[i + 1]):
                shown = np.bincount(truth[pseudo == k + members.region[row]], minlength=256)
                label[row], pure[row] = shown.argmax(), shown.max() / max(shown.sum(), 1)
    unseen = (label >= k) & (label < len(words))
    own, which = label[unseen], members.concept[unseen]
    called = np.array([same(words[y]) in map(same, names[c][:1]) for c, y in zip(which, own, strict=True)], bool)
    among = np.array([same(words[y]) in map(same, names[c]) for c, y in zip(which, own, strict=True)], bool)
    classes = []
    for y in np.unique(own):
        counts = np.bincount(which[own == y], minlength=len(of.concepts))
        best = int(counts.argmax())
        classes.append(
            {
                "class": words[y],
                "regions": int(counts.sum()),
                "best concept": best,
                "its share of the class": round(float(counts[best] / counts.sum()), 4),
                "named right": round(float(called[own == y].mean()), 4),
                "among five": round(float(among[own == y].mean()), 4),
            }
        )
    return {
        "regions": len(label),
        "of unseen classes": int(unseen.sum()),
        "NMI": round(mutual_information(own, which), 4),
        "purity": round(purity(own, which), 4),
        "NMI by chance": round(by_chance(own, which), 4),
        "NMI of islands": round(mutual_information(own, np.arange(len(own))), 4),
        "pixels of a region's own class": round(float(pure[unseen].mean()), 4) if unseen.any() else None,
        "majority alone": round(purity(own, np.zeros(len(own), int)), 4),
        "named right": round(float(called.mean()), 4) if len(called) else None,
        "among five": round(float(among.mean()), 4) if len(among) else None,
        "classes": classes,
        "mostly": [_mostly(label[members.concept == c], words) for c in range(len(of.concepts))],
    }


def _mostly(labels: np.ndarray, words: Sequence[str]) -> dict[str, Any] | None:
    """The hidden class that most of a concept's regions show, and its share; None of a concept without regions."""
    if not len(labels):
        return None
    counts = np.bincount(labels, minlength=256)
    best = int(counts.argmax())
    return {
        "class": words[best] if best < len(words) else "no label",
        "share": round(float(counts[best] / len(labels)), 4),
    }
