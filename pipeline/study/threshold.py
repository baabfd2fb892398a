"""`clip2seg calibrate --keep 95`: the threshold of "none of these", fitted on labels of seen classes alone.

Below it a pixel belongs to none of the names that were offered (`predict --threshold`). It is read off training photos:
the highest score that still keeps so many of the pixels of seen classes. No label of an unseen class is read for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache.errors import InputError
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.text import columns
from stages.parts.eval_report import RiskPoint

FITTED, JUDGED = "training photos, seen classes", "evaluation photos, all classes"


def fit(plan: Plan, machine: Machine, keep: float) -> dict[str, RiskPoint]:
    """What the threshold keeps of the photos that it was fitted on, and of the evaluation photos.

    `keep`: share [%] of the labelled pixels of seen classes. Raises InputError where it is none, or none is labelled.
    """
    if not 0 < keep <= 100:
        raise InputError(f"--keep {keep:g}: give a share in per cent, above 0 and at most 100")
    run.draw_world(plan)
    from stages.running.scoring.threshold import fitting_photos

    photos = fitting_photos(plan.train_data)
    fitted = score.risk_curve(plan, machine, photos, "seen")
    point = fitted.keeping(keep)
    if point is None:
        raise InputError(f"preset {plan.name}: no labelled pixel in {len(photos)} training photos; label some")
    judged = score.risk_curve(plan, machine, plan.val_data, "all").at(point.threshold)
    return {FITTED: point, **({JUDGED: judged} if judged else {})}


def as_json(found: Mapping[str, RiskPoint]) -> dict[str, Any]:
    """The threshold and what it keeps, in per cent."""
    rows = {name: point.model_dump(mode="json") for name, point in found.items()}
    return {"threshold": found[FITTED].threshold, "rows": rows}


def as_text(plan: Plan, keep: float, found: Mapping[str, RiskPoint]) -> str:
    """The threshold, and what it keeps."""
    rows: list[list[object]] = [["in per cent", "labelled, kept", "of them wrong", "unlabelled, kept"]]
    rows += [[label, p.coverage, p.risk, p.unlabelled] for label, p in found.items()]
    threshold = f"{found[FITTED].threshold:.6g}"
    predict = plan.scoring.as_predict(plan.config.views.size)
    return (
        f"{plan.name}: threshold {threshold} keeps {keep:g} % of the labelled pixels of seen classes\n\n"
        f"{columns(rows)}\n\n"
        f"Use it: {predict} --threshold {threshold}; with a background in the masks, eval --set eval.background=true "
        f"--set eval.background_threshold={threshold}"
    )
