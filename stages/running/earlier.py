"""What earlier caches hold of the views that are to do: those of the same photo and labels are copied, not made anew.

A photo that is added to a list of a thousand so costs one photo's work. What is copied is what was committed then: the
same numbers but for the last bit, which may differ with the batch that a view was encoded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from cache.errors import InputError
from cache.store import Artifact
from cache.tiers import EarlierTiers
from stages.parts.data.views import Array
from stages.parts.teacher.crops import BadView, Known, TeacherView
from stages.running.progress import say

MAPS = {"dense": "dense", "affinity": "features"}
"""Tiers of one map a view, and the array that it is in."""
_OPEN = 8
"""Shards of small arrays kept in memory."""


def known_views(sources: Sequence[EarlierTiers], kinds: Sequence[str]) -> dict[str, list[Known]]:
    """View id -> where it is stored in the tokens and all of `kinds`, sources in order.

    A source that can't be read is left out, and said.
    """
    found: dict[str, list[Known]] = {}
    for number, source in enumerate(sources):
        tokens = source.tiers.tokens
        try:
            for shard in _whole_shards(source, kinds):
                crcs = tokens.read(shard, ["photo_crc", "labels_crc"])
                for row, view in enumerate(tokens.shard_ids(shard)):
                    labels = int(crcs["labels_crc"][row]) if source.same_seen else None
                    found.setdefault(view, []).append(Known(number, shard, row, int(crcs["photo_crc"][row]), labels))
        except InputError as error:
            say(f"not taken from an earlier cache: {error}")
    return found


def _whole_shards(source: EarlierTiers, kinds: Sequence[str]) -> list[int]:
    """The shards of a source that hold the same views in every wanted tier."""
    every = [source.tiers.by_kind()[kind] for kind in ("tokens", *kinds)]
    shards = set.intersection(*(set(artifact.committed()) for artifact in every))
    return [s for s in sorted(shards) if all(a.shard_ids(s) == every[0].shard_ids(s) for a in every)]


class Earlier:
    """Extracted views of earlier caches. `kinds`: tiers wanted beside the tokens; a view counts where all are there."""

    def __init__(self, sources: Sequence[EarlierTiers], kinds: Sequence[str]) -> None:
        self.sources, self.kinds = sources, [kind for kind in kinds if kind != "tokens"]
        self.known = known_views(sources, self.kinds)
        self._tokens = lru_cache(_OPEN)(self._read_tokens)

    def _read_tokens(self, source: int, shard: int) -> dict[str, np.ndarray]:
        return self.sources[source].tiers.tokens.read(shard, ["global", "local", "local_region", "local_offsets"])

    def regions(self, at: Known) -> tuple[list[int], np.ndarray]:
        """Classes [p] and local tokens [p, D] of a stored view."""
        arrays = self._tokens(at.source, at.shard)
        own = slice(arrays["local_offsets"][at.row], arrays["local_offsets"][at.row + 1])
        return arrays["local_region"][own].tolist(), arrays["local"][own]

    def with_regions(self, views: list[TeacherView]) -> list[TeacherView]:
        """The views with the regions of those whose regions are stored."""
        return [
            replace(v, regions=self.regions(v.known)[0])
            if v.known is not None and v.known.labels_crc is not None
            else v
            for v in views
        ]

    def filled(self, views: list[TeacherView], encoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What was encoded of the views, with what is stored of them in its places.

        encoded: `global` [m, D], maps [m, h, w, D] and `local` tokens of what is not stored; the result has a row for
        each view, and the local tokens of all of them.
        """
        if all(v.known is None for v in views):
            return dict(encoded)
        made = {name: self._rows(name, views, rows) for name, rows in encoded.items() if name != "local"}
        if "local" in encoded:
            pieces, start = [], 0
            for v in views:
                if v.known is not None and v.known.labels_crc is not None:
                    pieces.append(self.regions(v.known)[1])
                else:
                    pieces.append(encoded["local"][start : start + len(v.regions)])
                    start += len(v.regions)
            made["local"] = np.concatenate(pieces)
        return made

    def _rows(self, name: str, views: list[TeacherView], encoded: np.ndarray) -> np.ndarray:
        """One row a view of a map or global token."""
        # Where nothing was encoded, nothing but what is stored says how large a map is.
        fresh = iter(encoded)
        every = [next(fresh) if v.known is None else np.empty(encoded.shape[1:], encoded.dtype) for v in views]
        stored: dict[tuple[int, int], list[int]] = {}
        for i, v in enumerate(views):
            if v.known is not None:
                stored.setdefault(v.known[:2], []).append(i)
        for (source, shard), places in stored.items():
            rows = [known.row for i in places if (known := views[i].known) is not None]
            if name == "global":
                for i, token in zip(places, self._tokens(source, shard)["global"][rows], strict=True):
                    every[i] = token
                continue
            kind = next(kind for kind, array in MAPS.items() if array == name)
            if kind in self.kinds:  # else it is stored at its own address, and what stands here is not looked at
                artifact = self.sources[source].tiers.by_kind()[kind]
                for i, row in zip(places, artifact.rows(shard, name, rows), strict=True):
                    every[i] = row
        return np.stack(every) if every else encoded

    def one_shard(self, views: Sequence[TeacherView | BadView]) -> tuple[int, int] | None:
        """Source and shard that hold these views with their regions, in this order, and no others; None: none does."""
        places = [
            view.known[:3]
            if isinstance(view, TeacherView) and view.known is not None and view.known.labels_crc is not None
            else None
            for view in views
        ]
        if not places or places[0] is None:
            return None
        source, shard, _ = places[0]
        stored = len(self.sources[source].tiers.tokens.shard_ids(shard))
        return (source, shard) if places == [(source, shard, row) for row in range(stored)] else None

    def hand_over(self, at: tuple[int, int], out: Artifact, shard: int, photos: Sequence[int]) -> bool:
        """Commits what `one_shard` found as a shard of `out`; False where the store can't (`Artifact.take_over`)."""
        source, number = at
        stats = {"bad": [], "photos": list(photos), **({"copied": len(photos)} if out.kind == "tokens" else {})}
        return out.take_over(shard, self.sources[source].tiers.by_kind()[out.kind], number, stats)


