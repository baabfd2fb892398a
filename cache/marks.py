"""What a mark may say: types and bounds, looked at before anything is opened, allocated or believed.

A seal shows that a mark is what somebody wrote, not that it makes sense: anyone can seal. Pure checks, no I/O.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.schema import ARTIFACTS, TOKEN

MARK_BYTES = 2**25
"""Most bytes of a mark that are read: ids of a shard of half a million views."""
SHARDS = 2**22
"""Most shards of an artifact."""
ARRAY_BYTES = 2**32
"""Most bytes of one array of one shard, in memory."""
SPARSE_BYTES = 2**26
"""Most bytes of one array of which less than a quarter is stored; zarr leaves out what is nothing but zeros."""
AXIS = 2**24
"""Longest axis of an array."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPES = ("float16", "float32")


class MarkError(ValueError):
    """A mark says what can't be; the message tells which entry and why."""


def strict_json(data: bytes | str) -> Any:
    """JSON without NaN and Infinity. Raises ValueError, also for nesting without end."""
    try:
        return json.loads(data, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("nested without end") from error


def check_root(root: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The attributes of a root mark that is one. Raises MarkError."""
    attributes = root.get("attributes")
    _want(isinstance(attributes, dict), "attributes", "no table")
    assert isinstance(attributes, dict)
    if not isinstance(attributes.get("schema"), int):
        return attributes  # of another version: `check_version` says so
    _want(attributes.get("kind", kind) == kind, "kind", f"{attributes.get('kind')!r}, not {kind!r}")
    _want(attributes.get("dtype") in _TYPES, "dtype", "not float16 or float32")
    for name in ("ingredients", "teacher", "versions"):
        _want(isinstance(attributes.get(name, {}), dict), name, "no table")
    for name in ("stage", "fingerprint", "split", "split_hash"):
        _want(isinstance(attributes.get(name, ""), str), name, "no text")
    _want(all(isinstance(v, str) for v in attributes.get("teacher", {}).values()), "teacher", "no texts")
    if kind == "text":
        made_from = attributes.get("ingredients", {})
        _want(_texts(made_from.get("classes", [])), "ingredients.classes", "no list of names")
        _want(_count(made_from.get("seen", 0)), "ingredients.seen", "no count")
    _want(_texts(attributes.get("seen")) and len(attributes["seen"]) < 255, "seen", "no list of names")
    return attributes


def check_commit(mark: Mapping[str, Any], kind: str) -> None:
    """A shard's commit mark: ids, objects of the schema's own names, statistics. Raises MarkError."""
    ids, objects, stats = mark.get("ids"), mark.get("objects"), mark.get("stats")
    _want(_texts(ids), "ids", "no list of names")
    _want(isinstance(objects, dict), "objects", "no table")
    _want(isinstance(stats, dict), "stats", "no table")
    assert isinstance(objects, dict) and isinstance(stats, dict)
    own = "|".join(map(re.escape, ARTIFACTS[kind]))
    allowed = re.compile(rf"zarr\.json|({own})/zarr\.json|({own})/c(/\d{{1,8}}){{1,4}}")
    for name, entry in objects.items():
        _want(allowed.fullmatch(name) is not None, f"object {name!r}", "not one that the schema names")
        sized = isinstance(entry, list) and len(entry) == 2 and _count(entry[0]) and entry[0] <= 2 * ARRAY_BYTES
        hashed = sized and isinstance(entry[1], str) and _DIGEST.fullmatch(entry[1])
        _want(bool(hashed), f"object {name!r}", "no size and sha256")
    for name in ("zarr.json", *(f"{array}/zarr.json" for array in ARTIFACTS[kind])):
        _want(name in objects, f"object {name!r}", "missing")
    _stats(kind, stats, len(ids or []))


def _stats(kind: str, stats: Mapping[str, Any], views: int) -> None:
    if kind in ("tokens", "dense"):
        _want(_texts(stats.get("bad", [])), "stats.bad", "no list of lines")
        _want(_count(stats.get("regions", 0)), "stats.regions", "no count")
        _want(_bytes(stats.get("classes", [])), "stats.classes", "no list of class indices")
    if kind == "pseudo":
        cells = stats.get("cells", [])
        _want(isinstance(cells, list) and all(map(_count, cells)), "stats.cells", "no count for each class")
        _want(_count(stats.get("all_cells", 0)), "stats.all_cells", "no count")
    if kind == "membership":
        _want(_count(stats.get("regions", 0)), "stats.regions", "no count")
    if kind == "latent":
        classes = stats.get("classes", [])
        _want(_bytes(classes) and len(classes) in (0, views), "stats.classes", "no count for each view")
        for name in ("unannotated_cells", "covered_cells"):
            _want(_count(stats.get(name, 0)), f"stats.{name}", "no count")
        seconds = stats.get("faiss_seconds", 0.0)
        _want(isinstance(seconds, (int, float)) and math.isfinite(seconds), "stats.faiss_seconds", "no number")


def check_complete(mark: Mapping[str, Any]) -> None:
    """A complete mark: how many shards there are, and a summary. Raises MarkError."""
    _want(_count(mark.get("shards")) and mark["shards"] <= SHARDS, "shards", f"not a count up to {SHARDS}")
    _want(isinstance(mark.get("summary"), dict), "summary", "no table")


def check_array(kind: str, name: str, data: bytes, token_dtype: str, ids: int, stored: int) -> tuple[int, ...]:
    """The shape in an array's zarr.json that is exactly what the schema's writer makes. Raises MarkError.

    kind, name: of the schema. token_dtype: of the artifact. ids: views of the shard. stored: bytes of the array's
    objects, as committed. Element type, chunks, codecs and fill value are compared with the writer's own, so that
    no other codec runs; the memory that the array takes is bounded by what is stored.
    """
    spec = ARTIFACTS[kind][name]
    try:
        about = strict_json(data)
    except ValueError as error:
        raise MarkError(f"{name}/zarr.json: no JSON ({error})") from error
    _want(isinstance(about, dict), name, "its metadata is no table")
    shape = about.get("shape")
    whole = isinstance(shape, list) and len(shape) == len(spec.dims) and all(_count(s) and s <= AXIS for s in shape)
    _want(whole, f"{name}.shape", f"{str(shape)[:60]} is not {' x '.join(spec.dims)}")
    assert isinstance(shape, list)
    for symbol, size in zip(spec.dims, shape, strict=True):
        wanted = {"n": ids, "n+1": ids + 1, "2": 2}.get(symbol, size)
        _want(size == wanted, f"{name}.shape", f"axis {symbol} has {size}, {wanted} wanted")
    dtype = np.dtype(token_dtype if spec.dtype == TOKEN else spec.dtype)
    taken = math.prod(shape) * dtype.itemsize
    _want(taken <= ARRAY_BYTES, f"{name}.shape", f"takes {taken} bytes, more than {ARRAY_BYTES}")
    _want(taken <= max(SPARSE_BYTES, 4 * stored), f"{name}.shape", f"takes {taken} bytes, {stored} are stored")
    for key, value in metadata(shape, dtype, by_row=spec.by_row).items():
        _want(about.get(key) == value, f"{name}.{key}", f"{str(about.get(key))[:80]} is not the schema's")
    extra = {k: v for k, v in about.items() if v and k not in metadata(shape, dtype, by_row=spec.by_row)}
    _want(not extra, name, f"its metadata has {', '.join(sorted(extra))[:80]} besides")
    return tuple(shape)


def metadata(shape: list[int], dtype: np.dtype[Any], *, by_row: bool) -> dict[str, Any]:
    """The zarr v3 metadata of an array as `Artifact.write` makes it."""
    whole = [max(1, size) for size in shape]
    plain = {"name": "bytes", "configuration": {"endian": "little"}} if dtype.itemsize > 1 else {"name": "bytes"}
    codecs: list[dict[str, Any]] = [plain, {"name": "crc32c"}]
    if by_row:
        inner = {
            "chunk_shape": [1, *whole[1:]],
            "codecs": codecs,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": whole}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
    }


def check_group(data: bytes) -> None:
    """A shard's own zarr.json: a bare zarr v3 group, nothing consolidated. Raises MarkError."""
    try:
        about = strict_json(data)
    except ValueError as error:
        raise MarkError(f"zarr.json: no JSON ({error})") from error
    bare = isinstance(about, dict) and {k: v for k, v in about.items() if v} == {"zarr_format": 3, "node_type": "group"}
    _want(bare, "zarr.json", "no bare zarr v3 group")


def check_values(kind: str, arrays: Mapping[str, np.ndarray], seen: int) -> None:
    """Offsets and region ids that index what they should. Raises MarkError.

    arrays: any of a shard's. seen: K_s; token regions of `tokens` name seen classes only.
    """
    offsets = arrays.get("local_offsets")
    if offsets is not None:
        _want(int(offsets[0]) == 0 and bool((np.diff(offsets) >= 0).all()), "local_offsets", "they don't rise from 0")
        for name in ("local", "local_region", "concept"):
            if name in arrays:
                _want(int(offsets[-1]) == len(arrays[name]), "local_offsets", f"they don't end with {name}")
    regions = arrays.get("local_region")
    if regions is not None and regions.size:
        most = seen if kind == "tokens" else 255 - seen
        _want(int(regions.max()) < most, "local_region", f"{int(regions.max())} is not one of {most} regions")


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _want(fine: bool, entry: str, why: str) -> None:
    if not fine:
        raise MarkError(f"{entry}: {why}")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _bytes(value: Any) -> bool:
    return isinstance(value, list) and all(_count(one) and one < 256 for one in value)
