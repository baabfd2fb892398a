"""The threshold of "none of these": what scores keep, and the one that the background is scored at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cache.errors import InputError
from cache.settings import IGNORE, ignore_index
from cache.summary import spread
from stages.parts.data.datasets import BadSample, Dataset, Quarantine, Which
from stages.parts.learning.distributed import all_gather_list, all_reduce_sum
from stages.parts.processes import rank_and_world
from stages.parts.scoring.inference import Scorer
from stages.parts.scoring.risk import RiskCurve
from stages.parts.settings import EvaluateConfig
from stages.running.compute import Compute
from stages.running.scoring.pairs import each_scored

FITTED_ON = 200
"""Most training photos that a threshold is fitted on."""


def fitting_photos(data: Dataset) -> Dataset:
    """The training photos that a threshold is fitted on, evenly drawn from those whose masks are read."""
    read = [record for record in data.records if record.id not in data.unlabelled]
    return replace(data, records=[read[i] for i in spread(len(read), FITTED_ON)])


def alpha_of(about: Mapping[str, Any]) -> float | None:
    """The factor that a student's scores were trained with; None for a teacher's."""
    if "about" not in about:
        return None
    ingredients = about["about"].get("provenance", {}).get("ingredients", {})
    return float(ingredients.get("pixel-loss", {}).get("alpha", 1.0))


def risk_curve(
    cfg: EvaluateConfig,
    data: Dataset,
    which: Which,
    scorer: Scorer,
    alpha: float | None,
    compute: Compute,
    quarantine: Quarantine | None = None,
) -> RiskCurve:
    """Risk-coverage on the labels `which` of a data set. Raises InputError as `each_scored` does."""
    every = len(data.vocabulary.ordered)
    curve = RiskCurve(every, alpha, compute.device)
    for found, labels in each_scored(cfg, data, which, scorer, compute, quarantine):
        known = labels
        if which == "seen":  # these have 8 bits whatever all classes need
            known = np.where(labels == IGNORE, ignore_index(every), labels.astype(np.int32))
        curve.add(found, torch.from_numpy(known).to(compute.device))
    return curve


def background_threshold(
    cfg: EvaluateConfig, train: Dataset | None, scorer: Scorer, alpha: float | None, compute: Compute
) -> tuple[float, float | None]:
    """The threshold (a sigmoid) below which a pixel is background, and the share of seen pixels [%] it was fitted to
    keep. The processes of a group divide the photos, and all have the same threshold.

    Raises InputError where there is nothing to fit it on, or for more bad photos than data.max_bad.
    """
    if cfg.background_threshold:
        return cfg.background_threshold, None
    photos = None if train is None else fitting_photos(train)
    point = None
    if photos is not None and len(photos):  # what extract and train left out, they leave out here too
        rank, world = rank_and_world()
        own, bad = replace(photos, records=photos.records[rank::world]), Quarantine(photos.cfg.max_bad)
        curve = risk_curve(cfg, own, "seen", scorer, alpha, compute, bad)
        every = Quarantine(photos.cfg.max_bad)
        for error in sorted(all_gather_list(bad.bad)):
            every.add(BadSample(error))
        curve.add_up(all_reduce_sum)
        point = curve.keeping(cfg.background_keep)
    if point is None:
        raise InputError(
            "eval.background: there is no labelled pixel of a seen class in training photos to fit the threshold on; "
            "give one, eval.background_threshold = 0.3 say"
        )
    return point.threshold, cfg.background_keep
