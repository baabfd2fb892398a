"""Reads the report of an evaluation folder."""

from __future__ import annotations

from cache.location import Location
from stages.parts.eval_report import EvalReport

REPORT = "report.json"


def read_report(at: Location) -> EvalReport | None:
    """The report of an evaluation; None where there is none. Raises InputError where it is of another version."""
    found = at.get_mark(REPORT)
    return None if found is None else EvalReport.parse(found, f"{at}/{REPORT}")
