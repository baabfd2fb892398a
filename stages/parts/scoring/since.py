"""What became of the classes of a run that another one started from: old ones, those with new labels, unseen ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from stages.parts.eval_report import EvalReport


class Change(BaseModel):
    """Mean IoU [%] of some classes in the run that was first (`before`) and in the later one (`after`).

    None where none of them has a score there. A class that one of the two lacks, or gives no score, counts in neither
    mean, unless the first has none of them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    classes: tuple[str, ...]
    before: float | None
    after: float | None


def changes(before: EvalReport, after: EvalReport) -> list[Change]:
    """The classes that both had labels of, those that only the later one has, and those still unseen, if there are."""
    first = {c.name: c for c in before.classes}
    groups: dict[str, list[str]] = {"labelled before": [], "labels are new": [], "still unseen": []}
    for c in after.classes:
        old = first.get(c.name)
        groups["still unseen" if not c.seen else "labelled before" if old and old.seen else "labels are new"].append(
            c.name
        )
    return [_change(name, own, before, after) for name, own in groups.items() if own]


def _change(name: str, classes: Sequence[str], before: EvalReport, after: EvalReport) -> Change:
    then, now = ({c.name: c.IoU for c in r.classes if c.name in classes and c.IoU is not None} for r in (before, after))
    both = then.keys() & now.keys() or now.keys()
    return Change(name=name, classes=tuple(classes), before=_mean(then, both), after=_mean(now, both))


def _mean(scores: Mapping[str, float], names: Iterable[str]) -> float | None:
    own = [scores[name] for name in names if name in scores]
    return round(statistics.fmean(own), 2) if own else None
