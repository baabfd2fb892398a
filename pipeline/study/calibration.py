"""`clip2seg calibrate`: a seen bias fitted without a look at an unseen label.

Generalised zero-shot methods subtract a constant from the scores of seen classes. Fitted on unseen classes it would be
fitted on what must not be known. Here some seen classes are held out: a second student is trained as if they were
unseen (an inner split) on four fifths of the training images, and on the last fifth the bias with the best hIoU between
the classes it was trained on and those held out is read off. That bias is then taken over for the real student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.summary import spread
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.text import columns
from stages.parts.data.datasets import class_statistics
from stages.parts.scoring.bias_curve import Point, at, best
from stages.parts.scoring.report import per_cent
from stages.running.progress import say

FOLD = 5
"""Every fifth training image is kept for the fit."""
SHOWN = 11
"""Points of the curve on the screen; JSON has all."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and what it gives the real student on the evaluation images."""

    held_out: tuple[str, ...]
    inner: list[Point]
    """Curve of the inner student on held-out training images: seen against held-out classes."""
    outer: list[Point]
    """Curve of the real student on the evaluation images."""

    @property
    def bias(self) -> float:
        """The fitted seen bias, in units of the scores F^T A."""
        return best(self.inner).bias

    def rows(self) -> dict[str, Point]:
        """The real student without a bias, with the fitted one, and with the one only a look at the answers gives."""
        return {
            "no seen bias": at(self.outer, 0.0),
            "fitted on held-out seen classes": at(self.outer, self.bias),
            "best in hindsight": best(self.outer),
        }


def calibrate(plan: Plan, machine: Machine, held_out: Sequence[str] = ()) -> Calibration:
    """Trains the inner student and the real one where they are missing, and reads both curves.

    `held_out`: seen class names; none: as large a share of the seen classes as unseen ones have of all, from frequent
    to rare. Raises InputError for names that are not seen classes.
    """
    run.draw_world(plan)
    names = tuple(held_out) or spread_classes(plan)
    inner = inner_plan(plan, names)
    held = ", ".join(inner.vocabulary.unseen)
    say(f"calibrate: held out {held}")
    curves: list[list[Point]] = []
    for one in (inner, plan):
        run.make_cache(one, machine)
        run.train(one, machine)
        curves.append(score.bias_curve(one, machine, [best(c).bias for c in curves]))
        if one is inner and not best(curves[0]).hiou > 0:
            raise InputError(
                f"calibrate: no bias to fit: the photos kept for it show nothing of {held}, "
                "or the student finds none of it; name other classes with --hold-out"
            )
    return Calibration(inner.vocabulary.unseen, *curves)


def inner_plan(plan: Plan, held_out: Sequence[str]) -> Plan:
    """The plan of the inner student: other seen classes, four fifths of the training images, the rest to score on."""
    data, made = plan.train_data, plan.variant()
    if len(data) < FOLD:
        raise InputError(f"{len(data)} training images: calibrate keeps every {FOLD}th to fit on; give more")
    words = data.vocabulary.inner(held_out)
    kept = [r for i, r in enumerate(data.records) if i % FOLD]
    fitted = [r for i, r in enumerate(data.records) if not i % FOLD]
    made.read_instead(
        train=replace(data, vocabulary=words, records=kept), val=replace(data, vocabulary=words, records=fitted)
    )
    return made


def spread_classes(plan: Plan) -> tuple[str, ...]:
    """Seen classes to hold out, spread from the most to the least frequent one in the training labels."""
    words = plan.vocabulary
    count = max(1, round(len(words.seen) * len(words.unseen) / len(words.ordered)))
    pixels = class_statistics(plan.train_data, "seen").pixels
    present = [i for i in np.argsort(-pixels, kind="stable") if pixels[i]]
    if len(present) <= count:
        raise InputError(f"only {len(present)} seen classes have a labelled pixel; name some with --hold-out")
    places = [int((k + 0.5) * len(present) / count) for k in range(count)]
    return tuple(words.seen[present[p]] for p in places)


def as_json(found: Calibration) -> dict[str, Any]:
    """Everything, in per cent."""
    return {
        "held_out": list(found.held_out),
        "seen_bias": round(found.bias, 6),
        "rows": {name: _percent(point) for name, point in found.rows().items()},
        "inner": [_percent(p) for p in found.inner],
        "outer": [_percent(p) for p in found.outer],
    }


def as_text(name: str, found: Calibration) -> str:
    """The fitted bias, what it gives, and the real student's curve."""
    head = ["", "seen bias", "hIoU", "sIoU", "uIoU"]
    rows = [[label, *_cells(point)] for label, point in found.rows().items()]
    curve = [_cells(found.outer[i]) for i in spread(len(found.outer), SHOWN)]
    return "\n\n".join(
        [
            f"{name}: seen bias {found.bias:.3g}, fitted with {', '.join(found.held_out)} held out",
            columns([head, *rows]),
            "The real student's curve:",
            columns([head[1:], *curve]),
            f"Use it: --set eval.seen_bias={found.bias:.3g}, or with predict --seen-bias {found.bias:.3g}",
        ]
    )


def _cells(point: Point) -> list[object]:
    return [f"{point.bias:.3g}", *(f"{100 * v:.1f}" for v in (point.hiou, point.siou, point.uiou))]


def _percent(point: Point) -> dict[str, float | None]:
    told = asdict(point)
    return {"bias": round(told.pop("bias"), 6), **{k: per_cent(v) for k, v in told.items()}}
