"""Reads the report of an evaluation folder."""

from __future__ import annotations

from cache.location import Location
from stages.parts.eval_report import EvalReport

REPORT = "report.json"


def read_report(at: Location) -> EvalReport | None:
    """The report of an evaluation; None where there is none. Raises InputError where it is of another version."""
    data = at.get(REPORT)
    return None if data is None else EvalReport.parse(data, f"{at}/{REPORT}")
