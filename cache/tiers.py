"""The artifacts that one configuration stores, as one value that every stage takes."""

from __future__ import annotations

from dataclasses import dataclass

from cache.store import Artifact


@dataclass(frozen=True)
class CacheTiers:
    """Addresses of each kind of artifact; each says itself whether it is there.

    `affinity`: maps of a second network, where a preset names one. `concepts` and `membership`: what latent regions of
    the whole data set have in common, where `mine-concepts` was run. `pseudo`: what `pseudo-label` made.
    """

    tokens: Artifact
    dense: Artifact
    latent: Artifact
    text: Artifact
    affinity: Artifact
    concepts: Artifact
    membership: Artifact
    pseudo: Artifact

    def by_kind(self) -> dict[str, Artifact]:
        """The artifacts by their kind, in the order of the schema."""
        return {
            "tokens": self.tokens,
            "dense": self.dense,
            "latent": self.latent,
            "text": self.text,
            "affinity": self.affinity,
            "concepts": self.concepts,
            "membership": self.membership,
            "pseudo": self.pseudo,
        }


@dataclass(frozen=True)
class EarlierTiers:
    """The artifacts of an earlier list of the same photos, or of other classes; `same_seen`: of the same seen ones."""

    tiers: CacheTiers
    same_seen: bool
