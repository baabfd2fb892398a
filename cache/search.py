"""Nearest tokens over a whole cache: an exact faiss index kept beside it, rebuilt when the cache changed.

Tokens are compared by cosine. Two indices: one global token a view, and the local tokens of all regions, seen and
latent. No torch.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.digests import fingerprint
from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.vectors import unit

FORMAT = 1
FILES = ("views.faiss", "local.faiss", "regions.npy")
"""What is stored of an index; index.json, put last, says of what and with which digests."""
BLOCK = 4096
"""Queries searched at once when every view is compared with every other."""


@dataclass(frozen=True)
class Hit:
    """One search result: view id, region in Y_p (class index, K_s + latent id, or -1: the global token), cosine."""

    view: str
    region: int
    cosine: float


@dataclass(frozen=True)
class TokenIndex:
    """Indices over one cache. `regions` int64 [p, 2]: row of the view in `ids`, region in Y_p."""

    ids: list[str]
    regions: np.ndarray
    views: Any
    local: Any
    rebuilt: bool

    def find(
        self, vector: np.ndarray, k: int, *, among: str = "local", skip: tuple[str, int] | None = None
    ) -> list[Hit]:
        """The `k` tokens nearest to a vector [D], best first; `skip` leaves one token out (the query itself).

        `among`: "local" (regions) or "global" (views).
        """
        index = self.local if among == "local" else self.views
        cosines, found = index.search(unit(vector[None]), min(k + (skip is not None), index.ntotal))
        hits = [self._hit(among, int(i), float(c)) for c, i in zip(cosines[0], found[0], strict=True) if i >= 0]
        return [h for h in hits if (h.view, h.region) != skip][:k]

    def vector(self, view: str, region: int) -> np.ndarray:
        """The unit token [D] of a region (-1: the global token). Raises InputError where there is none."""
        if view not in self.ids:
            raise InputError(f"{view}: no such view in the cache; its first is {self.ids[0]}")
        row = self.ids.index(view)
        if region < 0:
            return np.asarray(self.views.reconstruct(row))
        places = np.flatnonzero((self.regions == (row, region)).all(axis=1))
        if not len(places):
            raise InputError(f"{view}: has no region {region}; its regions are {self.of_view(row)}")
        return np.asarray(self.local.reconstruct(int(places[0])))

    def of_view(self, row: int) -> list[int]:
        """Regions of a view."""
        return [int(r) for r in self.regions[self.regions[:, 0] == row, 1]]

    def near_views(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """For each view its `k` nearest others: cosines [n, k], rows [n, k]; -1 where there are fewer."""
        rows = np.arange(len(self.ids))
        cosines, found = [], []
        for start in range(0, len(rows), BLOCK):
            own = rows[start : start + BLOCK]
            cos, near = self.views.search(self.views.reconstruct_n(start, len(own)), min(k + 1, len(rows)))
            # Itself need not come first among exact copies: it is taken out wherever it stands, else the last one.
            drop = np.where(
                (near == own[:, None]).any(axis=1), (near == own[:, None]).argmax(axis=1), near.shape[1] - 1
            )
            kept = np.arange(near.shape[1]) != drop[:, None]
            cosines.append(cos[kept].reshape(len(own), -1))
            found.append(near[kept].reshape(len(own), -1))
        return np.concatenate(cosines), np.concatenate(found)

    def _hit(self, among: str, i: int, cosine: float) -> Hit:
        if among == "global":
            return Hit(self.ids[i], -1, cosine)
        row, region = self.regions[i]
        return Hit(self.ids[row], int(region), cosine)


def open_index(at: Location, tokens: Artifact, latent: Artifact | None, num_seen: int) -> TokenIndex:
    """The index over a cache, read from `at`, or built and stored there if the cache has changed since.

    `latent` None: seen regions alone. Raises InputError where no token is stored.
    """
    import faiss

    made_of = _content(tokens, latent)
    about = at.get_json("index.json")
    ids = tokens.ids()
    if not ids:
        raise InputError(f"{tokens}: no view is stored yet; run `clip2seg extract` first")
    if isinstance(about, dict) and about.get("made_of") == made_of:
        packed = [at.get(name) for name in FILES]
        # faiss would search in whatever bytes lie there.
        if about.get("sha256") == [hashlib.sha256(p or b"").hexdigest() for p in packed]:
            views, local, regions = (np.frombuffer(p or b"", np.uint8) for p in packed)
            table = np.load(io.BytesIO(regions.tobytes()), allow_pickle=False)
            return TokenIndex(ids, table, faiss.deserialize_index(views), faiss.deserialize_index(local), False)
    whole, local_tokens, table = _collect(tokens, latent, num_seen)
    indices = []
    for vectors in (whole, local_tokens):
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(unit(vectors))
        indices.append(index)
    buffer = io.BytesIO()
    np.save(buffer, table)
    made = [*(faiss.serialize_index(index).tobytes() for index in indices), buffer.getvalue()]
    for name, data in zip(FILES, made, strict=True):
        at.put(name, data)
    digests = [hashlib.sha256(data).hexdigest() for data in made]
    at.put_json("index.json", {"made_of": made_of, "sha256": digests, "views": len(whole), "regions": len(table)})
    return TokenIndex(ids, table, indices[0], indices[1], True)


def _content(tokens: Artifact, latent: Artifact | None) -> str:
    """A digest of all that was committed: what the index stands for."""
    parts = [a for a in (tokens, latent) if a is not None]
    return fingerprint([FORMAT, *[[(a.commit(s) or {})["objects"] for s in a.committed()] for a in parts]])


def _collect(tokens: Artifact, latent: Artifact | None, num_seen: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global tokens [n, D], local tokens [p, D] and their (row, region) [p, 2]."""
    seen = tokens.load(["global", "local", "local_region", "local_offsets"])
    local, table = [seen["local"]], [_entries(seen, 0, 0)]
    if latent is not None:
        first = {view: row for row, view in enumerate(tokens.ids())}
        for shard in latent.committed():
            mined = latent.read(shard, ["local", "local_region", "local_offsets"])
            ids = latent.shard_ids(shard)
            local.append(mined["local"])
            table.append(_entries(mined, first[ids[0]] if ids else 0, num_seen))
    return seen["global"], np.concatenate(local), np.concatenate(table)


def _entries(arrays: dict[str, np.ndarray], first: int, shift: int) -> np.ndarray:
    offsets = arrays["local_offsets"]
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) + first
    return np.stack([rows, arrays["local_region"].astype(np.int64) + shift], axis=1)
