"""The one table of what the cache holds. Writer, reader, inspection, documentation and tests read this table.

An artifact is a zarr v3 group cut into shards: `shards/00017/<array>`. A shard is the unit of writing (one
writer, committed as a whole), a chunk the unit of reading. Ragged data are flat values plus offsets.
Shape symbols: n views of the shard, p regions of the shard (flat), h w token grid, D embedding size,
C channels of the second network,
K_s seen and K_u unseen classes, K_c concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache.errors import InputError

SCHEMA = 2
"""Version of everything below. A cache of another version is refused, never converted."""

TOKEN = "token"
"""Stands for the stored precision of tokens (`extract.dtype`: float16 or float32)."""


@dataclass(frozen=True)
class Array:
    """One array of a shard: element type, shape in symbols, meaning; `by_row` arrays are read row by row."""

    dtype: str
    dims: tuple[str, ...]
    about: str
    by_row: bool = False


ARTIFACTS: Mapping[str, Mapping[str, Array]] = {
    "tokens": {
        "global": Array(TOKEN, ("n", "D"), "global CLS token of each view, unnormalised"),
        "local": Array(TOKEN, ("p", "D"), "local CLS token of each present seen class, unnormalised"),
        "local_region": Array("uint8", ("p",), "class index of each local token (seen classes only)"),
        "local_offsets": Array("int64", ("n+1",), "view i owns local[offsets[i]:offsets[i+1]]"),
        "image_size": Array("int32", ("n", "2"), "height and width of the image in pixels, after EXIF rotation"),
        "view_seed": Array("uint64", ("n",), "seed that the view's geometry was drawn from (0: whole image)"),
        "labels_crc": Array("uint32", ("n",), "crc32 of the image's seen labels, so that edited masks are noticed"),
        "photo_crc": Array("uint32", ("n",), "crc32 of the photo's file, so that a replaced photo is noticed"),
    },
    "dense": {
        "dense": Array(TOKEN, ("n", "h", "w", "D"), "dense tokens of each view, unnormalised", by_row=True),
    },
    "affinity": {
        "features": Array(TOKEN, ("n", "h", "w", "C"), "feature map of each view that [affinity] names", by_row=True),
    },
    "latent": {
        "cells": Array("uint8", ("n", "h", "w"), "latent id of each cell, 0..L-1; 255 = none"),
        "local": Array(TOKEN, ("p", "D"), "local CLS token of each latent region, unnormalised"),
        "local_region": Array("uint8", ("p",), "latent id of each local token"),
        "local_offsets": Array("int64", ("n+1",), "view i owns local[offsets[i]:offsets[i+1]]"),
    },
    "concepts": {
        "centroid": Array("float32", ("K_c", "D"), "centroid of each concept in centred space, unit norm"),
        "token": Array("float32", ("K_c", "D"), "mean unit local token of each concept, not centred, unit norm"),
        "mean": Array("float32", ("D",), "mean unit local token, which centring subtracts; zeros where it does not"),
    },
    "membership": {
        "concept": Array("uint16", ("p",), "concept of each latent region, 0..K_c-1"),
        "cosine": Array("float32", ("p",), "cosine of the region's token to its concept's centroid, centred"),
        "confidence": Array("float32", ("p",), "1 - (1 - cosine) / (1 - cosine to the second nearest): 0 between two"),
        "local_offsets": Array("int64", ("n+1",), "view i owns concept[offsets[i]:offsets[i+1]], as in `latent`"),
    },
    "pseudo": {
        "labels": Array("uint8", ("n", "h", "w"), "pseudo label of each cell: class index (seen only); 255 = none"),
    },
    "text": {
        "seen": Array("float32", ("K_s", "D"), "text embeddings of the seen classes, unit norm"),
        "unseen": Array("float32", ("K_u", "D"), "the same of the unseen classes; training never reads it"),
    },
}  # fmt: skip


def check_shard(kind: str, arrays: Mapping[str, np.ndarray], token_dtype: str) -> None:
    """Refuses arrays that are not what the table says: names, element types, ranks, agreeing sizes.

    Raises ValueError: a fault of the program, not of the user.
    """
    table = ARTIFACTS[kind]
    if set(arrays) != set(table):
        raise ValueError(f"{kind}: arrays {sorted(arrays)} given, {sorted(table)} wanted")
    sizes: dict[str, int] = {}
    for name, spec in table.items():
        array, dtype = arrays[name], token_dtype if spec.dtype == TOKEN else spec.dtype
        if array.dtype != dtype or array.ndim != len(spec.dims):
            raise ValueError(f"{kind}/{name}: {array.dtype} {array.shape} given, {dtype} {spec.dims} wanted")
        for symbol, size in zip(spec.dims, array.shape, strict=True):
            base, size = ("n", size - 1) if symbol == "n+1" else (symbol, size)
            wanted = int(base) if base.isdigit() else sizes.setdefault(base, size)
            if size != wanted:
                raise ValueError(f"{kind}/{name}: axis {symbol} has {size}, {wanted} wanted")


def check_version(where: str, schema: object, rebuild: str) -> None:
    """The migration rule: another schema version is refused with the command that rebuilds it."""
    if schema != SCHEMA:
        raise InputError(
            f"{where}: cache schema {schema}, this program reads {SCHEMA}; move it away and run `{rebuild}`"
        )
