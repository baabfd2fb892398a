"""The cache for your own program: what CLIP said of each image, as numpy arrays. Reads only, loads no torch.

import clip2seg

cache = clip2seg.open_cache("artifacts/demo")  # or one artifact: artifacts/demo/tokens-1a2b3c4d.zarr
for name in cache.ids():
    tokens = cache.view(name)  # tokens["global"] [D], tokens["local"] [p, D], tokens["dense"] [h, w, D], ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.location import Location
from cache.schema import ARTIFACTS
from cache.store import Artifact
from cache.summary import summarise


def open_cache(path: str | Path) -> CacheReader:
    """The cached artifacts of a preset's folder (`artifacts/<preset>`, also s3://...), or one artifact, for reading.

    Raises InputError where there is none, and where the folder holds several of a kind (name the one you mean then).
    """
    at = Location(str(Path(path).expanduser()) if "://" not in str(path) else str(path))
    name = str(at).rpartition("/")[2]
    if name.endswith(".zarr"):
        paths = {_kind(name): at}
    else:
        paths = {}
        for child in (c for c in at.children() if c.endswith(".zarr") and _kind(c)):
            if (other := paths.setdefault(_kind(child), at.child(child))) is not None and str(other) != f"{at}/{child}":
                raise InputError(f"{at}: several of a kind ({child} and {other}); open one: open_cache('{at}/{child}')")
    if not paths or "" in paths:
        raise InputError(f"{at}: no cache there; name a preset's folder below artifacts, or one of its .zarr folders")
    artifacts = {kind: Artifact(where, kind) for kind, where in paths.items()}
    for artifact in artifacts.values():
        artifact.provenance()
    return CacheReader(artifacts)


NO_VIEWS = ("text", "concepts")
"""Kinds that hold nothing of single views."""


def _kind(name: str) -> str:
    """Kind of an artifact from its folder's name; "" for another name."""
    kind = name.partition("-")[0]
    return kind if kind in ARTIFACTS else ""


class CacheReader:
    """Cached artifacts by kind (tokens, dense, latent, text, ...); arrays and shapes: docs/cache-format.md.

    Every byte that is read is checked against its commit mark. Raises StoreError (an InputError) where one is damaged.
    """

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self._artifacts = artifacts

    @property
    def kinds(self) -> tuple[str, ...]:
        """The artifacts that are there."""
        return tuple(self._artifacts)

    def provenance(self, kind: str = "tokens") -> dict[str, Any]:
        """Settings, digests and versions that an artifact was made from."""
        return self._artifact(kind).provenance()

    def ids(self, kind: str = "tokens") -> list[str]:
        """Ids of the views in stored order; with one view an image these are the data set's image ids."""
        return self._artifact(kind).ids()

    def arrays(self, kind: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Whole arrays of all views, all or some by name. `dense` may be larger than memory: use `view`."""
        artifact = self._artifact(kind)
        unknown = [name for name in names or () if name not in artifact.table]
        if unknown:
            raise InputError(f"{artifact}: no array {unknown[0]!r}; it has {', '.join(artifact.table)}")
        return artifact.load(list(names or artifact.table))

    def view(self, name: str) -> dict[str, np.ndarray]:
        """All that the cache holds of one view, by array name; the latent regions' tokens are `latent_local`.

        global [D], local [p, D] with local_region [p] (class index), dense [h, w, D], cells [h, w] (latent id, 255 =
        none), latent_local [L, D] with latent_local_region [L]; with an affinity network
        features [h, w, C]; after mine-concepts concept, cosine and confidence [L] of latent regions. Raises InputError
        for an id that is not there.
        """
        found: dict[str, np.ndarray] = {}
        for kind, artifact in self._artifacts.items():
            if kind in NO_VIEWS:
                continue
            where = self._places.get(kind, {}).get(name)
            if where is None:
                raise InputError(f"{artifact}: no view {name!r}; `ids()` lists them")
            shard, row = where
            large = [array for array, spec in artifact.table.items() if spec.by_row]
            found |= {array: next(artifact.rows(shard, array, [row])) for array in large}
            arrays = artifact.read(shard, small) if (small := [a for a in artifact.table if a not in large]) else {}
            start, stop = arrays.pop("local_offsets")[row : row + 2] if "local_offsets" in arrays else (0, 0)
            for array, values in arrays.items():
                own = values[start:stop] if artifact.table[array].dims[0] == "p" else values[row]
                found[f"latent_{array}" if kind == "latent" and array.startswith("local") else array] = own
        return found

    @cached_property
    def _places(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Kind -> id of a view -> (shard, row)."""
        return {
            kind: {name: (shard, row) for shard, mark in a.marks() for row, name in enumerate(mark["ids"])}
            for kind, a in self._artifacts.items()
            if kind not in NO_VIEWS
        }

    def summary(self) -> dict[str, Any]:
        """Sizes, norms, coverage and health as JSON, as `clip2seg inspect` shows them."""
        tokens = self._artifact("tokens")
        return summarise(self._artifacts, len(tokens.ids()), tokens.provenance()["seen"])

    def _artifact(self, kind: str) -> Artifact:
        if kind not in self._artifacts:
            raise InputError(f"no artifact {kind!r} was opened; there are {', '.join(self._artifacts)}")
        return self._artifacts[kind]
