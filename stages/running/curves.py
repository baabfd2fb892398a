"""Loss curves: one JSON object a line, appended by training, read back by whoever shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from cache.location import Location
from cache.marks import strict_json

NAME = "curves.jsonl"
"""The file's name in a run."""


def curves_bytes(points: Iterable[Mapping[str, float]]) -> bytes:
    """Points as the file's bytes."""
    return "".join(json.dumps(point) + "\n" for point in points).encode()


def curves_at(run: Location) -> list[dict[str, float]]:
    """The points of a run, by iteration; a line that is none is left out: they are only shown, never computed with."""
    lines = (run.get(NAME) or b"").splitlines()
    points = [point for line in lines if (point := _point(line)) is not None]
    return sorted(points, key=lambda point: point["iteration"])


def _point(line: bytes) -> dict[str, float] | None:
    try:
        found: Any = strict_json(line.decode())
    except ValueError:
        return None
    if not isinstance(found, dict) or not {"iteration", "lr", "total"} <= found.keys():
        return None
    fine = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in found.values())
    return found if fine else None
