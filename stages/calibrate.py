"""calibrate: what another seen bias, or a threshold, would make of a trained student; a pass each, nothing is written.

method.md section 7: `BiasCurve` and `RiskCurve` count every bias and every threshold at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.datasets import Dataset, Which
from stages.parts.scoring.bias_curve import BiasCurve, Point, biases_of
from stages.parts.scoring.risk import RiskCurve
from stages.parts.settings import EvaluateConfig
from stages.running.compute import Compute
from stages.running.scoring.pairs import each_scored
from stages.running.scoring.student import class_scorer, load_student
from stages.running.scoring.threshold import alpha_of, risk_curve


def run_curve(
    cfg: EvaluateConfig,
    data: Dataset,
    text: Artifact,
    run_at: Location,
    also: Sequence[float] = (),
    *,
    compute: Compute,
) -> list[Point]:
    """The student's scores over the seen bias, from one pass; writes nothing. `cfg.seen_bias` is left out of it.

    The biases are evenly spaced, 0 in the middle, as far as the scores reach, and those of `also`.

    Raises InputError for a bad sample: a curve of some of the images would be compared with scores of all.
    """
    checkpoint = load_student(run_at)
    scorer = class_scorer(checkpoint, text, data.vocabulary, cfg, str(run_at), compute.device)
    seen, every = len(data.vocabulary.seen), len(data.vocabulary.ordered)
    if seen == every:
        raise InputError(f"split {data.vocabulary.split!r} has no unseen class: there is nothing to calibrate")
    curve: BiasCurve | None = None
    plain = cfg.model_copy(update={"seen_bias": 0.0})
    for found, labels in each_scored(plain, data, "all", scorer, compute):
        if curve is None:
            curve = BiasCurve(np.union1d(biases_of(found, seen), np.array(also)), seen, every, compute.device)
        curve.add(found, torch.from_numpy(labels).to(compute.device))
    assert curve is not None  # an empty list of images is refused where it is opened
    return curve.points()


def run_risk(
    cfg: EvaluateConfig, data: Dataset, text: Artifact, run_at: Location, which: Which, *, compute: Compute
) -> RiskCurve:
    """Risk-coverage of the student on the labels `which` of a data set, from one pass; writes nothing.

    Raises InputError for a bad sample.
    """
    checkpoint = load_student(run_at)
    scorer = class_scorer(checkpoint, text, data.vocabulary, cfg, str(run_at), compute.device)
    return risk_curve(cfg, data, which, scorer, alpha_of({"about": checkpoint.about}), compute)