class MinedEarlier:
    """Mined views of earlier caches of the same seen classes."""

    def __init__(self, sources: Sequence[EarlierTiers]) -> None:
        self.sources, self.known = sources, known_views(sources, ("latent",))
        self._latent = lru_cache(_OPEN)(self._read_latent)

    def _read_latent(self, source: int, shard: int) -> dict[str, np.ndarray]:
        return self.sources[source].tiers.latent.read(shard)

    def of(self, tokens: Artifact, shard: int) -> list[Known | None]:
        """For each view of a shard of `tokens` where it was mined from the same photo and labels; None: nowhere."""
        ids = tokens.shard_ids(shard)
        if not self.known:
            return [None] * len(ids)
        crcs = tokens.read(shard, ["photo_crc", "labels_crc"])
        made_of = zip(crcs["photo_crc"].tolist(), crcs["labels_crc"].tolist(), strict=True)
        return [
            next((k for k in self.known.get(view, ()) if (k.photo_crc, k.labels_crc) == crc), None)
            for view, crc in zip(ids, made_of, strict=True)
        ]

    def view(self, at: Known) -> tuple[Array, list[int], np.ndarray]:
        """Cells uint8 [h, w], latent ids [p] and local tokens [p, D] of a mined view."""
        arrays = self._latent(at.source, at.shard)
        own = slice(arrays["local_offsets"][at.row], arrays["local_offsets"][at.row + 1])
        return arrays["cells"][at.row], arrays["local_region"][own].tolist(), arrays["local"][own]


def check_same_photos(artifact: Artifact, shard: int, ids: Sequence[str], photos: Sequence[int]) -> None:
    """Raises InputError where a shard that is there already was made of other photos than a tier beside it now is."""
    mark = artifact.commit(shard)
    before = mark["stats"].get("photos") if mark else None
    if before is None or before == list(photos):
        return
    view = next((v for v, old, new in zip(ids, before, photos, strict=False) if old != new), ids[0] if ids else "?")
    raise InputError(
        f"{artifact}: the photo of view {view} is not the one that it was made of; put that one back, or move it away "
        "and run `clip2seg extract` again"
    )
