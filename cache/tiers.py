"""The four artifacts that one configuration stores, as one value that every stage takes."""

from __future__ import annotations

from dataclasses import dataclass

from cache.store import Artifact


@dataclass(frozen=True)
class CacheTiers:
    """Addresses of tokens, dense tokens, latent classes and text embeddings; each artifact says whether it is there."""

    tokens: Artifact
    dense: Artifact
    latent: Artifact
    text: Artifact

    def by_kind(self) -> dict[str, Artifact]:
        """The artifacts by their kind, in the order of the schema."""
        return {"tokens": self.tokens, "dense": self.dense, "latent": self.latent, "text": self.text}
