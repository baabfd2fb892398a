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


class EvalReport(Means):
    """Scores of one network on one list of images.

    `scored`: "student" or "teacher, training-free"; `bad`: images left out, and why; `pictures`: those drawn, best and
    worst, with their mean IoU; `run` and `about`: the student's folder and what its file says; `recipe`: how the
    teacher's dense tokens were taken; `on`: the preset whose images and names these are, where it is not the run's;
    `risk`: None where no pixel has a label, and in reports that are older than it.
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
