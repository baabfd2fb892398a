"""The evaluation report: report.json of an evaluation, with fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cache.errors import InputError
from stages.parts.settings import EvaluateConfig


class Means(BaseModel):
    """Means over classes in per cent, rounded to two decimals; None where no class counts."""

    model_config = ConfigDict(frozen=True)

    sIoU: float | None
    uIoU: float | None
    hIoU: float | None
    pixel_accuracy: float | None


class SupportedMeans(Means):
    """Means over the classes with at least `min_pixels` evaluation pixels, `counted`."""

    min_pixels: int
    counted: tuple[str, ...]


class ClassScore(BaseModel):
    """One class: IoU in per cent, its evaluation pixels, and whether there is any (`support`)."""

    model_config = ConfigDict(frozen=True)

    name: str
    seen: bool
    IoU: float | None
    pixels: int
    support: bool


class RiskPoint(BaseModel):
    """What a threshold on the best class's score keeps, in per cent.

    `threshold`: a sigmoid, as `predict --threshold`; `coverage`: of the labelled pixels; `risk`: of those kept that are
    wrong; `unlabelled`: of the pixels without a label, None where all have one.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    coverage: float
    risk: float
    unlabelled: float | None


class Risk(BaseModel):
    """Risk-coverage, from all pixels to the surest; `aurc`: mean risk over all coverages, the lower the better."""

    model_config = ConfigDict(frozen=True)

    aurc: float
    points: tuple[RiskPoint, ...]


class BackgroundPoint(BaseModel):
    """Scores in per cent with the background as a class, where it is what scores below `threshold` (a sigmoid).

    `mIoU`: over all classes and the background; `IoU`: the background's own.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    mIoU: float
    IoU: float | None


class Background(BackgroundPoint):
    """The data set's form with its background, `VOC-21`, at one threshold.

    `kept`: the share of the pixels of seen classes in training photos [%] that the threshold was fitted to keep, None
    where it was given; `best`: where the mIoU is largest, read off the evaluation labels; `points`: the curve, from all
    pixels of classes kept to the surest.
    """

    form: str
    kept: float | None
    best: BackgroundPoint
    points: tuple[BackgroundPoint, ...]


class EvalReport(Means):
    """Scores of one network on one list of images.

    `scored`: "student" or "teacher, training-free"; `bad`: images left out, and why; `pictures`: those drawn, best and
    worst, with their mean IoU; `run` and `about`: the student's folder and what its file says; `recipe`: how the
    teacher's dense tokens were taken; `on`: the preset whose images and names these are, where it is not the run's;
    `risk`: None where no pixel has a label, and in reports that are older than it; `background`: None where it was not
    scored (`eval.background`).
    """

    scored: str
    data: str
    split: str
    split_hash: str
    images: int
    bad: tuple[str, ...]
    classes: tuple[ClassScore, ...]
    supported: SupportedMeans
    settings: EvaluateConfig
    images_per_second: float
    pictures: dict[str, tuple[tuple[str, float], ...]]
    run: str = ""
    about: dict[str, Any] = {}
    recipe: str = ""
    on: str = ""
    risk: Risk | None = None
    background: Background | None = None

    @property
    def summary(self) -> dict[str, float | None]:
        """The three means that every command gives."""
        return {"sIoU": self.sIoU, "uIoU": self.uIoU, "hIoU": self.hIoU}

    @classmethod
    def parse(cls, found: Mapping[str, Any], where: str) -> Self:
        """The report in a file's JSON. Raises InputError that names `where` for anything else."""
        try:
            return cls.model_validate_json(json.dumps(found))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "JSON"
            raise InputError(
                f"{where}: no report of this version ({name}: {first['msg'].lower()}); run `clip2seg eval` again"
            ) from error
