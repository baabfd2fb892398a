"""What a cache says of itself: provenance, coverage, sizes, norms, health, latent classes. No torch, no images.

Reads commit marks and the small arrays; of a large cache only evenly spaced shards, as the result states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.store import Artifact

SHARDS = 32
"""Most shards whose tokens are read for norms and health: 4,096 views of the default size."""
DENSE_ROWS = 16
"""Most dense maps that are read (1 MiB each at 32x32x512)."""


def summarise(tiers: Mapping[str, Artifact], wanted: int, seen: Sequence[str]) -> dict[str, Any]:
    """Everything about the artifacts of one configuration, as JSON; works while stages are still writing.

    `tiers`: kind -> artifact (tokens, text, and where there are such latent, dense); `wanted`: views that the data
    set asks for; `seen`: names of the seen classes. Raises InputError where there are no tokens.
    """
    provenance = tiers["tokens"].provenance()
    found = {kind: _tier(artifact) for kind, artifact in tiers.items()}
    shards = tiers["tokens"].committed()
    read = even(shards, SHARDS)
    summary: dict[str, Any] = {
        "provenance": {k: v for k, v in provenance.items() if k not in ("schema", "kind")},
        "tiers": found,
        "views": {"wanted": wanted, "stored": found["tokens"]["views"], "read": _views(tiers["tokens"], read)},
        "bad": [b for _, mark in tiers["tokens"].marks(shards) for b in mark["stats"].get("bad", [])],
    }
    if read:
        summary |= _tokens(tiers["tokens"], read, seen)
    if "dense" in tiers and found["dense"]["views"]:
        summary["norms"]["dense"] = _dense(tiers["dense"])
    if "latent" in tiers and found["latent"]["views"]:
        mined, norms = _latent(tiers["latent"])
        summary["latent"] = mined
        summary["norms"]["latent"] = norms
    if found.get("text", {}).get("shards"):
        summary["names"] = _names(tiers["text"])
    return summary


def _tier(artifact: Artifact) -> dict[str, Any]:
    """State, views, shards, bytes and time of one artifact."""
    shards, views, stored = artifact.committed(), 0, 0
    for _, mark in artifact.marks(shards):
        views, stored = views + len(mark["ids"]), stored + sum(size for size, _ in mark["objects"].values())
    done = artifact.summary() is not None
    state = "complete" if done else "dropped" if artifact.dropped() else "begun" if shards else "missing"
    return {
        "address": str(artifact),
        "state": state,
        "shards": len(shards),
        "views": views,
        "bytes": stored,
        "finished": artifact.at.modified("complete.json") if done else None,
    }


def _tokens(tokens: Artifact, shards: Sequence[int], seen: Sequence[str]) -> dict[str, Any]:
    parts = [tokens.read(s, ["global", "local", "local_region", "local_offsets"]) for s in shards]
    ids = [i for s in shards for i in tokens.shard_ids(s)]
    whole, local = (np.concatenate([p[name] for p in parts]) for name in ("global", "local"))
    per_view = np.concatenate([np.diff(p["local_offsets"]) for p in parts])
    counts = np.bincount(np.concatenate([p["local_region"] for p in parts]), minlength=len(seen))
    return {
        "norms": {"global": _norms(whole), "local": _norms(local)},
        "copies": _copies(whole, ids),
        "regions": {
            "per_view": round(float(per_view.mean()), 2) if len(per_view) else 0.0,
            "views_without": int((per_view == 0).sum()),
            "per_class": {name: int(n) for name, n in zip(seen, counts, strict=False)},
        },
    }


def _norms(tokens: np.ndarray) -> dict[str, Any]:
    """Norms and faults of tokens [n, D]."""
    norms = np.linalg.norm(tokens.astype(np.float32), axis=-1).reshape(-1)
    good = norms[np.isfinite(norms)]
    unit = tokens.reshape(-1, tokens.shape[-1]).astype(np.float32)[np.isfinite(norms) & (norms > 0)]
    mean = (unit / np.linalg.norm(unit, axis=-1, keepdims=True)).mean(axis=0) if len(unit) else np.zeros(1)
    return {
        "count": len(norms),
        "mean": _rounded(good.mean() if good.size else 0.0),
        "sd": _rounded(good.std() if good.size else 0.0),
        "least": _rounded(good.min() if good.size else 0.0),
        "greatest": _rounded(good.max() if good.size else 0.0),
        # The squared length of the mean unit vector is the mean cosine of two tokens drawn at random.
        "mean_cosine": _rounded(float(mean @ mean)),
        "not_finite": int((~np.isfinite(norms)).sum()),
        "zero": int((norms == 0).sum()),
    }


def _copies(tokens: np.ndarray, ids: Sequence[str]) -> list[list[str]]:
    """Groups of views whose global tokens are the same, byte for byte."""
    groups: dict[bytes, list[str]] = {}
    for row, name in zip(tokens, ids, strict=True):
        groups.setdefault(row.tobytes(), []).append(name)
    return [g for g in groups.values() if len(g) > 1]


def _dense(dense: Artifact) -> dict[str, Any]:
    shards = even(dense.committed(), DENSE_ROWS)
    return _norms(np.stack([next(dense.rows(s, "dense", [0])) for s in shards]))


def _latent(latent: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """Latent classes per view (all views, from the commit marks); size of regions and norms (shards read)."""
    stats = [mark["stats"] for _, mark in latent.marks(latent.committed())]
    classes = np.array([c for s in stats for c in s["classes"]], int)
    free = sum(s["unannotated_cells"] for s in stats)
    parts = [latent.read(s, ["cells", "local"]) for s in even(latent.committed(), SHARDS)]
    cells = np.concatenate([p["cells"] for p in parts])
    sizes = np.concatenate([np.bincount(c.reshape(-1), minlength=256)[:255] for c in cells])
    mined = {
        "per_view": per_view(latent),
        "median": float(np.median(classes)),
        "mean": round(float(classes.mean()), 2),
        "covered_share": round(sum(s["covered_cells"] for s in stats) / max(free, 1), 4),
        "unannotated_share": round(free / max(len(classes) * cells[0].size, 1), 4),
        "median_cells": float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 0.0,
        "grid": list(cells.shape[1:]),
    }
    return mined, _norms(np.concatenate([p["local"] for p in parts]))


def per_view(latent: Artifact) -> dict[str, int]:
    """Latent classes of a view -> views that have so many, from the commit marks of all shards."""
    classes = [c for _, mark in latent.marks(latent.committed()) for c in mark["stats"]["classes"]]
    return {str(k): int(n) for k, n in enumerate(np.bincount(np.array(classes, int))) if n}


def _names(text: Artifact) -> dict[str, Any]:
    """How alike the text embeddings of the class names are: the two nearest tell what the teacher can't separate."""
    arrays = text.read(0)
    every = np.concatenate([arrays["seen"], arrays["unseen"]])
    cosine = every @ every.T
    off = cosine[~np.eye(len(every), dtype=bool)]
    np.fill_diagonal(cosine, -2)
    first, second = np.unravel_index(int(cosine.argmax()), cosine.shape)
    return {
        "count": len(every),
        "not_finite": int((~np.isfinite(every).all(axis=1)).sum()),
        "mean_cosine": _rounded(off.mean() if off.size else 1.0),
        "nearest": [int(first), int(second), _rounded(cosine[first, second])],
    }


def _views(artifact: Artifact, shards: Sequence[int]) -> int:
    return sum(len(artifact.shard_ids(s)) for s in shards)


def even(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of `items`, evenly spread."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the places 0..count-1, evenly spread, the first and the last among them."""
    found: list[int] = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return found


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
