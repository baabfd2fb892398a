"""Reads what an evaluation left in its folder: the report, and the scores over the seen bias."""

from __future__ import annotations

import math
from typing import Any

from cache.location import Location
from stages.parts.eval_report import EvalReport

REPORT = "report.json"
BIASES = "bias_curve.json"
"""Scores of the same student had another seen bias been set: `bias`, and hIoU, sIoU and uIoU in per cent."""


def read_report(at: Location) -> EvalReport | None:
    """The report of an evaluation; None where there is none. Raises InputError where it is of another version."""
    found = at.get_mark(REPORT)
    return None if found is None else EvalReport.parse(found, f"{at}/{REPORT}")


def read_biases(at: Location) -> list[dict[str, float]]:
    """The scores over the seen bias, by bias; none where there are none. They are only shown, never computed with."""
    points = (at.get_mark(BIASES) or {}).get("points")
    found = [p for p in points if _is_point(p)] if isinstance(points, list) else []
    return sorted(found, key=lambda p: p["bias"])


def _is_point(point: Any) -> bool:
    wanted = ("bias", "hIoU", "sIoU", "uIoU")
    values = [point.get(key) for key in wanted] if isinstance(point, dict) else [None]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
